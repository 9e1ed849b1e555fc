"""The two sides of a diff for which tensors are needed: their elements, and states that lie in files.

A file's state is hashed as a commit of it would be, into a store in memory that keeps nodes and trees and no chunk; the
bytes stay where they are. So the one diff of `casckpt.history.diff` works between commits and files alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Final

import numpy as np
import torch

from casckpt.errors import RestoreMismatchError
from casckpt.history.diff import Change, Pair, Side, changes, element_type, pairs
from casckpt.history.fetch import Objects
from casckpt.history.ingest import Ingest
from casckpt.objects.codec import encode
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import chunk_bounds
from casckpt.objects.paths import Globs, child
from casckpt.objects.tree import canonical
from casckpt.objects.values import MAPPINGS, ArrayRecord, Map, TensorRecord, Typed, Value
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Progress, no_progress
from casckpt.tensors.compare import compare
from casckpt.tensors.flatten import Span, flatten
from casckpt.tensors.inflate import inflate
from casckpt.tensors.load import fill
from casckpt.tensors.memory import Held, Memory
from casckpt.tensors.save import Staging, save


@dataclass(frozen=True, slots=True)
class Choice:
    """What of two states is compared. part: the one top-level key; None: all of it."""

    part: str | None = None
    globs: Globs | None = None
    values: bool = False
    loose: bool = False


def diff_sides(old: Side, new: Side, choice: Choice, progress: Progress = no_progress) -> list[Change]:
    """What differs, in the order of the new state; with `values` the elements are compared, a pair at a time."""
    path = "" if choice.part is None else child("", choice.part)
    found = list(pairs(old, new, path, choice.globs, loose=choice.loose))
    if choice.loose:
        found = [pair for pair in found if not _same_elements(old, new, pair)]
    told = list(changes(old, new, found))
    if choice.loose:
        told = [_whole(change, pair) for change, pair in zip(told, found, strict=True)]
    if not choice.values:
        return told
    total = sum(change.total_nbytes for change in told)
    loaders = _Loader(old.objects), _Loader(new.objects)
    done = 0
    for index, (change, pair) in enumerate(zip(told, found, strict=True)):
        progress("comparing values", done, total)
        if isinstance(pair.old, _DENSE) and isinstance(pair.new, _DENSE) and pair.old.shape == pair.new.shape:
            values = compare(loaders[0].load(pair.old), loaders[1].load(pair.new))
            told[index] = replace(change, values=values)
        done += change.total_nbytes
    progress("comparing values", total, total)
    return told


_DENSE: Final = (TensorRecord, ArrayRecord)


class _Loader:
    """Tensors one by one; the last storage is kept, as views of one storage come one after the other."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._last: tuple[object, Held] | None = None

    def load(self, record: TensorRecord | ArrayRecord) -> object:
        kind = type(record), record.storage
        if self._last is None or self._last[0] != kind:
            self._last = None  # before the next one is taken
            memory = Memory.for_value(record)
            for target in memory.targets:
                fill(self._objects, target.ref, target.out)
            self._last = kind, memory.held[0]
        memory = Memory()
        memory.held.append(self._last[1])
        return inflate(record, memory)


def _same_elements(old: Side, new: Side, pair: Pair) -> bool:
    """Whether both sides have the same elements, bit for bit, though they store them in another layout or type."""
    before, after = pair.old, pair.new
    if not (isinstance(before, _DENSE) and isinstance(after, _DENSE)) or element_type(before) != element_type(after):
        return False
    if type(before) is type(after) and _layout(before) == _layout(after):
        return False  # then their bytes are at the same place, and differ
    first, second = _bits(_Loader(old.objects).load(before)), _bits(_Loader(new.objects).load(after))
    return first is not None and second is not None and bool(np.array_equal(first, second))


def _layout(record: TensorRecord | ArrayRecord) -> object:
    if isinstance(record, TensorRecord):
        return record.strides, record.offset, _bytes(record)
    return record.fortran


def _bytes(record: TensorRecord) -> int:
    storage = record.storage
    return len(storage) if isinstance(storage, bytes) else storage if isinstance(storage, int) else storage.length


def _bits(item: object) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
    """The elements one behind the other as they lie in a contiguous tensor, as bytes."""
    if isinstance(item, torch.Tensor):
        flat = item.detach().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    array = np.ascontiguousarray(item)
    return array.reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)


def _whole(change: Change, pair: Pair) -> Change:
    """Of two layouts no chunk is at the same place, so all of them count as changed."""
    if not (isinstance(pair.old, _DENSE) and isinstance(pair.new, _DENSE)):
        return change
    if type(pair.old) is type(pair.new) and _layout(pair.old) == _layout(pair.new):
        return change
    return replace(change, chunks=change.total_chunks, nbytes=change.total_nbytes)


