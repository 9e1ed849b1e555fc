"""A bound on what a few tree objects can stand for: each may refer to others many times over, level by level.

What a state holds once is as long as the store has bytes for it. What it holds again and again is counted here, when it
is written and whenever it is read, so that nothing is written that no reader would take.
"""

from __future__ import annotations

from collections.abc import Callable

from casckpt.errors import CorruptObjectError, StateError
from casckpt.limits import MAX_REPEATED, MAX_STATE_TREES, SPILL_TREE
from casckpt.objects.node import NodeRef
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Paged, TensorRecord, TreeRef, Typed, Value

# Bytes that the shortest encoding of a record has, without its storage.
_SHORTEST = {TensorRecord: 12, ArrayRecord: 6, BlobRecord: 3}


class Bounded:
    """Fetches tree objects, and counts those of one state.

    Raises, when it is called:
        CorruptObjectError: more than MAX_STATE_TREES in all, or more than MAX_REPEATED of what was fetched before.
    """

    def __init__(self, fetch: Callable[[bytes], Value]) -> None:
        self._fetch = fetch
        self._met: set[bytes] = set()
        self._sizes: dict[bytes, int] = {}
        self._fetched = 0
        self._repeated = 0

    @property
    def is_over(self) -> bool:
        """Whether it raised on its own account."""
        return self._fetched > MAX_STATE_TREES or self._repeated > MAX_REPEATED

    def __call__(self, oid: bytes) -> Value:
        self._fetched += 1
        if self._fetched > MAX_STATE_TREES:
            raise CorruptObjectError(f"a state of more than {MAX_STATE_TREES} tree objects")
        value = None
        if oid in self._met:
            if oid not in self._sizes:
                value = self._fetch(oid)
                self._sizes[oid] = max(SPILL_TREE, least(value))
            self._repeated += self._sizes[oid]
            if self._repeated > MAX_REPEATED:
                raise CorruptObjectError(f"a state that holds more than {MAX_REPEATED} bytes of the same over and over")
        self._met.add(oid)
        return self._fetch(oid) if value is None else value


def bounded(fetch: Callable[[bytes], Value]) -> Bounded:
    """A fetch that counts: the one given, if it does so already."""
    return fetch if isinstance(fetch, Bounded) else Bounded(fetch)


class BoundedEmit:
    """Emits the tree objects of one state, and counts as `Bounded` will, or more.

    Raises, when it is called:
        StateError
    """

    def __init__(self, emit: Callable[[bytes], bytes]) -> None:
        self._emit = emit
        self._met: set[bytes] = set()
        self._emitted = 0
        self._repeated = 0

    def __call__(self, raw: bytes) -> bytes:
        oid = self._emit(raw)
        self._emitted += 1
        if oid in self._met:
            self._repeated += max(SPILL_TREE, len(raw))
        self._met.add(oid)
        if self._emitted > MAX_STATE_TREES or self._repeated > MAX_REPEATED:
            raise StateError(
                f"it takes more than {MAX_STATE_TREES} tree objects, or {MAX_REPEATED} bytes of equal ones",
                remedy="keep long lists of numbers as tensors, and what is the same in several places in one of them",
            )
        return oid


def least(value: Value) -> int:
    """Bytes that a value has at least once it is encoded."""
    total = 0
    stack: list[Value] = [value]
    while stack:
        item = stack.pop()
        total += 1
        if isinstance(item, (str, bytes)):
            total += len(item)
        elif isinstance(item, (list, tuple)):
            stack += item
        elif isinstance(item, Map):
            for entry in item.entries:
                stack += entry
        elif isinstance(item, Typed):
            total += len(item.name)
            stack.append(item.value)
        elif isinstance(item, (TensorRecord, ArrayRecord, BlobRecord)):
            total += _SHORTEST[type(item)]
            if not isinstance(item.storage, (NodeRef, int)):
                total += len(item.storage)
        elif isinstance(item, TreeRef):
            total += len(item.id)
        elif isinstance(item, Paged):
            total += sum(map(len, item.ids))
    return total
