"""casckpt: an incremental, content-addressed checkpoint store for PyTorch training, with git-like history."""
