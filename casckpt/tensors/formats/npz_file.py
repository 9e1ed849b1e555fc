"""npz files: a zip of numpy's arrays. Without pickle, ever: an array of objects is refused both ways."""

from __future__ import annotations

import ast
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

import numpy as np
from numpy.lib import format as npy

from casckpt.errors import ImportFormatError, UnsupportedTypeError
from casckpt.limits import MAX_UNPACKED, MIB
from casckpt.objects.values import ArrayRecord, TensorRecord
from casckpt.tensors.formats.packing import Packed, Piece
from casckpt.tensors.formats.replace import Writer
from casckpt.tensors.formats.unpacking import Stored, unpack
from casckpt.tensors.numpy_leaves import Array, as_plain, bytes_of, dtype_of

ENTRY: Final = "__casckpt__"
"""The array of bytes that holds what is more than a flat dict of tensors."""
RESERVED: Final = (ENTRY, "file")

_DTYPES: Final = {
    "bool": "|b1",
    "uint8": "|u1",
    "int8": "|i1",
    "uint16": "<u2",
    "int16": "<i2",
    "float16": "<f2",
    "uint32": "<u4",
    "int32": "<i4",
    "float32": "<f4",
    "uint64": "<u8",
    "int64": "<i8",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
}
_NAMES: Final = {code: name for name, code in _DTYPES.items()}
# What a zip file may add to a member's bytes: the two heads with the longest name, and numpy's own.
_HEADS: Final = 8192
# Characters of a dtype's description: numpy reads heads of ten thousand.
_DESCRIPTION: Final = 6000


# -- writing -----------------------------------------------------------------------------------------------------------


def dtype_and_shape(piece: Piece) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """numpy's dtype and shape for a piece; plain bytes for a dtype whose description a head cannot hold.

    Raises:
        UnsupportedTypeError: numpy has no such dtype.
    """
    record = piece.record
    if isinstance(record, ArrayRecord):
        dtype = dtype_of(record.dtype)
        described = repr(npy.dtype_to_descr(dtype))
        if described.isascii() and len(described) < _DESCRIPTION:
            return dtype, piece.layout.shape
        return np.dtype(np.uint8), (piece.nbytes,)
    name = record.dtype if isinstance(record, TensorRecord) else "uint8"
    if name not in _DTYPES:
        raise UnsupportedTypeError(
            f"numpy has no {name}", path=piece.path, remedy="export it as safetensors or as a torch file"
        )
    return np.dtype(_DTYPES[name]), piece.layout.shape


def check(packed: Packed) -> None:
    """Whether numpy has every dtype of a state.

    Raises:
        UnsupportedTypeError: named by its path.
    """
    for piece in packed.pieces:
        dtype_and_shape(piece)


def size_of(packed: Packed) -> int:
    """Bytes of the file, at most."""
    pieces = sum(piece.nbytes + _HEADS for piece in packed.pieces)
    return pieces + len(packed.entry) + _HEADS


def write_npz(writer: Writer, packed: Packed) -> None:
    """Write the pieces and, unless they are the state by their names, the entry.

    Raises:
        ExportError, ExportFullError
    """
    with zipfile.ZipFile(cast(IO[bytes], _Unseekable(writer)), "w", zipfile.ZIP_STORED) as archive:
        for piece in packed.pieces:
            _write_array(archive, piece.name, *dtype_and_shape(piece), piece.read())
        if not packed.flat:
            entry = memoryview(packed.entry)
            _write_array(archive, ENTRY, np.dtype(np.uint8), (len(entry),), entry)


class _Unseekable:
    """A file that zipfile only appends to."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def write(self, data: bytes, /) -> int:
        """Append to it."""
        return self._writer.write(data)

    def flush(self) -> None:
        """Nothing waits here."""


def _write_array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], raw: memoryview
) -> None:
    head = io.BytesIO()
    described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_2_0(head, described)
    with archive.open(_member(name), "w", force_zip64=raw.nbytes > 1 << 30) as member:
        member.write(head.getvalue())
        member.write(raw)


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy")


# -- reading -----------------------------------------------------------------------------------------------------------


def read_npz(path: Path) -> object:
    """The state in a file: as its entry says, else its arrays by their names, as tensors where torch has the dtype.

    Raises:
        ImportFormatError, NewerFormatError, UnsupportedTypeError
    """
    try:
        found = dict(_arrays(path))
    except ImportFormatError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have errors of many kinds
        raise ImportFormatError(f"no whole npz file: {error}", file=str(path)) from error
    entry = found.pop(ENTRY, None)
    stored = {name: _stored(array) for name, array in found.items()}
    if entry is not None:
        return unpack(entry.tobytes(), stored, str(path))
    return {
        name: array if stored[name].dtype is None else stored[name].tensor().reshape(array.shape)
        for name, array in found.items()
    }


def _stored(array: Array) -> Stored:
    plain, _ = as_plain(np.ascontiguousarray(array))
    held = np.frombuffer(bytes_of(plain), np.uint8) if plain.nbytes else np.empty(0, np.uint8)
    return Stored(_NAMES.get(array.dtype.str), array.shape, held)


def _arrays(path: Path) -> Iterator[tuple[str, Array]]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) != len(names):
            raise ImportFormatError("a name stands in it twice", file=str(path))
        if sum(member.compress_size for member in members) > size:
            raise ImportFormatError("it says that it holds more bytes than it has", file=str(path))
        if sum(member.file_size for member in members) > MAX_UNPACKED * size + MIB:
            raise ImportFormatError(
                f"it would unpack to more than {MAX_UNPACKED} times its size",
                file=str(path),
                remedy="save it with numpy.savez, uncompressed",
            )
        for name, member in zip(names, members, strict=True):
            yield name, _array(archive, member, path, raw)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, raw: BinaryIO) -> Array:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        readers: dict[tuple[int, int], Callable[[Any], Any]] = {
            (1, 0): npy.read_array_header_1_0,
            (2, 0): npy.read_array_header_2_0,
            (3, 0): _read_header_3_0,
        }
        shape, fortran, dtype = readers[version](file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects, which are never unpickled")
        count = int(np.prod(shape, dtype=object)) * dtype.itemsize
        at = file.tell()
        if count != member.file_size - at:
            raise ValueError(f"{member.filename} says that it has {count} bytes, and has {member.file_size - at}")
        if member.compress_type == zipfile.ZIP_STORED and count:
            held = np.memmap(path, np.uint8, "c", _start(raw, member) + at, count).view(np.ndarray)
            file.seek(0)
            if (
                zlib.crc32(held.data, zlib.crc32(file.read(at))) != member.CRC
            ):  # as zipfile does where it reads by itself
                raise ValueError(f"{member.filename} has other bytes than were written")
        else:
            held = np.frombuffer(bytearray(file.read(count)), np.uint8)
            if len(held) != count:
                raise ValueError(f"{member.filename} ends too early")
    made: Array = np.ndarray(shape, dtype, held.data, order="F" if fortran else "C")
    return made


def _read_header_3_0(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The head in UTF-8, for which numpy has no public reader. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"""
    length = int.from_bytes(file.read(4), "little")
    if length > 10_000:
        raise ValueError("a head that is too long")
    fields = ast.literal_eval(file.read(length).decode())
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("a head without a shape")
    return shape, bool(fortran), npy.descr_to_dtype(fields["descr"])


def _start(raw: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its own head, whose name and extra field may differ from the directory's."""
    raw.seek(member.header_offset)
    head = raw.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise ValueError(f"{member.filename} is not where the file says")
    return member.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
