"""What of each commit's state is whole: every tree object, node and chunk below its root, or which parts of it are."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from casckpt.errors import CorruptObjectError
from casckpt.history.records import Mark
from casckpt.history.salvage.remains import DAMAGE, Remains
from casckpt.limits import MAX_DEPTH, MAX_HURT
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import references, shallow
from casckpt.objects.values import Map, Paged, TreeRef, Value

ObjectKey = tuple[Kind, bytes]
Lost = frozenset[ObjectKey]
"""Objects that are lost, at most MAX_HURT of them."""

_NONE: Final[Lost] = frozenset()


@dataclass(frozen=True, slots=True)
class Hurt:
    """What of a state cannot be had. parts: top-level keys, if the rest can; else None, and nothing of it can.

    lost: objects, at most MAX_HURT of them.
    """

    parts: tuple[str, ...] | None
    lost: Lost


class States:
    """A look at the states of commits. Trees and nodes are read once each; equal ones are shared."""

    def __init__(self, remains: Remains) -> None:
        self._remains = remains
        self._trees: dict[bytes, Lost] = {}
        self._nodes: dict[bytes, Lost] = {}
        self._given: set[ObjectKey] = set()
        self._walked: set[ObjectKey] = set()  # given with all that is below them
        self._chunks: Container[bytes] | None = None
        self.wanted: dict[bytes, None] = {}
        """Chunks that the states need which were reached."""

    # -- what they need ------------------------------------------------------------------------------------------------

    def reach(self, root: bytes, mark: Mark) -> None:
        """Note the chunks of a state, so far as trees and nodes lead to them."""
        if not mark.pruned:
            self._state(root, mark)

    def decide(self, chunks: Container[bytes]) -> None:
        """From here on it is known which chunks can be had."""
        self._chunks = chunks
        self._trees.clear()
        self._nodes.clear()

    # -- what is lost --------------------------------------------------------------------------------------------------

    def hurt(self, root: bytes, mark: Mark) -> Hurt | None:
        """What of a state cannot be had, beside what was released; None where all of it can."""
        if mark.pruned:
            return None
        return self._state(root, mark)

    def _state(self, root: bytes, mark: Mark) -> Hurt | None:
        _, entries, lost = self._top(root)
        if entries is None:
            lost |= _NONE if lost else self._tree(root, 0)
            return Hurt(None, lost) if lost else None
        parts: list[str] = []
        names = 0
        is_whole = True
        for key, value in entries:
            if isinstance(key, str) and key in mark.released:
                continue
            names += 1
            below = self._value(value, 0)
            if below:
                lost = _some(lost, below)
                is_whole = False
                if isinstance(key, str):
                    parts.append(key)
                else:
                    names = 0  # what has no name cannot be released by itself
                    break
        if is_whole:
            return None
        return Hurt(tuple(sorted(parts)) if len(parts) < names else None, lost)

    def _top(self, root: bytes) -> tuple[tuple[bytes, ...], tuple[tuple[Value, Value], ...] | None, Lost]:
        """The objects of the top level, its entries where it is a mapping, and what of the top itself is lost."""
        try:
            stored = self._remains.tree(root)
        except DAMAGE:
            return (root,), None, frozenset({(Kind.TREE, root)})
        ids = (root, *(stored.ids if isinstance(stored, Paged) else ()))
        lost = frozenset((Kind.TREE, oid) for oid in ids if not self._reads(oid))
        if lost:
            return ids, None, _some(lost)
        try:
            value = shallow(stored, self._remains.tree)
        except DAMAGE:
            return ids, None, frozenset({(Kind.TREE, root)})
        return ids, value.entries if isinstance(value, Map) else None, _NONE

    def _reads(self, oid: bytes) -> bool:
        try:
            self._remains.tree(oid)
        except DAMAGE:
            return False
        return True

    def _tree(self, oid: bytes, level: int) -> Lost:
        known = self._trees.get(oid)
        if known is None:
            try:
                if level > MAX_DEPTH:
                    raise CorruptObjectError("a state is nested too deep")
                known = self._value(self._remains.tree(oid), level)
            except DAMAGE:
                known = frozenset({(Kind.TREE, oid)})
            self._trees[oid] = known
        return known

    def _value(self, value: Value, level: int) -> Lost:
        lost = _NONE
        for found in references(value):
            below = self._node(found.id) if isinstance(found, NodeRef) else self._tree(found.id, level + 1)
            lost = _some(lost, below) if below else lost
        return lost

    def _node(self, oid: bytes) -> Lost:
        known = self._nodes.get(oid)
        if known is None:
            try:
                ids = self._remains.node(oid).ids()
            except DAMAGE:
                known = frozenset({(Kind.NODE, oid)})
            else:
                if self._chunks is None:
                    self.wanted.update(dict.fromkeys(ids))
                    known = _NONE
                else:
                    known = _some(frozenset((Kind.CHUNK, one) for one in ids if one not in self._chunks))
            self._nodes[oid] = known
        return known

    # -- all of a state ------------------------------------------------------------------------------------------------

    def objects(self, root: bytes, mark: Mark) -> Iterator[ObjectKey]:
        """The tree objects and nodes of what is kept of a state, but for those that an earlier call gave.

        All of them can be had: `hurt` has said so, or `mark` releases the others.
        """
        if mark.pruned:
            return
        ids, entries, _ = self._top(root)
        pending: list[ObjectKey] = [(Kind.TREE, root)]
        if entries is not None and mark.released:
            yield from self._new([(Kind.TREE, oid) for oid in ids])
            kept = [value for key, value in entries if not (isinstance(key, str) and key in mark.released)]
            pending = [_key(found) for value in kept for found in references(value)]
        while pending:
            key = pending.pop()
            if key not in self._walked:
                self._walked.add(key)
                yield from self._new([key])
                if key[0] is Kind.TREE:
                    pending += [_key(found) for found in references(self._remains.tree(key[1]))]

    def _new(self, keys: Iterable[ObjectKey]) -> Iterator[ObjectKey]:
        for key in keys:
            if key not in self._given:
                self._given.add(key)
                yield key


def _key(found: TreeRef | NodeRef) -> ObjectKey:
    return (Kind.NODE if isinstance(found, NodeRef) else Kind.TREE), found.id


def _some(*sets: Iterable[ObjectKey]) -> Lost:
    """All together, but no more than are told."""
    found: set[ObjectKey] = set()
    for one in sets:
        found.update(one)
    return frozenset(sorted(found)[:MAX_HURT]) if len(found) > MAX_HURT else frozenset(found)
