"""Text that every machine with Python has: the sources of its standard library, as bytes, cut into windows."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from torch.utils.data import Dataset

from casckpt.errors import CasckptError


def read_sources(limit: int) -> bytes:
    """The first `limit` bytes of the standard library's modules, in the order of their names.

    Raises:
        CasckptError: this Python came without its sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    pieces: list[bytes] = []
    held = 0
    for file in sorted(folder.glob("*.py")):
        pieces.append(file.read_bytes())
        held += len(pieces[-1])
        if held >= limit:
            break
    if held < min(limit, 100_000):
        raise CasckptError(
            f"{folder} holds no sources to train on", remedy="run the demo with a Python that has its standard library"
        )
    return b"".join(pieces)[:limit]


class Windows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Neighbouring windows of a text: `length` bytes, and the byte that follows each."""

    def __init__(self, text: bytes, length: int) -> None:
        self._text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._length = length

    def __len__(self) -> int:
        return (len(self._text) - 1) // self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = index * self._length
        window = self._text[start : start + self._length + 1].long()
        return window[:-1], window[1:]
