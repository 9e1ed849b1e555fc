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

from casckpt.history.diff import Change, Pair, Side, changes, element_type, pairs
from casckpt.history.fetch import Objects
from casckpt.history.ingest import Ingest
from casckpt.limits import SAVE_MEMORY
from casckpt.objects.codec import encode
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import chunk_bounds
from casckpt.objects.paths import Globs, child
from casckpt.objects.values import ArrayRecord, TensorRecord
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Progress, no_progress
from casckpt.tensors.compare import compare
from casckpt.tensors.flatten import Span, flatten
from casckpt.tensors.inflate import inflate
from casckpt.tensors.known import Known
from casckpt.tensors.load import Region, fill, node_of
from casckpt.tensors.memory import Held, Memory
from casckpt.tensors.save import Save, Settings
from casckpt.tensors.staging import Pool


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
            fill(self._objects, [Region(node_of(self._objects, one.ref), one.out) for one in memory.targets])
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

    def claim_chunk(self, oid: bytes) -> bool:
        return False

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
    with _Hashing(store, scheme) as ingest:
        making = Save(ingest, flat, Settings(scheme, chunk_size, "none"), Known({}), Pool(), limit=SAVE_MEMORY)
        making.take()
        saved = making.finish()
        ingest.flush()
    chunks: dict[bytes, tuple[Span, int, int]] = {}
    for span in flat.spans:
        if node := saved.known.nodes.get(span.path):
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
