"""TensorStore's OCDBT, the database under Orbax: one zarr array a tensor, versions kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.disk import sync_tree
from benchmarks.peers.peer import Peer
from benchmarks.peers.words import words
from benchmarks.states import State


class TensorStoreOcdbt(Peer):
    name = "TensorStore OCDBT"
    modules = ("tensorstore",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import tensorstore as ts

        self._context = ts.Context()  # with one each, arrays would fight over the database's root
        self._kinds: dict[str, torch.dtype] = {}

    def _spec(self, name: str) -> dict[str, Any]:
        return {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": f"file://{self.folder}/", "path": f"{name}/"},
        }

    def save(self, state: State) -> None:
        import tensorstore as ts

        pending = []
        for name, tensor in state.items():
            host = words(tensor)
            self._kinds[name] = tensor.dtype
            spec = {**self._spec(name), "metadata": {"compressor": None, "chunks": list(host.shape)}}
            pending.append(
                ts.open(spec, dtype=host.dtype, shape=host.shape, create=True, open=True, context=self._context)
            )
        writes = [array.result().write(words(tensor)) for array, tensor in zip(pending, state.values(), strict=True)]
        for write in writes:
            write.result()
        sync_tree(self.folder)

    def load(self) -> State:
        import tensorstore as ts

        arrays = {name: ts.open(self._spec(name), open=True, read=True, context=self._context) for name in self._kinds}
        reads = {name: array.result().read() for name, array in arrays.items()}
        return {name: torch.from_numpy(read.result()).view(self._kinds[name]) for name, read in reads.items()}
