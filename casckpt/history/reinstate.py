"""The state of an earlier commit, or parts of it, as a new commit of the branch. No chunk is read or written.

Every tree and node of the new commit goes through one save's `Ingest`, so that publishing makes sure that all of it is
still there (I1). A state put together of two has the trees that it would have if both had been loaded, merged and
saved: what tells tensors that share a storage is numbered anew.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from dataclasses import dataclass

from msgspec.structs import replace

from casckpt.errors import ReleasedPartError, RestoreMismatchError
from casckpt.history.commits import Commit, CommitReader, present
from casckpt.history.ingest import Ingest
from casckpt.history.listing import stored_bytes
from casckpt.history.narrow import part_names
from casckpt.history.records import WHOLE, check_not_pruned, get_mark
from casckpt.objects.commit import CommitObject
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import child, leaves
from casckpt.objects.tree import canonical, expand, references, shallow, write_tree
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, TensorRecord, Typed, Value


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be reinstated, as the snapshot of a save shows it. parts: None for the whole state."""

    revision: str
    commit: bytes
    tip: bytes | None
    branch: str
    parts: tuple[str, ...] | None
    message: str


def reinstate(ingest: Ingest, commits: CommitReader, wanted: Wanted, *, dry_run: bool) -> tuple[bytes, Commit]:
    """Publish the new commit; returns its id, and the commit. dry_run: nothing is published, and its id is empty.

    commits: over the snapshot of `ingest`.

    Raises:
        PrunedCommitError, ReleasedPartError, RestoreMismatchError, RefMovedError, StoreFullError, StoreFailedError
    """
    source = commits.stored(wanted.commit)
    check_not_pruned(commits.objects.reader, wanted.commit)
    if wanted.parts is not None and wanted.tip is not None:
        check_not_pruned(commits.objects.reader, wanted.tip)
    if wanted.parts is None:
        root, logical = _whole(ingest, commits, wanted)
        step, metrics, meta = source.step, source.metrics, source.meta
    else:
        root, logical = _merged(ingest, commits, wanted, wanted.parts)
        step = None if wanted.tip is None else commits.stored(wanted.tip).step
        metrics, meta = (), Map(())
    made = CommitObject(
        tree=root,
        parents=() if wanted.tip is None else (wanted.tip,),
        branch=wanted.branch,
        step=step,
        metrics=metrics,
        message=wanted.message or _message(wanted),
        time=time.time_ns(),
        host=socket.gethostname(),
        meta=meta,
    )
    if dry_run:
        return b"", present(b"", made, WHOLE, ingest.figures(logical))
    oid, figures = ingest.publish(made, expected=wanted.tip, logical=logical)
    return oid, present(oid, made, WHOLE, figures)


def _message(wanted: Wanted) -> str:
    what = f"{', '.join(wanted.parts)} of " if wanted.parts else ""
    short = wanted.commit.hex()[:8]
    return f"restored {what}{wanted.revision}" + ("" if short.startswith(wanted.revision[:8]) else f" ({short})")


def _whole(ingest: Ingest, commits: CommitReader, wanted: Wanted) -> tuple[bytes, int]:
    """The tree of a commit as it stands; returns its root, and the bytes of the state."""
    objects = ingest.objects
    _check_released(commits, wanted.commit, None)
    root = commits.stored(wanted.commit).tree
    pending, seen = [root], {root}
    while pending:
        oid = pending.pop()
        ingest.add_tree(objects.raw(Kind.TREE, oid))
        for found in references(objects.tree(oid)):
            if not isinstance(found, NodeRef) and found.id not in seen:
                seen.add(found.id)
                pending.append(found.id)
    return root, _hold(ingest, expand(objects.tree(root), objects.tree))


