"""What is coded: the tensors of a run as the store would cut them into chunks, each with what stood there before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.coding.runs import Scale
from casckpt.limits import DEFAULT_CHUNK_SIZE
from casckpt.objects.encoding import Base
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.words import Words

ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk. base: the chunk at the same place some steps before."""

    id: bytes
    raw: memoryview
    words: Words
    base: Base | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """All chunks of one kind of tensor. run, part: where they are from. back: how many steps before the parent is."""

    run: str
    part: str
    back: int | None
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        return name_of(self.run, self.part, self.back)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(piece.raw) for piece in self.pieces)


def name_of(run: str, part: str, back: int | None) -> str:
    """As the tables have it."""
    if back is None:
        return f"{run}, {part}, {ALONE}"
    return f"{run}, {part}, {back} step{'' if back == 1 else 's'} before"


def read(run: str, file: Path, scale: Scale) -> Iterator[Stream]:
    """The streams of what a run left: each part alone, and over what it was some steps before."""
    with np.load(file) as kept:
        found = {key: kept[key] for key in kept.files}
    parts = dict.fromkeys(key.split("/")[1] for key in found)
    for part in parts:
        names = [key.split("/", 2)[2] for key in found if key.startswith(f"{scale.at}/{part}/")]
        now = {name: _cut(found[f"{scale.at}/{part}/{name}"]) for name in names}
        yield Stream(run, part, None, tuple(_piece(*one, None) for name in names for one in now[name]))
        for back in scale.backs:
            before = {name: _cut(found[f"{scale.at - back}/{part}/{name}"]) for name in names}
            pieces = [
                _piece(*one, over) for name in names for one, (over, _) in zip(now[name], before[name], strict=True)
            ]
            yield Stream(run, part, back, tuple(pieces))


def _cut(words: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> list[tuple[memoryview, int]]:
    raw = memoryview(words).cast("B")
    return [(raw[at : at + DEFAULT_CHUNK_SIZE], words.itemsize) for at in range(0, len(raw), DEFAULT_CHUNK_SIZE)]


def _piece(raw: memoryview, width: int, before: memoryview | None) -> Piece:
    base = None if before is None else Base(XXH3_128.digest(Kind.CHUNK, before), before, 0)
    return Piece(XXH3_128.digest(Kind.CHUNK, raw), raw, Words(width, True), base)
