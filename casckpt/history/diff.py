"""What differs between two states, by leaf: which tensors, how many of their chunks and bytes, which plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

from msgspec import structs

from casckpt.errors import CorruptObjectError
from casckpt.history.fetch import Objects
from casckpt.history.listing import describe, dtype_name, is_long_list, kind_of, stored_bytes, whole_leaves
from casckpt.limits import MAX_DEPTH
from casckpt.objects.bounded import Bounded
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import Globs, child, keys
from casckpt.objects.tree import canonical, expand, shallow
from casckpt.objects.values import (
    MAPPINGS,
    METADATA,
    PARAMETER,
    REQUIRES_GRAD,
    ArrayRecord,
    BlobRecord,
    Map,
    Paged,
    Record,
    TensorRecord,
    TreeRef,
    Typed,
    Value,
)


@dataclass(frozen=True, slots=True)
class Difference:
    """How the elements of two tensors of one shape differ, in float64.

    elements: in all; differing: not equal (nan equals nan). Over those elements that are finite on both sides: max_abs
    and mean_abs of new - old; relative: |new - old| / |old|, of the Euclidean norms; cosine: 1 - cos of the angle
    between old and new. A relative or cosine difference to nothing but zeros is infinite or nan. old_nan, new_nan,
    old_inf, new_inf: elements that are no number, and infinities, on each side.
    """

    elements: int
    differing: int
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    old_nan: int
    new_nan: int
    old_inf: int
    new_inf: int


@dataclass(frozen=True, slots=True)
class Change:
    """One leaf that differs.

    kind: "tensor", "array", "blob" or "value". change: "added", "removed" or "changed". old, new: what stood and stands
    there, in words ("float32 [4, 8]", "0.001"). chunks, nbytes: how many of the new leaf's chunks and stored bytes are
    not in the old one at the same place (of the old one's, where it was removed; an inline storage counts as a chunk);
    total_*: of how many. shares: the first path of this diff whose tensor has the same storage, and the same bytes.
    values: where they were compared and both sides have the same shape.
    """

    path: str
    kind: str
    change: str
    old: str
    new: str
    chunks: int
    nbytes: int
    total_chunks: int
    total_nbytes: int
    shares: str | None = None
    values: Difference | None = None

    @property
    def part(self) -> str:
        """The top-level key that it is under; "" where the whole state is one leaf."""
        return keys(self.path)[0]


@dataclass(frozen=True, slots=True)
class Pair:
    """A leaf on both sides, None where one has not got it; expanded."""

    path: str
    old: Value
    new: Value
    change: str


class Side:
    """One of the two states: its objects, and the value to begin with, at a path."""

    def __init__(self, objects: Objects, root: Value) -> None:
        self.objects = objects
        self.root = root
        self._tree = Bounded(objects.tree)

    def shallow(self, value: Value) -> Value:
        return shallow(value, self._tree)

    def leaves(self, path: str, value: Value) -> Iterator[tuple[str, Value]]:
        return whole_leaves(expand(value, self._tree), path)

    def chunks(self, record: Record) -> list[bytes]:
        """A name for each chunk of a record: its id, or its bytes where it stands in the tree."""
        storage = record.storage
        if isinstance(storage, NodeRef):
            return self.objects.node(storage.id).ids()
        return [storage] if isinstance(storage, bytes) and storage else []


def diff_roots(old: Objects, old_root: Value, new: Objects, new_root: Value) -> Iterator[Change]:
    """Changes from one state to the other, in the order of the new one. Equal subtrees are passed over unread."""
    sides = Side(old, old_root), Side(new, new_root)
    return changes(*sides, pairs(*sides))


def pairs(old: Side, new: Side, path: str = "", globs: Globs | None = None, *, loose: bool = False) -> Iterator[Pair]:
    """The leaves that differ, in the order of the new state.

    path: where both begin. loose: whether a dict of another kind, metadata of mappings and flags of tensors are passed
    over, as between a commit and a file that cannot hold them.
    """
    return _Walk(old, new, globs, loose).diff(path, old.root, new.root, False, 0)


def changes(old: Side, new: Side, found: Iterable[Pair]) -> Iterator[Change]:
    """Each pair as a change, with what is stored of it; tensors that share a storage are told."""
    first: dict[tuple[bool, int], str] = {}
    for pair in found:
        change = _change(old, new, pair)
        gone = pair.change == "removed"
        record = pair.old if gone else pair.new
        if isinstance(record, TensorRecord) and record.alias is not None:
            before = first.setdefault((gone, record.alias), pair.path)
            if before != pair.path:
                change = replace(change, shares=before)
        yield change


class _Walk:
    def __init__(self, old: Side, new: Side, globs: Globs | None, loose: bool) -> None:
        self._old = old
        self._new = new
        self._globs = globs
        self._loose = loose

    def diff(self, path: str, old: Value, new: Value, wanted: bool, depth: int) -> Iterator[Pair]:
        """Pairs that differ at and under a path. wanted: a glob has taken a path above."""
        if depth > MAX_DEPTH:
            raise CorruptObjectError(f"a tree is nested deeper than {MAX_DEPTH} levels")
        if isinstance(old, (TreeRef, Paged)) and old == new:
            return
        if not wanted and self._globs is not None:
            wanted = self._globs.match(path)
            if not wanted and not self._globs.may_match_under(path):
                return
        old, new = self._old.shallow(old), self._new.shallow(new)
        if self._loose:
            old, new = _mapping(self._old, old), _mapping(self._new, new)
        if isinstance(old, Typed) and isinstance(new, Typed) and old.name == new.name:
            yield from self.diff(path, old.value, new.value, wanted, depth + 1)
        elif isinstance(old, Map) and isinstance(new, Map):
            yield from self._maps(path, old, new, wanted, depth)
        elif isinstance(old, (list, tuple)) and type(old) is type(new) and not (is_long_list(old) or is_long_list(new)):
            assert isinstance(new, (list, tuple))
            yield from self._lists(path, old, new, wanted, depth)
        elif _is_leaf(old) and _is_leaf(new):
            if (wanted or self._globs is None) and _differs(old, new, self._loose):
                yield Pair(path, old, new, "changed")
        else:
            yield from self._all(self._old, path, old, "removed", wanted)
            yield from self._all(self._new, path, new, "added", wanted)

    def _maps(self, path: str, old: Map, new: Map, wanted: bool, depth: int) -> Iterator[Pair]:
        before = {canonical(key): (key, value) for key, value in old.entries}
        for key, value in new.entries:
            there = before.pop(canonical(key), None)
            if there is None:
                yield from self._all(self._new, child(path, key), value, "added", wanted)
            else:
                yield from self.diff(child(path, key), there[1], value, wanted, depth + 1)
        for key, value in before.values():
            yield from self._all(self._old, child(path, key), value, "removed", wanted)

    def _lists(
        self,
        path: str,
        old: list[Value] | tuple[Value, ...],
        new: list[Value] | tuple[Value, ...],
        wanted: bool,
        depth: int,
    ) -> Iterator[Pair]:
        for index, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from self.diff(child(path, index), a, b, wanted, depth + 1)
        for index in range(len(old), len(new)):
            yield from self._all(self._new, child(path, index), new[index], "added", wanted)
        for index in range(len(new), len(old)):
            yield from self._all(self._old, child(path, index), old[index], "removed", wanted)

    def _all(self, side: Side, path: str, value: Value, change: str, wanted: bool) -> Iterator[Pair]:
        for inner, leaf in side.leaves(path, value):
            if wanted or self._globs is None or self._takes(path, inner):
                yield Pair(inner, leaf, None, change) if change == "removed" else Pair(inner, None, leaf, change)

    def _takes(self, start: str, path: str) -> bool:
        """Whether a glob takes this path or one between it and where the walk came in."""
        assert self._globs is not None
        names = keys(path)
        return any(self._globs.match(".".join(names[:count])) for count in range(len(keys(start)), len(names) + 1))


def _mapping(side: Side, value: Value) -> Value:
    """A mapping without its kind and metadata; anything else as it is."""
    while isinstance(value, Typed) and value.name.partition(":")[0] in MAPPINGS:
        value = side.shallow(value.value)
    if isinstance(value, Map) and any(key == METADATA for key, _ in value.entries):
        return Map(tuple([(key, item) for key, item in value.entries if key != METADATA]))
    return value


def _is_leaf(value: Value) -> bool:
    return not isinstance(value, (Map, list, tuple, Typed)) or is_long_list(value)


def _differs(old: Value, new: Value, loose: bool) -> bool:
    if isinstance(old, (TensorRecord, ArrayRecord, BlobRecord)) or isinstance(
        new, (TensorRecord, ArrayRecord, BlobRecord)
    ):
        if loose:
            return element_type(old) != element_type(new) or _storage_and_layout(old) != _storage_and_layout(new)
        return _renumbered(old) != _renumbered(new)
    return canonical(old) != canonical(new)


def _renumbered(record: Value) -> Value:
    """Without the number of its alias, which moves when tensors before it come to share a storage."""
    return structs.replace(record, alias=0) if isinstance(record, TensorRecord) and record.alias is not None else record


def element_type(value: Value) -> tuple[str, tuple[int, ...]] | None:
    """The dtype, by torch's name for it, and the shape of a tensor or array."""
    if isinstance(value, TensorRecord):
        return value.dtype, value.shape
    if isinstance(value, ArrayRecord):
        name = dtype_name(value)
        return TORCH_NAMES.get(name, name), value.shape
    return None


TORCH_NAMES = {
    "|b1": "bool",
    **{f"{'|' if size == 1 else '<'}{kind}{size}": f"{word}{8 * size}" for kind, word in (("i", "int"), ("u", "uint"))
       for size in (1, 2, 4, 8)},
    **{f"<f{size}": f"float{8 * size}" for size in (2, 4, 8)},
    **{f"<c{size}": f"complex{8 * size}" for size in (8, 16)},
}  # fmt: skip
"""What torch calls the dtypes that numpy describes so."""


def _storage_and_layout(value: Value) -> object:
    if isinstance(value, TensorRecord):
        return value.storage, value.stride, value.offset
    if isinstance(value, ArrayRecord):
        return value.storage, "F" if value.fortran else None, 0
    return value


def _change(old_side: Side, new_side: Side, pair: Pair) -> Change:
    old, new = pair.old, pair.new
    if pair.change != "changed":
        side, leaf = (old_side, old) if pair.change == "removed" else (new_side, new)
        words = describe(leaf)
        chunks, nbytes = _size(side, leaf)
        before, after = (words, "") if pair.change == "removed" else ("", words)
        return Change(pair.path, kind_of(leaf), pair.change, before, after, chunks, nbytes, chunks, nbytes)
    total_chunks, total = _size(new_side, new)
    chunks, nbytes = total_chunks, total
    words, now = describe(old), describe(new)
    if isinstance(old, (TensorRecord, ArrayRecord, BlobRecord)) and isinstance(
        new, (TensorRecord, ArrayRecord, BlobRecord)
    ):
        chunks, nbytes = _changed(old_side, old, new_side, new)
        if words == now and isinstance(old, TensorRecord) and isinstance(new, TensorRecord):
            words, now = words + _details(old, new), now + _details(new, old)
    return Change(pair.path, kind_of(new), "changed", words, now, chunks, nbytes, total_chunks, total)


def _details(record: TensorRecord, other: TensorRecord) -> str:
    """What else a tensor is, where the other is not."""
    said = ""
    if record.strides != other.strides:
        said += f" strides {list(record.strides)}"
    if record.flags != other.flags:
        said += " parameter" if record.flags & PARAMETER else " tensor"
        said += " with gradient" if record.flags & REQUIRES_GRAD else " without gradient"
    if (record.alias is None) != (other.alias is None):
        said += " on its own" if record.alias is None else " sharing its storage"
    return said


def _changed(old_side: Side, old: Record, new_side: Side, new: Record) -> tuple[int, int]:
    if old.storage == new.storage:
        return 0, 0
    total = stored_bytes(new)
    names = new_side.chunks(new)
    size = new_side.objects.node(new.storage.id).chunk_size if isinstance(new.storage, NodeRef) else total
    chunks = nbytes = 0
    for index, (a, b) in enumerate(zip_longest(old_side.chunks(old), names)):
        if b is not None and a != b:
            chunks += 1
            nbytes += min(size, total - index * size)
    return chunks, nbytes


def _size(side: Side, value: Value) -> tuple[int, int]:
    """Chunks (an inline storage counts as one) and bytes of what a leaf stores."""
    if not isinstance(value, (TensorRecord, ArrayRecord, BlobRecord)):
        return 0, 0
    return len(side.chunks(value)), stored_bytes(value)
