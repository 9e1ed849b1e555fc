"""What the warm process has imported before it is forked: all that a child may need. It must never open a store."""

import faulthandler
import sys

import numpy  # noqa: F401
import torch

import casckpt.history.fsck.check
import casckpt.history.gc
import casckpt.history.prune
import casckpt.history.recode
import casckpt.history.repack
import casckpt.store.compact
import casckpt.store.lmdb_store
import casckpt.tensors.repository
import casckpt.tensors.save  # noqa: F401

torch.set_num_threads(1)
if sys.stderr is not None:
    faulthandler.enable()
