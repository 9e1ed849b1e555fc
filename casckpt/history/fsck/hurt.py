"""Who is hurt: which commits need an object that is missing or damaged, and for what in their states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from casckpt.history.fetch import Objects
from casckpt.history.fsck.bases import above
from casckpt.history.fsck.findings import DAMAGE, Hurt, HurtCommit
from casckpt.history.fsck.structure import ObjectKey, Reached
from casckpt.history.walk import read_top
from casckpt.limits import MAX_DEPTH, MAX_HURT
from casckpt.objects.bounded import Bounded
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import child
from casckpt.objects.tree import MAP, Fetch, references
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Paged, TensorRecord, TreeRef, Typed, Value

_NONE: frozenset[ObjectKey] = frozenset()
# Names that are remembered for each object, so that none is counted twice.
_COUNTED: Final = 100 * MAX_HURT


@dataclass(slots=True)
class _Names:
    """Names in the order in which they came, so far as they are counted."""

    met: dict[str | HurtCommit, None] = field(default_factory=dict)

    def add(self, name: str | HurtCommit) -> None:
        if len(self.met) < _COUNTED:
            self.met[name] = None

    @property
    def kept(self) -> list[str | HurtCommit]:
        return list(islice(self.met, MAX_HURT))

    @property
    def more(self) -> int:
        return max(0, len(self.met) - MAX_HURT)


class Search:
    """A search for the ways from commits to `wanted` objects, over one transaction.

    bases: of each delta its base: who needs the one needs the other.
    """

    def __init__(self, objects: Objects, wanted: set[ObjectKey], bases: Mapping[bytes, bytes]) -> None:
        self._objects = objects
        self._wanted = wanted
        self._chunks: dict[bytes, set[ObjectKey]] = {}
        for oid, needing in above(bases, [oid for kind, oid in wanted if kind is Kind.CHUNK]).items():
            for chunk in needing:
                self._chunks.setdefault(chunk, set()).add((Kind.CHUNK, oid))
        self._below: dict[bytes, frozenset[ObjectKey]] = {}
        self._in_nodes: dict[bytes, frozenset[ObjectKey]] = {}
        self._walked: set[tuple[bytes, str]] = set()
        self._lengths: dict[bytes, int] = {}  # items of pages in which nothing is wanted
        self._once = Bounded(objects.tree)  # for the paths of one state: a few trees may have countless ones
        self._commits: dict[ObjectKey, _Names] = {key: _Names() for key in wanted}
        self._paths: dict[ObjectKey, _Names] = {key: _Names() for key in wanted}

    def history(self, commits: dict[bytes, Reached | None]) -> None:
        """Note which commits follow one that is wanted."""
        for oid, commit in commits.items():
            for parent in commit.parents if commit else ():
                if (Kind.COMMIT, parent) in self._wanted:
                    self._hit({(Kind.COMMIT, parent)}, oid, commit)

    def states(self, states: Iterable[tuple[bytes, Reached, tuple[str, ...]]]) -> None:
        """Note which states need what is wanted."""
        for oid, commit, released in states:
            self._hit(self._state(commit.tree, released), oid, commit)

    def hurt(self, key: ObjectKey) -> Hurt:
        """What was found for one object."""
        commits, paths = self._commits[key], self._paths[key]
        return Hurt(
            commits=tuple([name for name in commits.kept if isinstance(name, HurtCommit)]),
            more_commits=commits.more,
            paths=tuple([name for name in paths.kept if isinstance(name, str)]),
            more_paths=paths.more,
        )

    def _hit(self, keys: Iterable[ObjectKey], oid: bytes, commit: Reached | None) -> None:
        for key in keys:
            self._commits[key].add(HurtCommit(oid.hex(), commit.step if commit else None))

    # -- which ---------------------------------------------------------------------------------------------------------

    def _state(self, root: bytes, released: tuple[str, ...]) -> frozenset[ObjectKey]:
        """What is wanted of a state, its paths noted."""
        self._once = Bounded(self._objects.tree)
        if released:
            try:
                top = read_top(self._objects, root)
            except DAMAGE:
                top = None
            if top is not None and top.entries is not None:
                kept = Map(tuple([(key, item) for key, item in top.entries if key not in released]))
                self._walk(kept, "")
                return _NONE.union(*[self._in_value(item, 0) for _, item in kept.entries])
        self._walk(TreeRef(root), "")
        return self._in_tree(root, 0)

    def _in_tree(self, oid: bytes, level: int) -> frozenset[ObjectKey]:
        known = self._below.get(oid)
        if known is not None or level > MAX_DEPTH:
            return known or _NONE
        self._below[oid] = _NONE  # for as long as it is under way
        own = frozenset({(Kind.TREE, oid)} & self._wanted)
        own |= self._in_value(self._read(oid), level)
        self._below[oid] = own
        return own

    def _in_value(self, value: Value, level: int) -> frozenset[ObjectKey]:
        found = _NONE
        for ref in references(value):
            found |= self._in_node(ref.id) if isinstance(ref, NodeRef) else self._in_tree(ref.id, level + 1)
        return found

    def _in_node(self, oid: bytes) -> frozenset[ObjectKey]:
        known = self._in_nodes.get(oid)
        if known is None:
            known = frozenset({(Kind.NODE, oid)} & self._wanted)
            if self._chunks:
                with suppress(*DAMAGE):
                    met = self._chunks.keys() & self._objects.node(oid).ids()
                    known = known.union(*[self._chunks[chunk] for chunk in met])
            self._in_nodes[oid] = known
        return known

    def _read(self, oid: bytes, fetch: Fetch | None = None) -> Value:
        """A tree object; what cannot be read is as if it were None, which leads nowhere."""
        try:
            return (fetch or self._objects.tree)(oid)
        except DAMAGE:
            return None

    # -- where ---------------------------------------------------------------------------------------------------------

    def _walk(self, value: Value, path: str) -> None:
        """Note the paths at which what is wanted is needed; each tree object once for each path."""
        if isinstance(value, TreeRef):
            if (value.id, path) not in self._walked and self._in_tree(value.id, 0):
                self._walked.add((value.id, path))
                self._walk_tree(value.id, path)
        elif isinstance(value, Paged):
            self._walk_pages(value, path)
        elif isinstance(value, Typed):
            self._walk(value.value, path)
        elif isinstance(value, Map):
            for key, item in value.entries:
                self._walk(item, child(path, key))
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                self._walk(item, child(path, index))
        elif isinstance(value, (TensorRecord, ArrayRecord, BlobRecord)) and isinstance(value.storage, NodeRef):
            for key in self._in_node(value.storage.id):
                self._paths[key].add(path)

    def _walk_tree(self, oid: bytes, path: str) -> None:
        if (Kind.TREE, oid) in self._wanted:
            self._paths[Kind.TREE, oid].add(path)
            return
        self._walk(self._read(oid, self._once), path)

    def _walk_pages(self, paged: Paged, path: str) -> None:
        at = 0
        for oid in paged.ids:
            if (Kind.TREE, oid) in self._wanted:
                self._paths[Kind.TREE, oid].add(path)
                continue  # what is wanted cannot be read: numbers go on as if it were empty
            if oid in self._lengths:
                at += self._lengths[oid]
                continue
            page = self._read(oid, self._once)
            items = page if isinstance(page, list) else []
            if not self._in_tree(oid, 0):
                self._lengths[oid] = len(items)
                at += len(items)
            elif paged.tag == MAP:
                for key, item in zip(items[::2], items[1::2], strict=False):
                    self._walk(item, child(path, key))
            else:
                for item in items:
                    self._walk(item, child(path, at))
                    at += 1
