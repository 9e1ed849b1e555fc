"""The inverse of packing.py: the tensors of a file and its entry as the state again. Nothing is taken on trust.

The entry is decoded as a tree of a store is, checked against the tensors that the file holds, and only then inflated.
A tensor that has a span to itself keeps the file's memory; what shares one, or lies scattered, is laid out anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from casckpt.errors import CorruptObjectError, ImportFormatError, NewerFormatError, NoMemoryError
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import decode_tree
from casckpt.objects.values import ArrayRecord, Record, TensorRecord
from casckpt.tensors.formats.layout import Layout, layout_of
from casckpt.tensors.formats.packing import ID_SIZE, VERSION, too_empty
from casckpt.tensors.inflate import inflate
from casckpt.tensors.leaf import LeafError
from casckpt.tensors.memory import Held, Memory, records
from casckpt.tensors.numpy_leaves import Array
from casckpt.tensors.torch_leaves import DTYPES


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a file holds it. dtype: torch's name of it, None where it has none. held: its bytes, row-major."""

    dtype: str | None
    shape: tuple[int, ...]
    held: Array

    def tensor(self) -> torch.Tensor:
        """The tensor over the file's memory. dtype must be one that this torch has."""
        assert self.dtype is not None
        flat = torch.from_numpy(self.held) if len(self.held) else torch.empty(0, dtype=torch.uint8, device="cpu")
        return flat.view(DTYPES[self.dtype]).reshape(self.shape)


def unpack(entry: bytes, stored: Mapping[str, Stored], file: str) -> object:
    """The state that an entry and the tensors of its file stand for.

    Raises:
        ImportFormatError: the entry is damaged, or does not fit the tensors.
        NewerFormatError, UnsupportedTypeError: as when a store is loaded.
    """
    try:
        version, names, raw = _fields(entry)
        if version != VERSION:
            raise NewerFormatError(f"{file}: written in form {version}", remedy="import it with a later casckpt")
        value = decode_tree(raw, ID_SIZE)
        spans = _spans(list(records(value)), names, stored)
        memory = Memory.for_value(value, lambda record, path: spans[_number(record)].memory(record))
        return inflate(value, memory)
    except (CorruptObjectError, LeafError, TypeError, ValueError, LookupError) as error:
        raise ImportFormatError(f"what casckpt wrote into it is damaged: {error}", file=file) from error


def _fields(entry: bytes) -> tuple[int, list[str], bytes]:
    fields = decode_tree(entry, ID_SIZE)
    if not isinstance(fields, list) or len(fields) != 3:
        raise ValueError("an entry without its three fields")
    version, names, raw = fields
    if type(version) is not int or not isinstance(names, list) or not isinstance(raw, bytes):
        raise ValueError("an entry with fields of other types")
    return version, [_text(name) for name in names], raw


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("a name that is no text")
    return name


class _Span:
    """One storage of the state, and the tensors of the file that are laid over it."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._parts: dict[tuple[Layout, int], tuple[Layout, Stored]] = {}
        self._tensors = 0
        self._others = 0
        self._made: Array | None = None

    def add(self, record: Record, length: int, layout: Layout, stored: Stored) -> None:
        """Another record over this storage, and the tensor of the file that holds its elements."""
        if length != self._length:
            raise ValueError("a storage of two lengths")
        if layout.overlaps():
            raise ValueError("a tensor whose own elements overlap")
        if isinstance(record, TensorRecord):
            self._tensors += 1
        else:
            self._others += 1
        if self._others and self._tensors + self._others > 1:
            raise ValueError("an array that shares a storage")
        self._parts[layout, id(stored)] = (layout, stored)

    def check(self) -> None:
        """Whether there is enough in it to be worth its memory."""
        if too_empty(self._length, sum(layout.nbytes for layout, _ in self._parts.values())):
            raise ValueError(f"a storage of {self._length} bytes with hardly anything in it")

    def memory(self, record: Record) -> Held:
        """Its bytes: the file's own where one tensor is all of it."""
        if self._made is None:
            self._made = self._lay_out()
        if isinstance(record, TensorRecord):
            return torch.from_numpy(self._made).untyped_storage()
        return self._made

    def _lay_out(self) -> Array:
        parts = list(self._parts.values())
        if len(parts) == 1 and parts[0][0].is_whole(self._length):
            return parts[0][1].held
        try:
            made = np.zeros(self._length, np.uint8)
        except (ValueError, MemoryError) as error:
            raise NoMemoryError(f"no memory for a storage of {self._length} bytes", needed=self._length) from error
        for layout, stored in parts:
            layout.scatter(stored.held, made)
        return made


def _spans(found: list[tuple[str, Record]], names: list[str], stored: Mapping[str, Stored]) -> dict[int, _Span]:
    named = [(path, record) for path, record in found if not (isinstance(record, ArrayRecord) and record.scalar)]
    if len(named) != len(names):
        raise ValueError(f"{len(names)} names for {len(named)} tensors")
    spans: dict[int, _Span] = {}
    for (path, record), name in zip(named, names, strict=True):
        length = record.storage.length if isinstance(record.storage, NodeRef) else 0
        layout = layout_of(record, length)
        if name not in stored:
            raise ValueError(f"at {path}: there is no tensor {name!r}")
        _check(record, layout, stored[name], path)
        if isinstance(record.storage, NodeRef):
            spans.setdefault(_number(record), _Span(length)).add(record, length, layout, stored[name])
        elif record.storage != b"" or layout.nbytes:
            raise ValueError(f"at {path}: bytes that stand in no tensor")
    for span in spans.values():
        span.check()
    return spans


def _number(record: Record) -> int:
    if not isinstance(record.storage, NodeRef):
        raise ValueError("a record that refers to nothing")
    return int.from_bytes(record.storage.id, "big")


def _check(record: Record, layout: Layout, stored: Stored, path: str) -> None:
    if stored.held.nbytes != layout.nbytes:
        raise ValueError(f"at {path}: {layout.nbytes} bytes are expected, the file has {stored.held.nbytes}")
    fits = (stored.dtype, stored.shape) == (getattr(record, "dtype", None), layout.shape)
    if isinstance(record, TensorRecord) and stored.dtype != "uint8" and not fits:
        raise ValueError(f"at {path}: the file has {stored.dtype} {list(stored.shape)} where {record.dtype} is meant")
