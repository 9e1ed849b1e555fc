"""safetensors' own files: a header and the bytes, no checksum."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.peers.peer import FilePeer
from benchmarks.states import State


class SafetensorsFiles(FilePeer):
    name = "safetensors"

    def write(self, state: State, path: Path) -> None:
        save_file(state, path)

    def read(self, path: Path) -> State:
        found: State = load_file(path)
        return {name: tensor.clone() for name, tensor in found.items()}


def load_mapped_file(path: Path) -> State:
    """The state as load_file gives it: tensors in the mapped file."""
    found: State = load_file(path)
    return found
