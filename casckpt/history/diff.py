"""What differs between two states, by leaf: which tensors, how many of their chunks and bytes, which plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from casckpt.history.fetch import Objects
from casckpt.history.plain import from_value
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import child, leaves, readable
from casckpt.objects.tree import canonical, expand, shallow
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Paged, Record, TensorRecord, TreeRef, Typed, Value


@dataclass(frozen=True, slots=True)
class Change:
    """One leaf that differs.

    kind: "tensor", "array", "blob" or "value". change: "added", "removed" or "changed". old, new: what stood and stands
    there, in words ("float32 [4, 8]", "0.001"). chunks, nbytes: how many of the new leaf's chunks and stored bytes are
    not in the old one at the same place (of the old one's, where it was removed); total_*: of how many.
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


def diff_roots(old: Objects, old_root: Value, new: Objects, new_root: Value) -> Iterator[Change]:
    """Changes from one state to the other, in the order of the new one. Equal subtrees are passed over unread."""
    yield from _diff(_Side(old), _Side(new), "", old_root, new_root)


class _Side:
    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def shallow(self, value: Value) -> Value:
        return shallow(value, self.objects.tree)

    def leaves(self, path: str, value: Value) -> Iterator[tuple[str, Value]]:
        return leaves(expand(value, self.objects.tree), path)

    def chunks(self, record: Record) -> list[bytes]:
        """A name for each chunk of a record: its id, or its bytes where it stands in the tree."""
        storage = record.storage
        if isinstance(storage, NodeRef):
            return self.objects.node(storage.id).ids()
        return [storage] if isinstance(storage, bytes) and storage else []


def _diff(old_side: _Side, new_side: _Side, path: str, old: Value, new: Value) -> Iterator[Change]:
    if isinstance(old, (TreeRef, Paged)) and old == new:
        return
    old, new = old_side.shallow(old), new_side.shallow(new)
    if isinstance(old, Typed) and isinstance(new, Typed) and old.name == new.name:
        yield from _diff(old_side, new_side, path, old.value, new.value)
    elif isinstance(old, Map) and isinstance(new, Map):
        before = {canonical(key): (key, value) for key, value in old.entries}
        for key, value in new.entries:
            there = before.pop(canonical(key), None)
            if there is None:
                yield from _all(new_side, child(path, key), value, "added")
            else:
                yield from _diff(old_side, new_side, child(path, key), there[1], value)
        for key, value in before.values():
            yield from _all(old_side, child(path, key), value, "removed")
    elif isinstance(old, (list, tuple)) and type(old) is type(new):
        assert isinstance(new, (list, tuple))
        for index, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from _diff(old_side, new_side, child(path, index), a, b)
        for index in range(len(old), len(new)):
            yield from _all(new_side, child(path, index), new[index], "added")
        for index in range(len(new), len(old)):
            yield from _all(old_side, child(path, index), old[index], "removed")
    elif _is_leaf(old) and _is_leaf(new):
        change = _leaf(old_side, new_side, path, old, new)
        if change is not None:
            yield change
    else:
        yield from _all(old_side, path, old, "removed")
        yield from _all(new_side, path, new, "added")


def _is_leaf(value: Value) -> bool:
    return not isinstance(value, (Map, list, tuple, Typed))


def _leaf(old_side: _Side, new_side: _Side, path: str, old: Value, new: Value) -> Change | None:
    if isinstance(old, (TensorRecord, ArrayRecord, BlobRecord)) and isinstance(
        new, (TensorRecord, ArrayRecord, BlobRecord)
    ):
        if old == new:
            return None
        chunks, nbytes = _changed(old_side, old, new_side, new)
        total_chunks, total = _size(new_side, new)
        words = (describe(old), describe(new))
        return Change(path, _kind(new), "changed", *words, chunks, nbytes, total_chunks, total)
    if canonical(old) == canonical(new):
        return None
    chunks, nbytes = _size(new_side, new)
    return Change(path, _kind(new), "changed", describe(old), describe(new), chunks, nbytes, chunks, nbytes)


def _all(side: _Side, path: str, value: Value, change: str) -> Iterator[Change]:
    for inner, leaf in side.leaves(path, value):
        words = describe(leaf)
        old, new = ("", words) if change == "added" else (words, "")
        chunks, nbytes = _size(side, leaf)
        yield Change(inner, _kind(leaf), change, old, new, chunks, nbytes, chunks, nbytes)


def _changed(old_side: _Side, old: Record, new_side: _Side, new: Record) -> tuple[int, int]:
    if old.storage == new.storage:
        return 0, 0
    total = _length(new)
    names = new_side.chunks(new)
    size = new_side.objects.node(new.storage.id).chunk_size if isinstance(new.storage, NodeRef) else total
    chunks = nbytes = 0
    for index, (a, b) in enumerate(zip_longest(old_side.chunks(old), names)):
        if b is not None and a != b:
            chunks += 1
            nbytes += min(size, total - index * size)
    return chunks, nbytes


def _length(record: Record) -> int:
    storage = record.storage
    return storage.length if isinstance(storage, NodeRef) else len(storage) if isinstance(storage, bytes) else 0


def _size(side: _Side, value: Value) -> tuple[int, int]:
    """Chunks (an inline storage counts as one) and bytes of what a leaf stores."""
    if not isinstance(value, (TensorRecord, ArrayRecord, BlobRecord)):
        return 0, 0
    return len(side.chunks(value)), _length(value)


def _kind(value: Value) -> str:
    if isinstance(value, TensorRecord):
        return "tensor"
    if isinstance(value, ArrayRecord):
        return "array"
    return "blob" if isinstance(value, BlobRecord) else "value"


def describe(value: Value) -> str:
    """A leaf in a few words: "float32 [4, 8]", "str of 70000 bytes", "0.001", "{}"."""
    if isinstance(value, TensorRecord):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, ArrayRecord):
        return f"numpy {value.dtype!r} {list(value.shape)}"
    if isinstance(value, BlobRecord):
        return f"{'str' if value.text else 'bytes'} of {_length(value)} bytes"
    if isinstance(value, Typed):
        return f"{value.name} {describe(value.value)}"
    text = readable(from_value(value))
    return text if len(text) <= 60 else text[:57] + "..."
