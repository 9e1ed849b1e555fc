"""Checks all that is small: every commit, tree and node in the store, and that each kept state is whole but for the
contents of its chunks. One read transaction shows it all, so what others publish or collect meanwhile is no finding.

Unlike `casckpt.history.walk`, by which gc decides what to delete, it goes on after damage, and finds all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from casckpt.errors import CasckptError, MissingObjectError
from casckpt.history.fetch import SPACE_OF, Objects
from casckpt.history.fsck.bases import Bases, above, check_bases
from casckpt.history.fsck.findings import DAMAGE, Findings
from casckpt.history.fsck.records import Records
from casckpt.history.walk import read_top
from casckpt.limits import MAX_DEPTH, MAX_FINDINGS, MAX_REPEATED, MAX_STATE_TREES, SPILL_TREE
from casckpt.objects.bounded import Bounded, least
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, chunk_bounds
from casckpt.objects.tree import MAP, references
from casckpt.objects.values import (
    ArrayRecord,
    BlobRecord,
    Map,
    Paged,
    Storage,
    TensorRecord,
    TreeRef,
    Typed,
    Value,
)
from casckpt.store.protocol import Space

ObjectKey = tuple[Kind, bytes]


class _Unreadable(Enum):
    UNREADABLE = 0


_UNREADABLE: Final = _Unreadable.UNREADABLE
_BAD: Final = -1
# Damage behind which something may be that nothing else leads to.
_BROKEN: Final = {f"{how}-{kind}" for how in ("missing", "damaged") for kind in ("commit", "tree", "node")}


@dataclass(frozen=True, slots=True)
class Reached:
    """What is needed of a commit that history leads to."""

    tree: bytes
    parents: tuple[bytes, ...]
    step: int | None
    time: int


@dataclass(slots=True)
class Suspects:
    """Objects that are missing or damaged: of each finding's id the first MAX_FINDINGS, and how many there are."""

    kept: dict[str, dict[ObjectKey, str]] = field(default_factory=dict)
    more: dict[str, int] = field(default_factory=dict)

    def add(self, id: str, kind: Kind, oid: bytes, problem: str) -> None:
        kept = self.kept.setdefault(id, {})
        if len(kept) < MAX_FINDINGS:
            kept[kind, oid] = problem
        elif (kind, oid) not in kept:
            self.more[id] = self.more.get(id, 0) + 1

    def keys(self) -> set[ObjectKey]:
        return {key for kept in self.kept.values() for key in kept}


@dataclass(slots=True)
class _Below:
    """What a tree object has below it: levels of nesting, tree objects with each as often as it is met, and the bytes
    that these have at least, the storages that its aliases name, and why it cannot be loaded, or "". items: how many it
    has itself, if it may be a page."""

    depth: int = 0
    trees: int = 1
    bytes: int = SPILL_TREE
    aliases: dict[int, Storage] = field(default_factory=dict)
    problem: str = ""
    items: int = _BAD

    def deepen(self, depth: int) -> None:
        self.depth = max(self.depth, depth)
        if self.depth > MAX_DEPTH:
            self.problem = self.problem or f"it is nested deeper than {MAX_DEPTH} levels"

    def name(self, alias: int, storage: Storage) -> None:
        if self.aliases.setdefault(alias, storage) != storage:
            self.problem = self.problem or "tensors that share a storage name different ones"

    def join(self, other: _Below, depth: int) -> None:
        """Take in what stands `depth` levels down."""
        self.problem = self.problem or other.problem
        self.deepen(depth + other.depth)
        self.trees += other.trees
        self.bytes += other.bytes
        if self.trees > MAX_STATE_TREES:
            self.problem = self.problem or f"it has more than {MAX_STATE_TREES} tree objects"
        for alias, storage in other.aliases.items():
            self.name(alias, storage)


