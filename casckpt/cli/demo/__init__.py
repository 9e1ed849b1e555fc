"""`casckpt demo`: the store's main job on a real training run, with nothing downloaded, and each claim checked.

`story` directs and never imports torch; `acts` runs in processes of its own, one of which is killed; `report` prints.
"""
