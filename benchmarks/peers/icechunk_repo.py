"""icechunk: commits of zarr arrays in a folder. One array a tensor, one chunk an array, not compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.disk import sync_tree
from benchmarks.peers.peer import Peer
from benchmarks.peers.words import words
from benchmarks.states import State


class IcechunkRepo(Peer):
    name = "icechunk"
    modules = ("icechunk", "zarr")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import icechunk

        icechunk.set_logs_filter("error")
        self._repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
        self._made = False
        self._kinds: dict[str, torch.dtype] = {}

    def save(self, state: State) -> None:
        import zarr

        session = self._repo.writable_session("main")
        group = zarr.open_group(session.store, mode="a")
        for name, tensor in state.items():
            array: Any
            if self._made:
                array = group[name]
            else:
                shape = tuple(tensor.shape)
                array = group.create_array(name, shape=shape, chunks=shape, dtype=words(tensor).dtype, compressors=None)
            array[...] = words(tensor)
            self._kinds[name] = tensor.dtype
        session.commit("next")
        self._made = True
        sync_tree(self.folder)  # its local storage does not

    def load(self) -> State:
        import zarr

        group = zarr.open_group(self._repo.readonly_session("main").store, mode="r")
        return {name: torch.from_numpy(group[name][...]).view(kind) for name, kind in self._kinds.items()}  # type: ignore[index]  # a group of arrays
