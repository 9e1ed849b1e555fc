"""A flattened state as named tensors and one entry that says how they make up the state again.

    {"model": {"w": tensor}, "lr": 0.1}
    -> pieces  [Piece("model.w", ...)]
       entry   [1, ["model.w"], canonical bytes of {"model": {"w": record}, "lr": 0.1}]

In the entry a record's storage is a reference: its id is the number of the span, its length the span's. The n-th name
is that of the tensor in the file which holds the elements of the n-th record. Several names of one record's elements
(tied weights) are written once. Views that overlap in part are written each under its own name, so that any reader
finds all names; unpacking.py lays them over one storage again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from casckpt.errors import UnsupportedTypeError
from casckpt.limits import MAX_EMPTY_SHARE, MIB
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import canonical
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Record, TensorRecord, Value
from casckpt.tensors.flatten import Flat
from casckpt.tensors.formats.layout import Layout, layout_of
from casckpt.tensors.formats.naming import Names
from casckpt.tensors.memory import records
from casckpt.tensors.spans import Span

VERSION = 1
ID_SIZE = 8
"""Bytes of a span's number, as a storage id of the entry."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a file. path: in the state. layout: of its elements in the span; the file holds them row-major."""

    name: str
    path: str
    record: Record
    layout: Layout
    span: Span

    @property
    def nbytes(self) -> int:
        """Bytes that it has in the file."""
        return self.layout.nbytes

    def read(self) -> memoryview:
        """Its bytes, row-major."""
        return self.layout.gather(self.span.host())


@dataclass(frozen=True, slots=True)
class Packed:
    """A state as it goes into a file.

    pieces: in the order of the state. ties: for each tensor that is not written its name and that of the one which it
    is. entry: what makes the pieces the state again. flat: whether the pieces by their names are the state: a dict of
    tensors, each with its own bytes, with nothing beside them.
    """

    pieces: list[Piece]
    ties: dict[str, str]
    entry: bytes
    flat: bool


def pack(flat: Flat, reserved: Iterable[str] = ()) -> Packed:
    """The state as pieces and an entry; no byte of a tensor is read.

    reserved: names that no piece may have.

    Raises:
        UnsupportedTypeError: a tensor whose memory a file cannot hold in a sensible way; named by its path.
    """
    names = Names(frozenset(reserved))
    pieces: list[Piece] = []
    ties: dict[str, str] = {}
    written: dict[tuple[object, Layout, int], str] = {}
    held: list[str] = []  # for each record the name of the tensor that holds its elements
    for path, record in records(flat.value):
        if isinstance(record, ArrayRecord) and record.scalar:
            continue
        assert isinstance(record.storage, int)
        span = flat.spans[record.storage]
        name = names.name(path)
        layout = layout_of(record, span.length)
        key = (_dtype(record), layout, record.storage)
        if layout.nbytes and key in written:
            ties[name] = written[key]
        else:
            written[key] = name
            if layout.overlaps():
                raise UnsupportedTypeError(
                    "a tensor whose own elements overlap in memory", path=path, remedy="save its clone()"
                )
            pieces.append(Piece(name, path, record, layout, span))
        held.append(ties.get(name, name))
    _check_gaps(pieces)
    return Packed(pieces, ties, _entry(flat, held), _is_flat(flat.value, pieces))


def _dtype(record: Record) -> object:
    return "blob" if isinstance(record, BlobRecord) else canonical(record.dtype)


def _check_gaps(pieces: list[Piece]) -> None:
    """Refuse spans most of which no tensor shows: whoever read the file would take memory for all of it."""
    shown: dict[int, int] = {}
    for piece in pieces:
        shown[id(piece.span)] = shown.get(id(piece.span), 0) + piece.nbytes
    for piece in pieces:
        if too_empty(piece.span.length, shown[id(piece.span)]):
            raise UnsupportedTypeError(
                f"a tensor of {piece.nbytes} bytes that lie scattered over {piece.span.length}",
                path=piece.path,
                remedy="save its contiguous() copy",
            )


def too_empty(length: int, shown: int) -> bool:
    """Whether a span of `length` bytes is too long for tensors that show so few of them."""
    return length > MAX_EMPTY_SHARE * shown + MIB


def _is_flat(value: Value, pieces: list[Piece]) -> bool:
    if not isinstance(value, Map) or len(pieces) != len(value.entries):
        return False
    return all(
        key == piece.name and isinstance(item, TensorRecord) and _is_simple(item)
        for (key, item), piece in zip(value.entries, pieces, strict=True)
    )


def _is_simple(record: TensorRecord) -> bool:
    return record.stride is None and record.alias is None and not record.flags


def _entry(flat: Flat, names: list[str]) -> bytes:
    storages: list[bytes | NodeRef] = [
        NodeRef(index.to_bytes(ID_SIZE, "big"), span.length) if span.length else b""
        for index, span in enumerate(flat.spans)
    ]
    for _, record in records(flat.value):
        if isinstance(record, ArrayRecord) and record.scalar and isinstance(record.storage, int):
            storages[record.storage] = bytes(flat.spans[record.storage].host())
    return canonical([VERSION, list(names), canonical(flat.value, storages)])
