"""PyTorch's distributed checkpoint in one process, as it documents that: `no_dist=True`, files synced by its writer."""

from __future__ import annotations

import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from benchmarks.peers.peer import FilePeer
from benchmarks.states import State

warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


class DistributedFiles(FilePeer):
    name = "DCP save"

    def write(self, state: State, path: Path) -> None:
        dcp.save(state, checkpoint_id=path, no_dist=True)

    def read(self, path: Path) -> State:
        return load(path)


def load(path: Path) -> State:
    """The state in a folder: dcp.load fills tensors, which are made here, without being touched."""
    reader = dcp.FileSystemReader(path)
    described = reader.read_metadata().state_dict_metadata
    state: State = {
        name: torch.empty(found.size, dtype=found.properties.dtype)
        for name, found in described.items()
        if isinstance(found, dcp.metadata.TensorStorageMetadata)
    }
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state


class AsyncSaver:
    """async_save. keep_stager: with a stager that keeps its memory from save to save, as casckpt's pool is kept."""

    def __init__(self, *, keep_stager: bool) -> None:
        self._stager = DefaultStager(StagingOptions(False, False, False, False)) if keep_stager else None

    def save(self, state: Any, path: Path) -> Future[Any]:
        """Returns when training may go on."""
        found = dcp.async_save(state, checkpoint_id=path, no_dist=True, async_stager=self._stager)
        assert isinstance(found, Future)
        return found

    def close(self) -> None:
        if self._stager is not None:
            self._stager.close()
