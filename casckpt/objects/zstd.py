"""zstd for each thread: its coders are made once, and may be used by one thread at a time."""

from __future__ import annotations

import threading

import zstandard

from casckpt.errors import CorruptObjectError

_local = threading.local()


def compressor(level: int) -> zstandard.ZstdCompressor:
    """This thread's coder of a level."""
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    return made[level]


def decompressed(packed: memoryview, size: int) -> bytes:
    """What a zstd frame holds, `size` bytes.

    Raises:
        CorruptObjectError: it is damaged, or holds anything else; no memory was taken on its word.
    """
    if "decompressor" not in _local.__dict__:
        _local.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    try:
        if zstandard.frame_content_size(packed) != size:  # it decides how much memory is taken
            raise CorruptObjectError("it lies about its size")
        return decompressor.decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObjectError(f"it does not decompress: {error}") from error
