"""How much of each part of a state a diff has changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from casckpt.history.diff import Change
from casckpt.history.parts import Part


@dataclass(frozen=True, slots=True)
class PartSummary:
    """One part in a diff. tensors (and arrays), values (all other leaves), nbytes: how many changed, came or went.

    total_*: of how many that are in the new state, or went. A storage that several tensors share counts once.
    """

    name: str
    tensors: int
    total_tensors: int
    values: int
    total_values: int
    nbytes: int
    total_nbytes: int


def summarize(changes: Iterable[Change], old: Iterable[Part], new: Iterable[Part]) -> list[PartSummary]:
    """The parts of the new state in their order, then those that only the old one has; released ones are left out."""
    kept = {part.name: [0, part.tensors, 0, part.values, 0, part.nbytes] for part in new if not part.released}
    for part in old:
        if not part.released:
            kept.setdefault(part.name, [0] * 6)
    for change in changes:
        figures = kept.setdefault(change.part, [0] * 6)
        gone = change.change == "removed"
        at = 0 if change.kind in ("tensor", "array") else 2
        figures[at] += 1
        figures[at + 1] += gone
        if change.shares is None:
            figures[4] += change.nbytes
            figures[5] += change.nbytes if gone else 0
    return [PartSummary(name, *figures) for name, figures in kept.items()]
