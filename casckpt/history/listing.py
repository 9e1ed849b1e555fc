"""The leaves of a commit's state, from its trees and nodes alone: no chunk is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casckpt.history.fetch import Objects
from casckpt.history.plain import from_value
from casckpt.objects.node import NodeRef, chunk_count
from casckpt.objects.paths import Globs, child, children, leaves, readable, select
from casckpt.objects.tree import expand, shallow
from casckpt.objects.values import METADATA, ArrayRecord, BlobRecord, Map, Record, TensorRecord, Typed, Value

# A list of more plain values than this (a sampler's order, a generator's state) is one leaf.
LONG_LIST: Final = 16
_RECORDS: Final = (TensorRecord, ArrayRecord, BlobRecord)
# Characters in which a plain value is described.
_WORDS: Final = 60


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a state.

    kind: "tensor", "array", "blob", "value", or "released" for a whole part that is no longer kept. what: the leaf in
    words ("float32 [4, 8]", "0.001"). nbytes, chunks: of the storage behind it (a chunk that stands in the tree itself
    counts as none); of tensors that share one, the first has them, and the others have 0. shares: the path of that
    first tensor. dtype, shape: of tensors and arrays, elements along each dimension.
    """

    path: str
    kind: str
    what: str
    nbytes: int = 0
    chunks: int = 0
    shares: str | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


def list_leaves(objects: Objects, root: bytes, released: tuple[str, ...], globs: Globs | None) -> Iterator[Leaf]:
    """The leaves of the state under a root tree, or those that the globs take, in its order.

    Raises:
        CorruptObjectError, MissingObjectError
    """
    state = shallow(objects.tree(root), objects.tree)
    gone: list[str] = []
    if isinstance(state, Map):
        gone = [child("", key) for key, _ in state.entries if key in released]
        state = Map(tuple([(key, item) for key, item in state.entries if key not in released]))
    if globs is not None:
        state = select(state, globs, objects.tree)
        gone = [part for part in gone if globs.match(part) or globs.may_match_under(part)]
    first: dict[int, str] = {}
    if state != Map(()):
        for path, value in whole_leaves(expand(state, objects.tree)):
            yield _leaf(objects, path, value, first)
    for part in gone:
        yield Leaf(part, "released", "released")


def whole_leaves(value: Value, path: str = "") -> Iterator[tuple[str, Value]]:
    """Leaves as people look at them: a Typed over a plain value is one, and so are a long list of plain values and what
    a mapping keeps as a whole (the versions in a module's state_dict)."""
    inner = value
    while isinstance(inner, Typed):
        inner = inner.value
    if not isinstance(inner, (Map, list, tuple)) or is_long_list(inner):
        yield path, inner if isinstance(inner, _RECORDS) else value
        return
    if not (inner.entries if isinstance(inner, Map) else inner):
        yield path, value
    metadata = isinstance(inner, Map) and next((item for key, item in inner.entries if key == METADATA), None)
    for inner_path, item in children(path, inner):
        if item is metadata and not any(isinstance(leaf, _RECORDS) for _, leaf in leaves(item)):
            yield inner_path, item
        else:
            yield from whole_leaves(item, inner_path)


def is_long_list(value: Value) -> bool:
    """Whether this is a list or tuple of so many plain values that nobody reads them one by one."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > LONG_LIST
        and all(item is None or isinstance(item, (bool, int, float, str, bytes)) for item in value)
    )


def _leaf(objects: Objects, path: str, value: Value, first: dict[int, str]) -> Leaf:
    if not isinstance(value, (TensorRecord, ArrayRecord, BlobRecord)):
        return Leaf(path, "value", describe(value))
    dtype = shape = None
    if isinstance(value, TensorRecord):
        dtype, shape = value.dtype, value.shape
        if value.alias is not None:
            before = first.setdefault(value.alias, path)
            if before != path:
                return Leaf(path, kind_of(value), describe(value), 0, 0, before, dtype, shape)
    elif isinstance(value, ArrayRecord):
        dtype, shape = dtype_name(value), value.shape
    return Leaf(path, kind_of(value), describe(value), stored_bytes(value), _chunks(objects, value), None, dtype, shape)


def _chunks(objects: Objects, record: Record) -> int:
    if not isinstance(record.storage, NodeRef):
        return 0
    node = objects.node(record.storage.id)
    return chunk_count(node.length, node.chunk_size)


def stored_bytes(record: Record) -> int:
    """Bytes of the storage behind a record."""
    storage = record.storage
    return storage.length if isinstance(storage, NodeRef) else len(storage) if isinstance(storage, bytes) else 0


def kind_of(value: Value) -> str:
    """ "tensor", "array", "blob" or "value"."""
    if isinstance(value, TensorRecord):
        return "tensor"
    if isinstance(value, ArrayRecord):
        return "array"
    return "blob" if isinstance(value, BlobRecord) else "value"


def dtype_name(record: ArrayRecord) -> str:
    """numpy's description of an array's dtype, as text."""
    return record.dtype if isinstance(record.dtype, str) else readable(from_value(record.dtype))


def describe(value: Value) -> str:
    """A leaf in a few words: "float32 [4, 8]", "str of 70000 bytes", "0.001", "{}", "624 values: [1, 2, …"."""
    if isinstance(value, TensorRecord):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, ArrayRecord):
        return f"numpy {readable(from_value(value.dtype))} {list(value.shape)}"
    if isinstance(value, BlobRecord):
        return f"{'str' if value.text else 'bytes'} of {stored_bytes(value)} bytes"
    if isinstance(value, Typed):
        return f"{value.name} {describe(value.value)}"
    if isinstance(value, (list, tuple)) and is_long_list(value):
        return _cut(f"{len(value)} values: {readable(value[:LONG_LIST])}")
    return _cut(readable(from_value(value)))


def _cut(text: str) -> str:
    return text if len(text) <= _WORDS else text[: _WORDS - 3] + "..."