# -- a state that lies in a file ---------------------------------------------------------------------------------------


class _Hashing(Ingest):
    """Ids of everything, chunks of nothing: as if the store had every chunk already."""

    def holds_chunk(self, oid: bytes) -> bool:
        return True

    def add_tree(self, raw: bytes) -> bytes:
        oid = self._scheme.digest(Kind.TREE, raw)
        self._take(Kind.TREE, oid, encode(Kind.TREE, oid, raw))
        return oid


class _LiveObjects(Objects):
    """Nodes and trees out of the store in memory, chunks out of the spans of the live state."""

    def __init__(self, store: MemoryStore, scheme: IdScheme, chunks: dict[bytes, tuple[Span, int, int]]) -> None:
        super().__init__(store.read(), scheme)
        self._chunks = chunks

    def frame(self, kind: Kind, oid: bytes) -> memoryview:
        if kind is not Kind.CHUNK:
            return super().frame(kind, oid)
        span, start, end = self._chunks[oid]
        return memoryview(encode(Kind.CHUNK, oid, span.host()[start:end], "none"))


def side_of_state(state: object, scheme: IdScheme, chunk_size: int) -> Side:
    """A live state as one side of a diff, its ids those that a store of this scheme and chunk size would give."""
    flat = flatten(state)
    store = MemoryStore(hash=scheme.name, chunk_size=chunk_size, codec="none")
    with _Hashing(store, scheme, "none") as ingest:
        saved = save(ingest, flat, scheme, {}, chunk_size, "none", Staging())
        ingest.flush()
    chunks: dict[bytes, tuple[Span, int, int]] = {}
    for span in flat.spans:
        if node := saved.nodes.get(span.path):
            for oid, (start, end) in zip(node.ids(), chunk_bounds(node.length, chunk_size), strict=True):
                chunks.setdefault(oid, (span, start, end))
    objects = _LiveObjects(store, scheme, chunks)
    return Side(objects, objects.tree(saved.tree))


def side_of_file(path: str | PathLike[str], scheme: IdScheme, chunk_size: int) -> Side:
    """The state of a safetensors, torch or npz file, or of a folder of them, as one side of a diff.

    Raises:
        ImportFormatError, UnsupportedTypeError
    """
    from casckpt.tensors.formats import read_state

    return side_of_state(read_state(path).state, scheme, chunk_size)


# -- the part of a commit that a flat file stands for ------------------------------------------------------------------


def _entries(side: Side, value: Value) -> dict[bytes, tuple[Value, Value]]:
    """Key and value of each entry of a mapping, by the key's bytes; nothing where it is no mapping."""
    value = side.shallow(value)
    while isinstance(value, Typed) and value.name.partition(":")[0] in MAPPINGS:
        value = side.shallow(value.value)
    if not isinstance(value, Map):
        return {}
    return {canonical(key): (key, item) for key, item in value.entries}


def fit(commit: Side, file: Side, part: str | None) -> tuple[Side, Side, str | None]:
    """The commit and the file, both from the part on that is to be compared; and that part, None for all.

    Raises:
        RestoreMismatchError
    """
    if part is None:
        part = _fitting_part(commit, file)
    if part is None:
        return commit, file, None
    return _narrowed(commit, part), _narrowed(file, part, whole_if_absent=True), part


def _fitting_part(commit: Side, file: Side) -> str | None:
    """The part of a commit that a file stands for: it has none of the commit's parts, but keys of that one at its top.

    Raises:
        RestoreMismatchError: it could be one of several.
    """
    parts, keys = _entries(commit, commit.root), _entries(file, file.root).keys()
    if keys & parts.keys():
        return None
    fits = [key for key, item in parts.values() if isinstance(key, str) and _entries(commit, item).keys() & keys]
    if len(fits) > 1:
        raise RestoreMismatchError(
            f"the file could stand for several parts of the commit: {', '.join(fits)}",
            path="",
            remedy="say which one with part=, or --part at the command line",
        )
    return fits[0] if fits else None


def _narrowed(side: Side, part: str, *, whole_if_absent: bool = False) -> Side:
    """The side from a part of its state on. whole_if_absent: a state that has no such part is that part.

    Raises:
        RestoreMismatchError: it has no such part.
    """
    held = _entries(side, side.root)
    found = held.get(canonical(part))
    if found is not None and (not whole_if_absent or _entries(side, found[1])):
        return Side(side.objects, found[1])
    if whole_if_absent:
        return side
    names = ", ".join([child("", key) for key, _ in held.values()])
    raise RestoreMismatchError("there is no such part", path=child("", part), remedy=f"there is {names or 'no part'}")
