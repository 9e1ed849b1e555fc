"""A reader of casckpt's stores, written from docs/format.md alone: it proves that the page is exact enough.

It must never import anything of casckpt, nor torch or numpy. It refuses what the page says that a reader must refuse,
and checks besides what a writer must keep to, so that the page and the code cannot drift apart.

    python -m tests.compat.reader STORE     reads and checks a store at rest, and says what is in it
"""
