"""Branches, tags and their moves as people meet them: ids in hex, times as dates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from casckpt.history.records import all_refs, moves_back
from casckpt.store.protocol import Reader


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or a tag and the commit that it points to. kind: "branch" or "tag"."""

    kind: str
    name: str
    commit: str
    current: bool


@dataclass(frozen=True, slots=True)
class ReflogEntry:
    """One move of a branch or tag. old, new: ids in hex, None where it was not, or is no more."""

    kind: str
    name: str
    old: str | None
    new: str | None
    action: str
    time: datetime


def list_refs(reader: Reader, current: str) -> list[Ref]:
    """Branches, then tags, each in the order of their names. current: the branch of the handle that asks."""
    found = [(*ref.partition("/"), oid) for ref, oid in all_refs(reader)]
    return [Ref(kind, name, oid.hex(), (kind, name) == ("branch", current)) for kind, _, name, oid in found]


def list_moves(reader: Reader, branch: str | None) -> Iterator[ReflogEntry]:
    """The moves of a branch, the newest first; None: of every branch and tag."""
    for move in moves_back(reader):
        kind, _, name = move.ref.partition("/")
        if branch is None or (kind, name) == ("branch", branch):
            old, new = (None if oid is None else oid.hex() for oid in (move.old, move.new))
            yield ReflogEntry(kind, name, old, new, move.action, datetime.fromtimestamp(move.time / 1e9, UTC))
