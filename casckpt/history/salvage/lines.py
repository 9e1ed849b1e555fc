"""The commits that are left, in lines again: ancestors first, and where an ancestor is lost, rewritten without it.

An id says what a commit's ancestors are. One whose ancestors are all there must keep its id; one that lost some gets
a new one, and says in its metadata which one it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from casckpt.objects.commit import CommitObject, pack_commit
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.values import Map, Value

REWRITTEN: Final = "salvaged_from"
"""Under this key the metadata of a commit that was rewritten has the id that it had, in hex."""


@dataclass(frozen=True, slots=True)
class Lines:
    """commits: by their old ids, ancestors first; their parents by the new ones. ids: of each, the new id, which mostly
    is the old one."""

    commits: dict[bytes, CommitObject]
    ids: dict[bytes, bytes]

    @property
    def rewritten(self) -> dict[bytes, bytes]:
        return {old: new for old, new in self.ids.items() if old != new}


def line_up(found: Mapping[bytes, CommitObject], scheme: IdScheme) -> Lines:
    """Commits as they will stand in the new store."""
    commits: dict[bytes, CommitObject] = {}
    ids: dict[bytes, bytes] = {}
    for oid in ancestors_first(found):
        commit = found[oid]
        parents = tuple(ids[parent] for parent in commit.parents if parent in ids)
        if parents == commit.parents:
            ids[oid] = oid
        else:
            commit = replace(commit, parents=parents, meta=_noted(commit.meta, oid))
            ids[oid] = scheme.digest(Kind.COMMIT, pack_commit(commit))
        commits[oid] = commit
    return Lines(commits, ids)


def ancestors_first(found: Mapping[bytes, CommitObject]) -> Iterator[bytes]:
    """Commits, each after those of its parents that are there; else the oldest first.

    Ids that were made to collide can close to a circle: there a parent comes later, as if it were lost.
    """
    begun: set[bytes] = set()
    done: set[bytes] = set()
    for start in sorted(found, key=lambda oid: (found[oid].time, oid)):
        stack = [start]
        while stack:
            oid = stack[-1]
            if oid not in begun:
                begun.add(oid)
                stack += [parent for parent in found[oid].parents if parent in found and parent not in begun]
                continue
            stack.pop()
            if oid not in done:
                done.add(oid)
                yield oid


def ancestors(found: Mapping[bytes, CommitObject], start: Iterable[bytes]) -> set[bytes]:
    """These commits and all that they lead to, as far as it is there."""
    met: set[bytes] = set()
    stack = [oid for oid in start if oid in found]
    while stack:
        oid = stack.pop()
        if oid not in met:
            met.add(oid)
            stack += [parent for parent in found[oid].parents if parent in found]
    return met


def tips(lines: Lines, reached: set[bytes]) -> list[bytes]:
    """Of the commits that are not in `reached`, those that no other is a child of: old ids, the newest first."""
    parents = {parent for commit in lines.commits.values() for parent in commit.parents}
    found = [oid for oid, new in lines.ids.items() if oid not in reached and new not in parents]
    return sorted(found, key=lambda oid: -lines.commits[oid].time)


def _noted(meta: Map, oid: bytes) -> Map:
    """Metadata with the old id; one that was rewritten before keeps what it says of that."""
    keys = {key for key, _ in meta.entries}
    number, key = 1, REWRITTEN
    while key in keys:
        number += 1
        key = f"{REWRITTEN}_{number}"
    entry: tuple[Value, Value] = (key, oid.hex())
    return Map((*meta.entries, entry))