def _merged(ingest: Ingest, commits: CommitReader, wanted: Wanted, parts: tuple[str, ...]) -> tuple[bytes, int]:
    """The tree of the newest state with parts of another: `{**newest, **{part: other[part] for part in parts}}`."""
    _check_released(commits, wanted.commit, set(parts))
    other = _top(ingest, commits, wanted.commit)
    for part in parts:
        if canonical(part) not in other:
            raise RestoreMismatchError(
                f"the state of {wanted.revision} has no such part",
                path=child("", part),
                remedy=f"it has {', '.join(part_names(other)) or 'no parts'}",
            )
    keep: dict[bytes, tuple[Value, int, Value]] = {}
    if wanted.tip is not None:
        _check_released(commits, wanted.tip, set(parts), others=True)
        newest = _top(ingest, commits, wanted.tip)
        keep = {name: (key, 0, item) for name, (key, item) in newest.items()}
    keep.update({name: (key, 1, item) for name, (key, item) in other.items() if key in parts})
    value = _Renumbered(list(keep.values())).value()
    return write_tree(value, (), ingest.add_tree), _hold(ingest, value)


def _check_released(commits: CommitReader, commit: bytes, parts: set[str] | None, *, others: bool = False) -> None:
    """Raise where the commit has released one of these parts (None: any), or with `others` any but these."""
    released = get_mark(commits.objects.reader, commit).released
    gone = tuple(part for part in released if parts is None or (part in parts) is not others)
    if gone:
        raise ReleasedPartError(
            f"retention released {', '.join(gone)} of commit {commit.hex()[:12]}",
            parts=gone,
            remedy="restore those parts from a commit that has them" if others else "restore the parts that are left",
        )


def _top(ingest: Ingest, commits: CommitReader, commit: bytes) -> dict[bytes, tuple[Value, Value]]:
    """The parts of a state, key and expanded value, by the key's bytes: 1, 1.0 and True are different keys."""
    objects = ingest.objects
    root = shallow(objects.tree(commits.stored(commit).tree), objects.tree)
    released = get_mark(objects.reader, commit).released
    if not isinstance(root, Map):
        raise RestoreMismatchError(
            f"the state of commit {commit.hex()[:12]} is no plain dict, and so has no parts",
            path="",
            remedy="restore the whole state, without parts",
        )
    return {canonical(key): (key, expand(item, objects.tree)) for key, item in root.entries if key not in released}


class _Renumbered:
    """A state put together of two, with the aliases that it would have if it had been saved as one.

    entries: keys, which of the two the value is of, and the value. Aliases of the two are never the same.
    """

    def __init__(self, entries: list[tuple[Value, int, Value]]) -> None:
        self._entries = entries
        seen = Counter(
            (side, leaf.alias)
            for _, side, item in entries
            for _, leaf in leaves(item)
            if isinstance(leaf, TensorRecord) and leaf.alias is not None
        )
        shared = [known for known, count in seen.items() if count > 1]  # in the order in which they come
        self._numbers: dict[tuple[int, int | None], int] = {known: number for number, known in enumerate(shared)}

    def value(self) -> Value:
        return Map(tuple([(key, self._item(side, item)) for key, side, item in self._entries]))

    def _item(self, side: int, value: Value) -> Value:
        if isinstance(value, TensorRecord) and value.alias is not None:
            return replace(value, alias=self._numbers.get((side, value.alias)))
        if isinstance(value, Map):
            return Map(tuple([(key, self._item(side, item)) for key, item in value.entries]))
        if isinstance(value, list):
            return [self._item(side, item) for item in value]
        if isinstance(value, tuple):
            return tuple([self._item(side, item) for item in value])
        return Typed(value.name, self._item(side, value.value)) if isinstance(value, Typed) else value


def _hold(ingest: Ingest, state: Value) -> int:
    """Have every node of an expanded state in the new commit; returns the bytes of the state, each storage once."""
    total = 0
    seen: set[int] = set()
    for _, leaf in leaves(state):
        if not isinstance(leaf, (TensorRecord, ArrayRecord, BlobRecord)):
            continue
        if isinstance(leaf.storage, NodeRef):
            ingest.add_node(ingest.objects.node(leaf.storage.id))
        alias = leaf.alias if isinstance(leaf, TensorRecord) else None
        if alias is None or alias not in seen:
            total += stored_bytes(leaf)
        if alias is not None:
            seen.add(alias)
    return total
