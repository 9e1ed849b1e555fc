"""One safetensors file: eight bytes of length, a header of JSON, and the tensors' bytes side by side.

Read through safetensors' own library, which checks the header before anything is used, and mapped, not copied. Written
here, since the library takes no order and reports no progress. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open

from casckpt.errors import ExportError, ImportFormatError
from casckpt.limits import MAX_SAFETENSORS_HEADER
from casckpt.objects.values import ArrayRecord, TensorRecord
from casckpt.tensors.formats.packing import Packed, Piece
from casckpt.tensors.formats.replace import Writer
from casckpt.tensors.formats.unpacking import Stored, unpack
from casckpt.tensors.shards import only_once
from casckpt.tensors.torch_leaves import DTYPES

METADATA: Final = "__metadata__"
ENTRY: Final = "casckpt"
"""The metadata entry that holds what is more than a flat dict of tensors, in base64."""
RESERVED: Final = (METADATA,)

# Every dtype that safetensors has had from the first; what is of another is written as its bytes.
_CODES: Final = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
# What others may write besides.
_NAMES: Final = {code: name for name, code in _CODES.items()} | {
    "C64": "complex64",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}
_ARRAY_DTYPES: Final = {
    "|b1": "bool",
    "|u1": "uint8",
    "|i1": "int8",
    "<u2": "uint16",
    "<i2": "int16",
    "<f2": "float16",
    "<u4": "uint32",
    "<i4": "int32",
    "<f4": "float32",
    "<u8": "uint64",
    "<i8": "int64",
    "<f8": "float64",
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: its tensors in the order of their bytes, and its metadata."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]


# -- writing -----------------------------------------------------------------------------------------------------------


def code_and_shape(piece: Piece) -> tuple[str, tuple[int, ...]]:
    """A piece's dtype and shape in a header; U8 and one dimension more where safetensors lacks the dtype."""
    record, layout = piece.record, piece.layout
    name: str | None = None
    if isinstance(record, TensorRecord):
        name = record.dtype
    elif isinstance(record, ArrayRecord) and isinstance(record.dtype, str):
        name = _ARRAY_DTYPES.get(record.dtype)
    if name in _CODES:
        return _CODES[name], layout.shape
    if isinstance(record, TensorRecord):
        return "U8", (*layout.shape, layout.item)
    return "U8", (layout.nbytes,)


def in_order(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces as they are written: the widest elements first, so that each lies at a multiple of its size."""
    return sorted(pieces, key=lambda piece: -piece.layout.item)


def is_plain(packed: Packed) -> bool:
    """Whether a file without an entry gives the state: a flat dict in the order of the file, of dtypes that it has."""
    return (
        packed.flat
        and in_order(packed.pieces) == packed.pieces
        and all(piece.nbytes and code_and_shape(piece)[1] == piece.layout.shape for piece in packed.pieces)
    )


def header(pieces: Sequence[Piece], metadata: Mapping[str, str], file: str) -> bytes:
    """The length and the header of a file with these pieces in this order.

    Raises:
        ExportError: it would be longer than readers take.
    """
    fields: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for piece in pieces:
        code, shape = code_and_shape(piece)
        fields[piece.name] = {"dtype": code, "shape": shape, "data_offsets": [end, end + piece.nbytes]}
        end += piece.nbytes
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_SAFETENSORS_HEADER:
        raise ExportError(
            f"its header would have {len(text)} bytes, of which {MAX_SAFETENSORS_HEADER} are allowed",
            file=file,
            remedy="export a part of the state, or as a torch file",
        )
    return len(text).to_bytes(8, "little") + text


def write_pieces(writer: Writer, pieces: Sequence[Piece], metadata: Mapping[str, str], file: str) -> None:
    """Write one file.

    Raises:
        ExportError, ExportFullError
    """
    writer.write(header(pieces, metadata, file))
    for piece in pieces:
        writer.write(piece.read())


def encoded(entry: bytes) -> str:
    """An entry as it stands in metadata."""
    return base64.b64encode(entry).decode()


# -- reading -----------------------------------------------------------------------------------------------------------


def read_contents(path: Path) -> Contents:
    """The tensors of a file, in a map of it, and its metadata.

    Raises:
        ImportFormatError: it is damaged, or holds a dtype that is not known.
    """
    try:
        fields = _header(path)
        with safe_open(path, framework="numpy") as checked:  # holes, overlaps, overflow: refused by its own library
            metadata = dict(checked.metadata() or {})
            names = set(checked.keys())
        raw = np.memmap(path, np.uint8, mode="c").view(np.ndarray)
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        fields.pop(METADATA, None)
        if names != set(fields):
            raise ValueError("its header is read in two ways")
        tensors = {
            name: _stored(raw[start:], field)
            for name, field in sorted(fields.items(), key=lambda item: item[1]["data_offsets"])
        }
    except ImportFormatError:
        raise
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ImportFormatError(f"no whole safetensors file: {error}", file=str(path)) from error
    return Contents(tensors, metadata)


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_SAFETENSORS_HEADER:
            raise ValueError(f"a header of {length} bytes")
        raw = file.read(length)
    if len(raw) != length:
        raise ValueError("it ends in its header")
    fields = json.loads(raw.decode(), object_pairs_hook=only_once)  # of bytes json would guess the encoding
    if not isinstance(fields, dict):
        raise ValueError("a header that is no object")
    return fields


def _stored(data: Any, field: dict[str, Any]) -> Stored:
    begin, end = field["data_offsets"]
    code, shape = field["dtype"], tuple(field["shape"])
    name = _NAMES.get(code)
    if name == "float4_e2m1fn_x2":
        shape = (*shape[:-1], shape[-1] // 2)
    return Stored(name if name in DTYPES else None, shape, data[begin:end])


def to_state(contents: Contents, file: str) -> object:
    """The state that a file holds: as its entry says, else its tensors by their names, and tied ones once more.

    Raises:
        ImportFormatError, NewerFormatError, UnsupportedTypeError
    """
    entry = contents.metadata.get(ENTRY)
    if entry is not None:
        try:
            raw = base64.b64decode(entry, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImportFormatError(f"what casckpt wrote into it is damaged: {error}", file=file) from error
        return unpack(raw, contents.tensors, file)
    state: dict[str, Any] = {}
    for name, stored in contents.tensors.items():
        if stored.dtype is None:
            raise ImportFormatError(f"the tensor {name!r} has a dtype that this torch has not", file=file)
        state[name] = stored.tensor()
    for dropped, kept in tied_names(contents).items():
        state[dropped] = state[kept]
    return state


def tied_names(contents: Contents) -> dict[str, str]:
    """Tensors that are not in the file and those that they are, as safetensors' own save_model notes them."""
    return {
        dropped: kept
        for dropped, kept in contents.metadata.items()
        if kept in contents.tensors and dropped not in contents.tensors and dropped not in ("format", ENTRY)
    }


def own_metadata(contents: Contents) -> dict[str, str]:
    """The metadata that is the writer's own: without our entry, tied names, and what every file of torch's says."""
    tied = tied_names(contents)
    return {
        key: text
        for key, text in contents.metadata.items()
        if key not in tied and key != ENTRY and (key, text) != ("format", "pt")
    }
