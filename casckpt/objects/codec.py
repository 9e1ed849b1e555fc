"""From an object's canonical bytes to a frame and back: raw or zstd, whichever is smaller for its worth.

So are commits, trees and nodes stored; chunks have more codecs (`encoding`, `chain`). Decoding never trusts a length:
the frame's head is checked first, then zstd's own header against it, then the id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from casckpt.errors import CorruptObjectError, NewerFormatError, StateError
from casckpt.limits import KIB, MAX_CHUNK_SIZE, MAX_COMMIT, MAX_NODE, MAX_TREE
from casckpt.objects.frame import Codec, FrameHead, head_size, pack_head, read_frame
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.zstd import compressor, decompressed

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LEVEL: Final = {"fast": 1, "auto": 1, "small": 12}
# The probe: a sample from four places must shrink to this share, or the whole is stored as it is. Dense floats shrink
# by some 8 % at 0.4 GB/s, which is not worth its time; ids, masks, counters and zeros shrink by far more.
_PROBE_BYTES: Final = 4 * KIB
_PROBE_SHARE: Final = 0.8
# Below this a zstd frame saves nothing that a database page would notice.
_SMALLEST: Final = 256
# Bytes of an object at most: what a head says decides how much memory is taken.
MOST: Final = {Kind.CHUNK: MAX_CHUNK_SIZE, Kind.NODE: MAX_NODE, Kind.TREE: MAX_TREE, Kind.COMMIT: MAX_COMMIT}


def _may_shrink(raw: memoryview) -> bool:
    """Whether a quarter of the sample from the middle of each quarter of the bytes says so."""
    if len(raw) <= 2 * _PROBE_BYTES:
        return True
    quarter, size = len(raw) // 4, _PROBE_BYTES // 4
    starts = range((quarter - size) // 2, 4 * quarter, quarter)
    sample = b"".join([raw[start : start + size] for start in starts])
    return len(compressor(1).compress(sample)) <= _PROBE_SHARE * _PROBE_BYTES


def compress(raw: memoryview, mode: str) -> bytes | None:
    """`raw` as one zstd frame, or None where that does not pay.

    mode: one of limits.CODECS. "small" skips the probe and works harder.
    """
    if mode == "none" or len(raw) < _SMALLEST:
        return None
    if mode != "small" and not _may_shrink(raw):
        return None
    packed = compressor(_LEVEL[mode]).compress(raw)
    return packed if len(packed) < len(raw) else None


def encode(kind: Kind, oid: bytes, raw: Buffer, mode: str = "auto") -> bytes:
    """The frame of one object."""
    view = memoryview(raw).cast("B")
    if len(view) > MOST[kind]:
        raise StateError(f"a {kind.name.lower()} of {len(view)} bytes", remedy="split the state into smaller parts")
    packed = compress(view, mode)
    codec = Codec.RAW if packed is None else Codec.ZSTD
    payload = view if packed is None else packed
    return b"".join((pack_head(FrameHead(kind, codec, oid, len(view), len(payload))), payload))


def encode_in_place(oid: bytes, buffer: memoryview, mode: str) -> memoryview:
    """The frame of a chunk in a store of format 1. It lies in `buffer` behind room for a head, and is written over it.

    buffer: `head_size(len(oid))` free bytes, then the chunk.
    """
    start = head_size(len(oid))
    raw = buffer[start:]
    packed = compress(raw, mode)
    if packed is not None:
        frame = pack_head(FrameHead(Kind.CHUNK, Codec.ZSTD, oid, len(raw), len(packed))) + packed
        buffer[: len(frame)] = frame
        return buffer[: len(frame)]
    buffer[:start] = pack_head(FrameHead(Kind.CHUNK, Codec.RAW, oid, len(raw), len(raw)))
    return buffer


def _checked(kind: Kind, oid: bytes, frame: memoryview) -> tuple[FrameHead, memoryview]:
    head, payload = read_frame(frame)
    if head.kind is not kind or head.id != oid:
        raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} holds another object's frame")
    if head.codec not in (Codec.RAW, Codec.ZSTD):
        raise NewerFormatError(
            f"{kind.name.lower()} {oid.hex()} is coded by {head.codec.name.lower()}",
            remedy="open the store with a later casckpt",
        )
    if head.base is not None or head.planes or head.word_size:
        raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} has parts that its codec has no use for")
    if head.raw_length > MOST[kind]:
        raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} of {head.raw_length} bytes")
    if head.codec is Codec.RAW and head.payload_length != head.raw_length:
        raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} has lengths that contradict each other")
    return head, payload


def decode(scheme: IdScheme, kind: Kind, oid: bytes, frame: memoryview) -> bytes:
    """The canonical bytes of an object, checked against its id.

    Raises:
        CorruptObjectError: the frame is damaged, or its contents are not what the id says.
    """
    head, payload = _checked(kind, oid, frame)
    if head.codec is Codec.RAW:
        raw = bytes(payload)
    else:
        try:
            raw = decompressed(payload, head.raw_length)
        except CorruptObjectError as error:
            raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()}: {error.problem}") from error
    if len(raw) != head.raw_length or scheme.digest(kind, raw) != oid:
        raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} does not hash to its id")
    return raw
