"""What a store shows: its refs, its log, and every commit's state down to the last byte."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casckpt.errors import CasckptError, PrunedCommitError
from casckpt.history.records import check_not_pruned, get_mark, reflog_next
from casckpt.history.repository import History
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import expand, shallow
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, TensorRecord, Typed
from casckpt.store.lmdb_store import open_store


@dataclass(frozen=True)
class View:
    """refs: each with its commit. head: the branch that HEAD names. moves: how many there have been of refs. states: of
    each commit a hash of all that was not released of it, or "pruned".

    released: of those of which something was released that is there still, a hash with it. That is shown where the key
    of the record of it was hit, so that there is none for the commit; fsck finds the record under the other key.
    """

    refs: dict[str, str]
    log: tuple[str, ...]
    states: dict[str, str]
    released: dict[str, str]
    head: str
    moves: int


def view_of(path: Path) -> View:
    """All that a sound store shows, also of commits that only the reflog remembers."""
    with History(open_store(path, create=False)) as history:
        refs = refs_of(history)
        log = log_of(history)
        moved = {oid for move in history.reflog() for oid in (move.old, move.new) if oid is not None}
        ids = {one.id for oid in (*moved, *refs.values()) for one in history.log(oid)}
        states = {oid: state_of(history, oid) for oid in sorted(ids)}
        released = {oid: _with_released(history, oid) for oid in sorted(ids)}
        with history.store.read() as reader:
            moves = reflog_next(reader)
        there = {oid: found for oid, found in released.items() if found is not None}
        return View(refs, log, states, there, history.current_branch, moves)


def refs_of(history: History) -> dict[str, str]:
    return {f"{ref.kind}/{ref.name}": ref.commit for ref in history.refs()}


def log_of(history: History) -> tuple[str, ...]:
    """The commits that refs lead to, without what is recorded beside them (figures, marks)."""
    return tuple(f"{one.id} {one.step} {one.message} {one.metrics} {one.meta}" for one in history.log(None))


def state_of(history: History, oid: str) -> str:
    """A hash of a commit and all of its state.

    Raises:
        CasckptError: it cannot be had.
    """
    try:
        return history.reading(lambda commits: _hash(commits, bytes.fromhex(oid)))
    except PrunedCommitError:
        return "pruned"


def _with_released(history: History, oid: str) -> str | None:
    try:
        return history.reading(lambda commits: _hash(commits, bytes.fromhex(oid), whole=True))
    except CasckptError:
        return None


def _hash(commits: Any, oid: bytes, whole: bool = False) -> str:
    objects = commits.objects
    found = hashlib.blake2b(digest_size=16)
    commit = objects.commit(oid)
    found.update(repr(commit).encode())
    if not whole:
        check_not_pruned(objects.reader, oid)
    released = () if whole else get_mark(objects.reader, oid).released
    root = shallow(objects.tree(commit.tree), objects.tree)
    if released:
        root = Map(tuple((key, item) for key, item in root.entries if key not in released))
    value = expand(root, objects.tree)
    found.update(repr(value).encode())
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Map):
            stack += [inner for _, inner in item.entries]
        elif isinstance(item, (list, tuple)) and not isinstance(item, TensorRecord):
            stack += item
        elif isinstance(item, Typed):
            stack.append(item.value)
        elif isinstance(item, (TensorRecord, ArrayRecord, BlobRecord)) and isinstance(item.storage, NodeRef):
            node = objects.node(item.storage.id)
            for chunk in node.ids():
                found.update(objects.chunk(chunk))
    return found.hexdigest()