class Structure:
    """One look at all commits, trees and nodes of a transaction.

    commits: those that history leads to; None where it cannot be read. chunks: that kept states lead to, with the
    length in bytes that each must have. bases: of the chunks that are deltas. suspects: what is missing or damaged.
    complete: whether all that history leads to could be followed, so that what was not reached is unreferenced.
    """

    def __init__(self, objects: Objects, records: Records, findings: Findings) -> None:
        self._objects = objects
        self._records = records
        self._findings = findings
        self.commits: dict[bytes, Reached | None] = {}
        self.chunks: dict[bytes, int] = {}
        self.bases = Bases()
        self.suspects = Suspects()
        self.counts: dict[Kind, int] = {}
        self._trees: dict[bytes, _Below | None] = {}
        self._tops: set[bytes] = set()
        self._nodes: dict[bytes, int] = {}
        self._states: dict[tuple[bytes, tuple[str, ...]], str] = {}

    @property
    def complete(self) -> bool:
        return not self._findings.errors and not _BROKEN & self.suspects.kept.keys()

    def run(self) -> None:
        """Look at everything."""
        self.reach_commits()
        for oid, problem in self.impossible():
            self._findings.add("impossible-state", f"commit {oid.hex()}: {problem}", object=oid.hex())
        self.bases = check_bases(self._objects, self._findings)
        self._look_at_the_rest()
        self._look_at_bases()

    def reach_commits(self) -> None:
        """Follow history from where it begins."""
        stack = sorted(self._records.roots)
        while stack:
            oid = stack.pop()
            if oid in self.commits:
                continue
            self.commits[oid] = None
            try:
                stored = self._objects.commit(oid)
            except DAMAGE as error:
                self._suspect(Kind.COMMIT, oid, error)
                continue
            self.commits[oid] = Reached(stored.tree, stored.parents, stored.step, stored.time)
            stack += stored.parents

    def impossible(self) -> Iterator[tuple[bytes, str]]:
        """The commits whose state cannot be loaded although all of its objects can be read, and why."""
        for oid, commit in self.commits.items():
            mark = self._records.mark(oid)
            if commit is not None and not mark.pruned:
                problem = self._state(commit.tree, mark.released)
                if problem:
                    yield oid, problem

    def states(self) -> Iterator[tuple[bytes, Reached, tuple[str, ...]]]:
        """The commits that keep a state, the newest first, with the parts that were released of each."""
        for oid, commit in sorted(self.commits.items(), key=lambda item: -item[1].time if item[1] else 0):
            mark = self._records.mark(oid)
            if commit is not None and not mark.pruned:
                yield oid, commit, mark.released

    def blame(self, kind: Kind) -> str:
        """The id of a finding on a damaged object that was not reached."""
        return "damaged-unreferenced" if self.complete else f"damaged-{kind.name.lower()}"

    def _suspect(self, kind: Kind, oid: bytes, error: CasckptError) -> None:
        how = "missing" if isinstance(error, MissingObjectError) else "damaged"
        self.suspects.add(f"{how}-{kind.name.lower()}", kind, oid, error.problem)

    # -- states --------------------------------------------------------------------------------------------------------

    def _state(self, root: bytes, released: tuple[str, ...]) -> str:
        """Why the state under a root cannot be loaded although all of its objects can be read; or ""."""
        known = self._states.get((root, released))
        if known is None:
            known = self._states[root, released] = self._look_at_state(root, released)
        return known

    def _look_at_state(self, root: bytes, released: tuple[str, ...]) -> str:
        below: _Below | None
        if not released:
            below = self._tree(root, 0)
            return self._problem(below, [TreeRef(root)]) if below else ""
        try:
            top = read_top(self._objects, root)
        except DAMAGE as error:
            return error.problem if self._reads_top(root) else ""
        if top.entries is None:
            below = self._tree(root, 0)
            return self._problem(below, [TreeRef(root)]) if below else ""
        self._tops.update(top.ids)
        below = _Below()
        kept = [item for key, item in top.entries if key not in released]
        self._look(below, [(item, 1) for item in kept], 1)
        return self._problem(below, kept)

    def _problem(self, below: _Below, kept: list[Value]) -> str:
        """Why what is kept of a state cannot be loaded, or "": also because it holds the same too often."""
        if below.problem or below.bytes <= MAX_REPEATED:
            return below.problem
        fetch = Bounded(self._objects.tree)  # as a load does, and ended by it as soon
        stack = list(kept)
        try:
            while stack:
                refs = [found.id for found in references(stack.pop()) if isinstance(found, TreeRef)]
                stack += map(fetch, refs)
        except DAMAGE as error:  # or a tree that cannot be read, which is a finding of its own
            return error.problem if fetch.is_over else ""
        return ""

    def _reads_top(self, root: bytes) -> bool:
        """Whether all objects of a state's top level can be read: then it is what they say that is wrong."""
        value = self._read_tree(root)
        pages = [self._read_tree(oid) for oid in value.ids] if isinstance(value, Paged) else []
        return value is not _UNREADABLE and _UNREADABLE not in pages

    def _read_tree(self, oid: bytes) -> Value | _Unreadable:
        self._tops.add(oid)
        try:
            return self._objects.tree(oid)
        except DAMAGE as error:
            self._suspect(Kind.TREE, oid, error)
            return _UNREADABLE

    def _tree(self, oid: bytes, level: int) -> _Below | None:
        """What is below a tree object, each looked at once; None where it cannot be read."""
        if oid in self._trees:
            return self._trees[oid]
        if level > MAX_DEPTH:
            return _Below(problem=f"it is nested deeper than {MAX_DEPTH} levels")
        try:
            value = self._objects.tree(oid)
        except DAMAGE as error:
            self._suspect(Kind.TREE, oid, error)
            self._trees[oid] = None
            return None
        self._trees[oid] = _Below(problem="a part of it leads to itself")  # for as long as it is under way
        below = _Below(bytes=max(SPILL_TREE, least(value)), items=len(value) if isinstance(value, list) else _BAD)
        self._look(below, [(value, 0)], level)
        self._trees[oid] = below
        return below

    def _look(self, below: _Below, stack: list[tuple[Value, int]], level: int) -> None:
        while stack:
            item, depth = stack.pop()
            below.deepen(depth)
            if isinstance(item, TreeRef):
                found = self._tree(item.id, level + 1)
                if found is not None:
                    below.join(found, depth)
            elif isinstance(item, Paged):
                self._look_at_pages(below, item, depth, level)
            elif isinstance(item, Map):
                stack += [(inner, depth + 1) for _, inner in item.entries]
            elif isinstance(item, (list, tuple)):
                stack += [(inner, depth + 1) for inner in item]
            elif isinstance(item, Typed):
                stack.append((item.value, depth + 1))
            elif isinstance(item, (TensorRecord, ArrayRecord, BlobRecord)):
                if isinstance(item.storage, NodeRef):
                    self._look_at_node(item.storage)
                if isinstance(item, TensorRecord) and item.alias is not None:
                    below.name(item.alias, item.storage)

    def _look_at_pages(self, below: _Below, paged: Paged, depth: int, level: int) -> None:
        items = 0
        for oid in paged.ids:
            page = self._tree(oid, level + 1)
            if page is None:
                return
            if page.items == _BAD:
                below.problem = below.problem or f"tree {oid.hex()} is not a page"
            items += page.items
            below.join(page, depth)
        if paged.tag == MAP and items % 2:
            below.problem = below.problem or "a mapping in pages has a key without a value"

    def _look_at_node(self, ref: NodeRef) -> None:
        length = self._nodes.get(ref.id)
        if length is None:
            length = self._nodes[ref.id] = self._read_node(ref.id)
        if length not in (_BAD, ref.length):
            problem = f"node {ref.id.hex()} spans {length} bytes, and a record says {ref.length}"
            self.suspects.add("wrong-length", Kind.NODE, ref.id, problem)

    def _read_node(self, oid: bytes) -> int:
        try:
            node = self._objects.node(oid)
        except DAMAGE as error:
            self._suspect(Kind.NODE, oid, error)
            return _BAD
        for chunk, (start, end) in zip(node.ids(), chunk_bounds(node.length, node.chunk_size), strict=True):
            if self.chunks.setdefault(chunk, end - start) != end - start:
                problem = f"node {oid.hex()} has chunk {chunk.hex()} with {end - start} bytes, and another has it with "
                self.suspects.add("wrong-length", Kind.NODE, oid, f"{problem}{self.chunks[chunk]}")
        return node.length

    # -- what nothing leads to -----------------------------------------------------------------------------------------

    def _look_at_the_rest(self) -> None:
        below = self.bases.below(self.chunks)
        reached: dict[Kind, Container[bytes]] = {
            Kind.COMMIT: self.commits,
            Kind.TREE: self._trees,
            Kind.NODE: self._nodes,
            Kind.CHUNK: self.chunks,
        }
        read: dict[Kind, Callable[[bytes], object]] = {
            Kind.COMMIT: self._objects.commit,
            Kind.TREE: self._objects.tree,
            Kind.NODE: self._objects.node,
        }
        unreferenced: dict[Kind, int] = {}
        for kind, known in reached.items():
            met = 0
            self.counts[kind] = unreferenced[kind] = 0
            for oid in self._objects.reader.keys(SPACE_OF[kind]):
                if len(oid) != self._objects.scheme.size:
                    self._findings.add("stray-key", f"{kind.name.lower()}s hold an entry under {oid!r}")
                    continue
                self.counts[kind] += 1
                if oid in known:
                    met += 1
                    continue
                if (kind is Kind.TREE and oid in self._tops) or (kind is Kind.CHUNK and oid in below):
                    continue
                unreferenced[kind] += 1
                if kind is not Kind.CHUNK:
                    try:
                        read[kind](oid)
                    except DAMAGE as error:
                        self.suspects.add(self.blame(kind), kind, oid, error.problem)
            if kind is Kind.CHUNK and met < len(self.chunks):
                self._look_for_chunks()
        if self.complete and any(unreferenced.values()):
            words = [f"{count} {kind.name.lower()}s" for kind, count in unreferenced.items() if count]
            self._findings.add("unreferenced-objects", ", ".join(words))

    def _look_for_chunks(self) -> None:
        for oid in sorted(self.chunks):
            if not self._objects.reader.has(Space.CHUNK, oid):
                self.suspects.add("missing-chunk", Kind.CHUNK, oid, f"chunk {oid.hex()} is missing from the store")

    # -- deltas --------------------------------------------------------------------------------------------------------

    def _look_at_bases(self) -> None:
        bases = self.bases
        needing = above(bases.base, (*bases.missing, *bases.endless))
        for base, oid in bases.missing.items():
            if base not in self.chunks:  # else it was found above
                id = "missing-base" if self._is_needed(needing[base]) else "damaged-unreferenced"
                problem = f"chunk {base.hex()} is missing from the store, and chunk {oid.hex()} is a delta of it"
                self.suspects.add(id, Kind.CHUNK, base, problem)
        for oid, problem in bases.endless.items():
            id = "endless-chain" if self._is_needed(needing[oid]) else "damaged-unreferenced"
            self.suspects.add(id, Kind.CHUNK, oid, problem)
        for oid, problem in bases.absent.items():
            if oid not in self.chunks and oid not in bases.missing:
                self._findings.add("stray-base-record", problem)
        for oid, problem in bases.unrecorded.items():
            self.suspects.add("missing-base-record", Kind.CHUNK, oid, problem)

    def _is_needed(self, chunks: set[bytes]) -> bool:
        return not self.complete or not self.chunks.keys().isdisjoint(chunks)
