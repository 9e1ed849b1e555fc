"""Commits as people meet them, and the log: newest first, read only as far as it is looked at."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from casckpt.errors import CorruptObjectError
from casckpt.history.fetch import Objects
from casckpt.history.plain import from_value
from casckpt.history.records import Figures, Mark, get_figures, get_mark
from casckpt.objects.commit import CommitObject


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit. Ids are hex.

    step: completed optimizer updates, or None. time: aware, UTC. pruned: its state is no longer kept. released: parts
    (top-level keys of its state) that are no longer kept. figures: bytes and chunks it holds and added.
    """

    id: str
    parents: tuple[str, ...]
    tree: str
    branch: str
    step: int | None
    metrics: dict[str, float]
    message: str
    time: datetime
    host: str
    meta: dict[str, object]
    pruned: bool
    released: tuple[str, ...]
    figures: Figures | None = field(compare=False)


def present(oid: bytes, stored: CommitObject, mark: Mark, figures: Figures | None) -> Commit:
    """A stored commit as people meet it."""
    return Commit(
        id=oid.hex(),
        parents=tuple(parent.hex() for parent in stored.parents),
        tree=stored.tree.hex(),
        branch=stored.branch,
        step=stored.step,
        metrics=dict(stored.metrics),
        message=stored.message,
        time=datetime.fromtimestamp(stored.time / 1e9, UTC),
        host=stored.host,
        meta=cast(dict[str, object], from_value(stored.meta)),
        pruned=mark.pruned,
        released=mark.released,
        figures=figures,
    )


class Walk:
    """A walk over history from the newest commit back. It can pause: each step may be given another transaction."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._queue: list[tuple[int, bytes]] = []

    def push(self, commits: CommitReader, oids: Iterable[bytes]) -> None:
        """Commits to walk from."""
        for oid in oids:
            if oid not in self._seen:
                self._seen.add(oid)
                heapq.heappush(self._queue, (-commits.stored(oid).time, oid))

    def pop(self, commits: CommitReader) -> bytes | None:
        """The next commit, or None at the end."""
        if not self._queue:
            return None
        _, oid = heapq.heappop(self._queue)
        self.push(commits, commits.stored(oid).parents)
        return oid


class CommitReader:
    """Commits out of one transaction. Their unchanging part is decoded once for all transactions that share `known`."""

    def __init__(self, objects: Objects, known: dict[bytes, CommitObject]) -> None:
        self.objects = objects
        self._known = known

    def stored(self, oid: bytes) -> CommitObject:
        """The commit as it is stored.

        Raises:
            MissingObjectError, CorruptObjectError
        """
        found = self._known.get(oid)
        if found is None:
            found = self._known[oid] = self.objects.commit(oid)
        return found

    def load(self, oid: bytes) -> Commit:
        """The commit with what is known of it today."""
        reader = self.objects.reader
        return present(oid, self.stored(oid), get_mark(reader, oid), get_figures(reader, oid))

    def walk(self, tips: Iterable[bytes]) -> Iterator[bytes]:
        """Ids of the commits that the tips lead to, the newest first, each after the commit that led to it."""
        walk = Walk()
        walk.push(self, tips)
        while (oid := walk.pop(self)) is not None:
            yield oid

    def line(self, tip: bytes | None) -> Iterator[bytes]:
        """Ids along first parents, from the tip to the root.

        Raises:
            CorruptObjectError: a commit is among its own ancestors; and as `stored`.
        """
        seen: set[bytes] = set()
        while tip is not None:
            if tip in seen:
                raise CorruptObjectError(f"commit {tip.hex()} is among its own ancestors")
            seen.add(tip)
            yield tip
            parents = self.stored(tip).parents
            tip = parents[0] if parents else None
