"""torch.save and torch.load, by `weights_only`; also mapped, which reads nothing until a tensor is touched."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.peers.peer import FilePeer
from benchmarks.states import State


class TorchFiles(FilePeer):
    name = "torch.save"

    def write(self, state: State, path: Path) -> None:
        torch.save(state, path)

    def read(self, path: Path) -> State:
        return load(path)


def load(path: Path) -> State:
    """The state in a file, in memory of its own."""
    found: State = torch.load(path, weights_only=True)
    return found


def load_mapped(path: Path) -> State:
    """The state in a file that stays mapped; a copy is made of a page when it is written to."""
    found: State = torch.load(path, weights_only=True, mmap=True)
    return found


def touch(state: State) -> State:
    """Read every byte of a state, so that what is mapped is there."""
    for tensor in state.values():
        tensor.reshape(-1).view(torch.uint8).view(torch.int64).sum()
    return state
