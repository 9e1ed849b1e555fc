"""From an object's canonical bytes to a frame and back: raw or zstd, whichever is smaller for its worth.

Decoding never trusts a length: the frame's head is checked first, then zstd's own header against it, then the id.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import zstandard

from casckpt.errors import CorruptObjectError, NewerFormatError, StateError
from casckpt.limits import KIB, MAX_OBJECT_BYTES
from casckpt.objects.frame import Codec, FrameHead, head_size, pack_head, read_frame
from casckpt.objects.ids import IdScheme, Kind

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LEVEL: Final = {"fast": 1, "auto": 1, "small": 12}
# The probe: a sample from four places must shrink to this share, or the whole is stored as it is. Dense floats shrink
# by some 8 % at 0.4 GB/s, which is not worth its time; ids, masks, counters and zeros shrink by far more.
_PROBE_BYTES: Final = 4 * KIB
_PROBE_SHARE: Final = 0.8
# Below this a zstd frame saves nothing that a database page would notice.
_SMALLEST: Final = 256

_local = threading.local()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    return made[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    if "decompressor" not in _local.__dict__:
        _local.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _local.decompressor
    return found


def _may_shrink(raw: memoryview) -> bool:
    """Whether a quarter of the sample from the middle of each quarter of the bytes says so."""
    if len(raw) <= 2 * _PROBE_BYTES:
        return True
    quarter, size = len(raw) // 4, _PROBE_BYTES // 4
    starts = range((quarter - size) // 2, 4 * quarter, quarter)
    sample = b"".join([raw[start : start + size] for start in starts])
    return len(_compressor(1).compress(sample)) <= _PROBE_SHARE * _PROBE_BYTES


def compress(raw: memoryview, mode: str) -> bytes | None:
    """`raw` as one zstd frame, or None where that does not pay.

    mode: one of limits.CODECS. "small" skips the probe and works harder.
    """
    if mode == "none" or len(raw) < _SMALLEST:
        return None
    if mode != "small" and not _may_shrink(raw):
        return None
    packed = _compressor(_LEVEL[mode]).compress(raw)
    return packed if len(packed) < len(raw) else None


def encode(kind: Kind, oid: bytes, raw: Buffer, mode: str = "auto") -> bytes:
    """The frame of one object."""
    view = memoryview(raw).cast("B")
    if len(view) > MAX_OBJECT_BYTES:
        raise StateError(f"a {kind.name.lower()} of {len(view)} bytes", remedy="split the state into smaller parts")
    packed = compress(view, mode)
    codec = Codec.RAW if packed is None else Codec.ZSTD
    payload = view if packed is None else packed
    return b"".join((pack_head(FrameHead(kind, codec, oid, len(view), len(payload))), payload))


def encode_in_place(oid: bytes, buffer: memoryview, mode: str) -> memoryview | bytes:
    """The frame of a chunk that lies in `buffer` behind room for a head: no copy is made where it stays raw.

    buffer: `head_size(len(oid))` free bytes, then the chunk. The head is written into the free bytes.
    """
    start = head_size(len(oid))
    raw = buffer[start:]
    packed = compress(raw, mode)
    if packed is not None:
        return pack_head(FrameHead(Kind.CHUNK, Codec.ZSTD, oid, len(raw), len(packed))) + packed
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
    if head.codec is Codec.RAW and head.payload_length != head.raw_length:
        raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} has lengths that contradict each other")
    return head, payload


def _decompress(kind: Kind, oid: bytes, payload: memoryview, raw_length: int) -> bytes:
    try:
        if zstandard.frame_content_size(payload) != raw_length:  # it decides how much memory is taken
            raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} lies about its size")
        return _decompressor().decompress(payload, max_output_size=raw_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} does not decompress: {error}") from error


def decode(scheme: IdScheme, kind: Kind, oid: bytes, frame: memoryview) -> bytes:
    """The canonical bytes of an object, checked against its id.

    Raises:
        CorruptObjectError: the frame is damaged, or its contents are not what the id says.
    """
    head, payload = _checked(kind, oid, frame)
    raw = bytes(payload) if head.codec is Codec.RAW else _decompress(kind, oid, payload, head.raw_length)
    if len(raw) != head.raw_length or scheme.digest(kind, raw) != oid:
        raise CorruptObjectError(f"{kind.name.lower()} {oid.hex()} does not hash to its id")
    return raw


def verified(scheme: IdScheme, oid: bytes, frame: memoryview, length: int) -> memoryview:
    """A chunk's bytes, as many as are expected, checked against its id; no copy where they stand raw in the frame.

    Then they are a view of it, which must not outlive its transaction. Raises as `decode` does.
    """
    raw = _chunk(oid, frame, length)
    if scheme.digest(Kind.CHUNK, raw) != oid:
        raise CorruptObjectError(f"chunk {oid.hex()} does not hash to its id")
    return raw


def decode_into(scheme: IdScheme, oid: bytes, frame: memoryview, out: memoryview) -> None:
    """A chunk's bytes into `out`, which must have its length; what landed in `out` is checked against the id.

    Raises:
        CorruptObjectError: the frame is damaged, or its contents are not what the id says. `out` is then undefined.
    """
    _copy(_chunk(oid, frame, len(out)), out)
    if scheme.digest(Kind.CHUNK, out) != oid:
        raise CorruptObjectError(f"chunk {oid.hex()} does not hash to its id")


def _chunk(oid: bytes, frame: memoryview, length: int) -> memoryview:
    """A chunk's bytes, not checked against its id; another length is refused before memory is taken for it."""
    head, payload = _checked(Kind.CHUNK, oid, frame)
    if head.raw_length != length:
        raise CorruptObjectError(f"chunk {oid.hex()} has {head.raw_length} bytes where {length} are expected")
    return payload if head.codec is Codec.RAW else memoryview(_decompress(Kind.CHUNK, oid, payload, length))


def _copy(raw: memoryview, out: memoryview) -> None:
    """Copy without the GIL, which an assignment to a memoryview keeps for as long as it takes, and without memcpy.

    glibc's memcpy copies 2 KiB to about 1 MiB by `rep movsb`, which on AMD is 8 times slower where the destination lies
    up to 63 bytes further on in its page than the source does: glibc's bug 30994. That is the rule here: a frame of
    LMDB's has its payload 56 bytes into a page, and malloc begins a large tensor 64 bytes into one.
    """
    import numpy as np  # for chunks only: what reads nothing but commits and trees does without

    np.bitwise_or(np.frombuffer(raw, np.uint8), 0, out=np.frombuffer(out, np.uint8))
