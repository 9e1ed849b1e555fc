"""What of each commit's state is whole: every tree object, node and chunk below its root, or which parts of it are.

Any number of commits may share a state, and any number of states a tree or a node: what is below each is found out
once.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from casckpt.errors import CorruptObjectError
from casckpt.history.records import Mark
from casckpt.history.salvage.remains import DAMAGE, Remains
from casckpt.history.salvage.tops import Top, Tops
from casckpt.limits import MAX_DEPTH, MAX_HURT, MIB
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import references
from casckpt.objects.values import TreeRef, Value

ObjectKey = tuple[Kind, bytes]
Lost = frozenset[ObjectKey]
"""Objects that are lost, at most MAX_HURT of them."""

_NONE: Final[Lost] = frozenset()
# What leads nowhere.
_PLAIN: Final = (type(None), bool, int, float, str, bytes)
# Bytes of names of lost parts that are told for each byte of the file, and of a small one: each commit tells its own.
_TIMES: Final = 16
_LEAST: Final = 16 * MIB


@dataclass(frozen=True, slots=True)
class Hurt:
    """What of a state cannot be had. parts: top-level keys, if the rest can; else None, and nothing of it can.

    lost: objects, at most MAX_HURT of them.
    """

    parts: tuple[str, ...] | None
    lost: Lost


class States:
    """A look at the states of commits, in three rounds: `reach` for all, `decide`, `hurt` for all, then `objects`.

    What was released of commits with the same state may differ: in each round these come one behind the other, and
    states in the order of their ids.
    """

    def __init__(self, remains: Remains) -> None:
        self._remains = remains
        self._trees: dict[bytes, Lost] = {}
        self._nodes: dict[bytes, Lost] = {}
        self._given: set[ObjectKey] = set()
        self._walked: set[ObjectKey] = set()  # given with all that is below them
        self._chunks: Container[bytes] | None = None
        self._tops = Tops(remains)
        self._parts: _Parts | None = None  # of the top level that was asked for last
        self._names = _TIMES * remains.file.size + _LEAST
        self.wanted: dict[bytes, None] = {}
        """Chunks that the states need which were reached."""

    # -- what they need ------------------------------------------------------------------------------------------------

    def reach(self, root: bytes, mark: Mark) -> None:
        """Note the chunks of a state, so far as trees and nodes lead to them."""
        if mark.pruned:
            return
        top = self._tops.of(root) if mark.released else None
        if top is None:
            self._tree(root, 0)
        else:
            for value in top.take(mark.released):
                self._value(value, 0)

    def decide(self, chunks: Container[bytes]) -> None:
        """From here on it is known which chunks can be had."""
        self._chunks = chunks
        self._trees.clear()
        self._nodes.clear()
        self._tops = Tops(self._remains)

    # -- what is lost --------------------------------------------------------------------------------------------------

    def hurt(self, root: bytes, mark: Mark) -> Hurt | None:
        """What of a state cannot be had, beside what was released; None where all of it can."""
        if mark.pruned:
            return None
        lost = self._tree(root, 0)
        top = self._tops.of(root) if lost or mark.released else None
        if not lost:
            return None
        if top is None:
            return Hurt(None, lost)
        if self._parts is None or self._parts.top is not top:
            self._parts = _Parts(top, self._value)
        if self._names < 0:
            return Hurt(None, lost)
        found = self._parts.hurt(mark.released)
        self._names -= self._parts.names
        return found

    def _tree(self, oid: bytes, level: int) -> Lost:
        known = self._trees.get(oid)
        if known is None:
            lost = self._trees[oid] = frozenset({(Kind.TREE, oid)})  # for as long as it is under way: a circle is none
            try:
                if level > MAX_DEPTH:
                    raise CorruptObjectError("a state is nested too deep")
                known = self._value(self._remains.tree(oid), level)
            except DAMAGE:
                known = lost
            self._trees[oid] = known
        return known

    def _value(self, value: Value, level: int) -> Lost:
        lost = _NONE
        for found in references(value):
            below = self._node(found.id) if isinstance(found, NodeRef) else self._tree(found.id, level + 1)
            lost = _some(lost, below)
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
                    known = frozenset(islice(((Kind.CHUNK, one) for one in ids if one not in self._chunks), MAX_HURT))
            self._nodes[oid] = known
        return known

    # -- all of a state ------------------------------------------------------------------------------------------------

    def give_anew(self) -> None:
        """Begin the round of `objects`."""
        self._given.clear()
        self._walked.clear()
        self._tops = Tops(self._remains)

    def objects(self, root: bytes, mark: Mark) -> Iterator[ObjectKey]:
        """The tree objects and nodes of what is kept of a state, but for those that an earlier call gave.

        All of them can be had: `hurt` has said so, or `mark` releases the others.
        """
        if mark.pruned:
            return
        top = self._tops.of(root) if mark.released else None
        pending: list[ObjectKey] = [(Kind.TREE, root)]
        if top is not None:
            yield from self._new([(Kind.TREE, oid) for oid in top.take_ids()])
            pending = [_key(found) for value in top.take(mark.released) for found in references(value)]
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


class _Parts:
    """What of the parts of one state is lost: looked at once, for any number of commits."""

    def __init__(self, top: Top, look: Callable[[Value, int], Lost]) -> None:
        self.top = top
        self._lost: dict[str, Lost] = {}
        self._nameless = _NONE  # of what has no name that could be released by itself
        for key, value in top.entries:
            below = _NONE if type(value) in _PLAIN else look(value, 0)
            if below and isinstance(key, str):
                self._lost[key] = below
            elif below:
                self._nameless = _some(self._nameless, below)
        self.names = sum(map(len, self._lost)) + len(self._lost)
        """Bytes of the names of all that are lost."""
        self._found: dict[tuple[str, ...], Hurt | None] = {}

    def hurt(self, released: tuple[str, ...]) -> Hurt | None:
        """What is lost where these parts were released."""
        if released not in self._found:
            self._found[released] = self._hurt(released)
        return self._found[released]

    def _hurt(self, released: tuple[str, ...]) -> Hurt | None:
        parts = sorted(self._lost.keys() - released)
        lost = _some(self._nameless, *[self._lost[part] for part in parts])
        if not lost:
            return None
        can_be_parted = not self._nameless and len(parts) < self.top.kept(released)
        return Hurt(tuple(parts) if can_be_parted else None, lost)


def _key(found: TreeRef | NodeRef) -> ObjectKey:
    return (Kind.NODE if isinstance(found, NodeRef) else Kind.TREE), found.id


def _some(*sets: Lost) -> Lost:
    """All together, but no more than are told; the same one where it is no more than that."""
    found: Lost = _NONE
    for one in sets:
        if not one <= found:
            found = one if found <= one else found | one
        if len(found) > MAX_HURT:
            found = frozenset(sorted(found)[:MAX_HURT])
        if len(found) == MAX_HURT:
            break
    return found
