"""The frame: the head and payload in which every object is stored, so that each can be checked, and found, on its own.

A frame says what it holds before any byte of the payload is used. Reading one checks every length first.

    offset size  field
    0      4     magic F1 'C' 'K' 'F'
    4      1     version of the frame, 1
    5      1     kind of object
    6      1     codec of the payload
    7      1     bytes in an id: 16 or 32
    8      1     bytes in a word, for codecs that work by words; else 0
    9      1     number of planes
    10     1     1 where a base id follows, else 0
    11     1     0
    12     4     raw length: bytes of the object's canonical form
    16     4     payload length
    20     4     xxh32 of the whole head, taken with these four bytes zero
    24     n     the object's id
           n     id of the base, if any
           4*p   length of each plane
                 the payload

All integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import xxhash

from casckpt.errors import CorruptObjectError, NewerFormatError
from casckpt.limits import MAX_OBJECT_BYTES
from casckpt.objects.ids import Kind

MAGIC: Final = b"\xf1CKF"
VERSION: Final = 1
_FIXED: Final = struct.Struct("<4sBBBBBBBBIII")
_CHECK_AT: Final = 20
_ID_SIZES: Final = (16, 32)
_WORD_SIZES: Final = (0, 1, 2, 4, 8, 16)
MAX_PLANES: Final = 16
# The longest head: two ids of 32 bytes and the length of each plane.
MAX_HEAD: Final = _FIXED.size + 2 * 32 + 4 * MAX_PLANES


class Codec(IntEnum):
    """How a payload stands for the object's bytes. All but the first two are for chunks, and of format 2."""

    RAW = 0
    ZSTD = 1
    PLANES = 2
    DELTA_PLANES = 3
    SPARSE_DELTA = 4
    CONSTANT = 5
    ROTATED_PLANES = 6
    SCALED_DELTA = 7
    SORTED_DELTA = 8


DELTAS: Final = frozenset({Codec.DELTA_PLANES, Codec.SPARSE_DELTA, Codec.SCALED_DELTA, Codec.SORTED_DELTA})


@dataclass(frozen=True, slots=True)
class FrameHead:
    """What a frame says about its payload. Lengths are in bytes."""

    kind: Kind
    codec: Codec
    id: bytes
    raw_length: int
    payload_length: int
    base: bytes | None = None
    word_size: int = 0
    planes: tuple[int, ...] = ()


def head_size(id_size: int, *, has_base: bool = False, planes: int = 0) -> int:
    """Bytes before the payload."""
    return _FIXED.size + id_size * (2 if has_base else 1) + 4 * planes


def pack_head(head: FrameHead) -> bytes:
    """The head as it stands before the payload."""
    fixed = _FIXED.pack(
        MAGIC,
        VERSION,
        head.kind,
        head.codec,
        len(head.id),
        head.word_size,
        len(head.planes),
        head.base is not None,
        0,
        head.raw_length,
        head.payload_length,
        0,
    )
    tail = head.id + (head.base or b"") + struct.pack(f"<{len(head.planes)}I", *head.planes)
    check = xxhash.xxh32_intdigest(fixed + tail)
    return fixed[:_CHECK_AT] + check.to_bytes(4, "little") + tail


def read_frame(frame: memoryview) -> tuple[FrameHead, memoryview]:
    """The head and a view of the payload, after every bound has been checked.

    Raises:
        CorruptObjectError: the bytes are not a whole frame, or a length in it lies.
        NewerFormatError: a frame version or codec that this release does not know.
    """
    head, start = _read_head(frame, len(frame))
    return head, frame[start:]


def read_head(data: memoryview) -> tuple[FrameHead, int]:
    """The head of a frame that begins where `data` does, and its length; the payload need not be there.

    For whoever looks for frames. Raises as `read_frame`.
    """
    return _read_head(data, None)


def _read_head(frame: memoryview, length: int | None) -> tuple[FrameHead, int]:
    """length: that the whole frame must have; None: whatever it says."""
    if len(frame) < _FIXED.size:
        raise CorruptObjectError(f"a frame of {len(frame)} bytes is shorter than its head")
    magic, version, kind, codec, id_size, word_size, planes, has_base, zero, raw_length, payload_length, check = (
        _FIXED.unpack_from(frame)
    )
    if magic != MAGIC:
        raise CorruptObjectError(f"not a frame: it begins with {bytes(magic).hex()}")
    if version != VERSION:
        raise NewerFormatError(f"a frame of version {version}", remedy="open the store with a later casckpt")
    if id_size not in _ID_SIZES or has_base > 1 or planes > MAX_PLANES or word_size not in _WORD_SIZES or zero:
        raise CorruptObjectError("a frame's head holds impossible values")
    start = head_size(id_size, has_base=bool(has_base), planes=planes)
    if length not in (None, start + payload_length) or len(frame) < start or raw_length > MAX_OBJECT_BYTES:
        raise CorruptObjectError(f"a frame of {len(frame)} bytes says that it has {start + payload_length}")
    head = bytes(frame[:start])
    if xxhash.xxh32_intdigest(head[:_CHECK_AT] + bytes(4) + head[_FIXED.size :]) != check:
        raise CorruptObjectError("a frame's head fails its checksum")
    if kind not in Kind._value2member_map_:
        raise CorruptObjectError(f"a frame of unknown kind {kind}")
    if codec not in Codec._value2member_map_:
        raise NewerFormatError(f"a frame of codec {codec}", remedy="open the store with a later casckpt")
    at = _FIXED.size
    own = head[at : at + id_size]
    at += id_size
    base = head[at : at + id_size] if has_base else None
    at += id_size if has_base else 0
    lengths = struct.unpack_from(f"<{planes}I", head, at)
    if planes and sum(lengths) != payload_length:
        raise CorruptObjectError("a frame's planes do not add up to its payload")
    return FrameHead(Kind(kind), Codec(codec), own, raw_length, payload_length, base, word_size, lengths), start
