"""Which chunk stood at the same place before a chunk did: what it is best stored as a delta of.

A place is the path of the first leaf that shows a storage, and the number of the chunk in it. Before a commit comes the
nearest ancestor over first parents that is kept, and for a part the nearest one that still has it. Trees and nodes are
read, no chunk is; equal subtrees are passed over unread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from casckpt.errors import CorruptObjectError
from casckpt.history.counterpart import Counterparts
from casckpt.history.diff import Side, pairs
from casckpt.history.fetch import Objects
from casckpt.history.records import WHOLE, get_mark
from casckpt.objects.node import NodeRef, StorageNode
from casckpt.objects.paths import leaves
from casckpt.objects.tree import expand, shallow
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Record, TensorRecord, Value
from casckpt.objects.words import BYTES, Words, words_of


@dataclass(frozen=True, slots=True)
class Placed:
    """A chunk where it first appears. length: bytes. words: what they are made of. before: the chunk of the same length
    that stood there before; None where there was none."""

    id: bytes
    length: int
    words: Words
    before: bytes | None


@dataclass(frozen=True, slots=True)
class _Known:
    """Of a commit what is asked for again and again."""

    parents: tuple[bytes, ...]
    tree: bytes
    time: int


class Lineage:
    """The lines of history that one transaction shows. Lives no longer than that."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._known: dict[bytes, _Known] = {}
        self._holders: dict[tuple[bytes, str | None], bytes | None] = {}

    def ancestors_first(self, commits: Iterable[bytes]) -> list[bytes]:
        """These commits and all that they lead to, each after its parents; else the oldest first.

        Raises:
            MissingObjectError, CorruptObjectError
        """
        found: list[bytes] = []
        done: set[bytes] = set()
        begun: set[bytes] = set()
        for start in sorted(commits, key=lambda oid: (self._commit(oid).time, oid)):
            stack = [start]
            while stack:
                waiting = [oid for oid in self._commit(stack[-1]).parents if oid not in done]
                if stack[-1] not in done and waiting:
                    if stack[-1] in begun:
                        raise CorruptObjectError(f"commit {stack[-1].hex()} is among its own ancestors")
                    begun.add(stack[-1])
                    stack += waiting
                    continue
                oid = stack.pop()
                if oid not in done:
                    done.add(oid)
                    found.append(oid)
        return found

    def follows_released(self, commit: bytes) -> bool:
        """Whether its first parent released something, so that its chunks may lie over what is not kept."""
        parents = self._commit(commit).parents
        mark = get_mark(self._objects.reader, parents[0]) if parents else WHOLE
        return mark.pruned or bool(mark.released)

    def placed(self, commits: Iterable[bytes], wanted: Collection[bytes] | None = None) -> Iterator[Placed]:
        """The chunks of these commits, each once: where a kept one holds it first, and its ancestor did not.

        commits: ancestors first. wanted: only these chunks; None: all. Where all commits are asked for, no chunk comes
        before the one that stood at its place before.

        Raises:
            MissingObjectError, CorruptObjectError
        """
        met: set[bytes] = set()
        for commit in commits:
            if wanted is not None and len(met) == len(wanted):
                return
            if not get_mark(self._objects.reader, commit).pruned:
                yield from self._new(commit, wanted, met)

    def _commit(self, oid: bytes) -> _Known:
        found = self._known.get(oid)
        if found is None:
            stored = self._objects.commit(oid)
            found = self._known[oid] = _Known(stored.parents, stored.tree, stored.time)
        return found

    def _new(self, commit: bytes, wanted: Collection[bytes] | None, met: set[bytes]) -> Iterator[Placed]:
        nodes: set[bytes] = set()  # of this commit: a storage counts where the first leaf shows it
        for old, new in self._beside(commit):
            sides = Side(self._objects, old), Side(self._objects, new)
            moved: _Moved | None = None
            for pair in pairs(*sides):
                node = _storage(pair.new)
                if not isinstance(pair.new, Record) or node is None or node.id in nodes:
                    continue
                nodes.add(node.id)
                before = _storage(pair.old)
                if pair.old is None:  # at this path; a save may have found it at another
                    moved = moved or _Moved(self._objects, old)
                    before = moved.storage(pair.path, node.length)
                if before is None or before.id != node.id:
                    yield from self._chunks(node, before, words_in(pair.new), wanted, met)

    def _chunks(
        self, ref: NodeRef, before: NodeRef | None, words: Words, wanted: Collection[bytes] | None, met: set[bytes]
    ) -> Iterator[Placed]:
        node = self._objects.node(ref.id)
        held: list[bytes] | None = None
        for index, oid in enumerate(node.ids()):
            if oid in met or (wanted is not None and oid not in wanted):
                continue
            if held is None:
                held = self._counterpart(node, before)
            there = held[index] if held else None
            if there != oid:  # else it is the ancestor's
                met.add(oid)
                yield Placed(oid, min(node.chunk_size, node.length - index * node.chunk_size), words, there)

    def _counterpart(self, node: StorageNode, before: NodeRef | None) -> list[bytes]:
        """The chunks of the storage that was there before; none where it is cut in another way."""
        if before is None or before.length != node.length:
            return []
        held = self._objects.node(before.id)
        return held.ids() if held.chunk_size == node.chunk_size else []

    # -- what a commit is held against ---------------------------------------------------------------------------------

    def _beside(self, commit: bytes) -> Iterator[tuple[Value, Value]]:
        """What a commit holds, piece by piece, each with what the nearest ancestor holds that has it: parts of one
        ancestor together."""
        new = self._root(commit)
        nearest = self._holder(commit, None)
        released = () if nearest is None else get_mark(self._objects.reader, nearest).released
        if not isinstance(new, Map) or not released:
            yield Map(()) if nearest is None else self._root(nearest), new
            return
        groups: dict[bytes | None, list[tuple[Value, Value]]] = {}
        for key, value in new.entries:
            holder = self._holder(commit, key) if isinstance(key, str) and key in released else nearest
            groups.setdefault(holder, []).append((key, value))
        for holder, entries in groups.items():
            old = Map(()) if holder is None else self._root(holder)
            if isinstance(old, Map):
                names = {key for key, _ in entries if isinstance(key, str)}
                old = Map(tuple([(key, value) for key, value in old.entries if isinstance(key, str) and key in names]))
            yield old, Map(tuple(entries))

    def _root(self, commit: bytes) -> Value:
        """The state of a commit without its released parts."""
        released = get_mark(self._objects.reader, commit).released
        root = shallow(self._objects.tree(self._commit(commit).tree), self._objects.tree)
        if not isinstance(root, Map) or not released:
            return root
        return Map(tuple([(key, value) for key, value in root.entries if key not in released]))

    def _holder(self, commit: bytes, part: str | None) -> bytes | None:
        """The nearest ancestor that is kept, and has not released this part (None: whatever it released)."""
        way: dict[tuple[bytes, str | None], None] = {}
        at = commit
        found: bytes | None = None
        while True:
            if (at, part) in self._holders:
                found = self._holders[at, part]
                break
            if (at, part) in way:
                raise CorruptObjectError(f"commit {at.hex()} is among its own ancestors")
            way[at, part] = None
            parents = self._commit(at).parents
            if not parents:
                break
            at = parents[0]
            mark = get_mark(self._objects.reader, at)
            if not mark.pruned and part not in mark.released:
                found = at
                break
        for one in way:
            self._holders[one] = found
        return found


class _Moved:
    """The storages of an earlier state, for what stood at another path there."""

    def __init__(self, objects: Objects, root: Value) -> None:
        self._storages: dict[str, NodeRef] = {}
        for path, leaf in leaves(expand(root, objects.tree)):
            storage = _storage(leaf)
            if storage is not None:
                self._storages.setdefault(path, storage)
        self._counterparts = Counterparts({path: storage.length for path, storage in self._storages.items()})

    def storage(self, path: str, length: int) -> NodeRef | None:
        """What stood where something new stands now, of the same length."""
        found = self._counterparts.of(path, length)
        return None if found is None else self._storages[found]


def words_in(record: Record) -> Words:
    """What the bytes of a record's storage are made of."""
    if isinstance(record, TensorRecord):
        return words_of(record.dtype)
    if isinstance(record, ArrayRecord) and isinstance(record.dtype, str):
        return words_of(record.dtype)
    return BYTES


def _storage(leaf: Value) -> NodeRef | None:
    if isinstance(leaf, (TensorRecord, ArrayRecord, BlobRecord)) and isinstance(leaf.storage, NodeRef):
        return leaf.storage
    return None
