"""Words as byte planes: the bytes of equal significance side by side, each plane coded for itself.

The upper planes of floating-point words, and of differences of such words, hold few different bytes; the lower ones are
noise. A plane that does not shrink stands as it is.

The entropy stage is zstd, run as a Huffman coder: matches are hardly looked for. On planes it is smaller and several
times as fast as level 1 of zstd, and any zstd decoder reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import numpy as np
import zstandard

from casckpt.objects.scratch import Bytes, Part, Unsigned, scratch, scratch_words
from casckpt.objects.zstd import decompressed

# The binary logarithms of how many bytes have one Huffman table. Where words are sorted, what is far apart differs.
_WINDOW: Final = 18
SORTED_WINDOW: Final = 13

_local = threading.local()


def huffman(window: int = _WINDOW) -> zstandard.ZstdCompressor:
    """This thread's coder of planes, with a Huffman table for each 2^window bytes, or 128 KiB if that is less."""
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("huffman", {})
    if window not in made:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, strategy=1, min_match=7, window_log=window, hash_log=6, chain_log=6, search_log=1, target_length=0
        )
        made[window] = zstandard.ZstdCompressor(compression_params=parameters)
    return made[window]


def words_in(raw: memoryview, width: int) -> Unsigned:
    """The whole words of some bytes, where they stand."""
    return np.frombuffer(raw[: len(raw) - len(raw) % width], f"<u{width}")


def split(words: Unsigned, coder: zstandard.ZstdCompressor, purpose: str) -> list[Part]:
    """The planes of words, the least significant first, each as it is to be stored.

    purpose: names the scratch memory that planes which stand as they are lie in.
    """
    width, count = words.itemsize, len(words)
    planes = scratch(purpose, width * count).reshape(width, count)
    shifted = scratch_words("shifted", count, width)
    parts: list[Part] = []
    for index in range(width):
        plane = planes[index]
        if index:
            np.right_shift(words, 8 * index, out=shifted)
        np.copyto(plane, shifted if index else words, casting="unsafe")  # faster than a strided copy of the bytes
        packed = coder.compress(plane.data) if count else b""
        parts.append(packed if len(packed) < count else plane)
    return parts


def join(parts: Sequence[memoryview], out: Unsigned) -> None:
    """The words of planes, into `out`, which says how many there must be.

    Raises:
        CorruptObjectError: a plane is damaged or of another length. `out` is then undefined.
    """
    if out.itemsize == 8:
        spread = out.view(np.uint8)
        for index, part in enumerate(parts):
            spread[index::8] = plane(part, len(out))
        return
    np.copyto(out, plane(parts[-1], len(out)))
    for part in reversed(parts[:-1]):  # faster than to spread the bytes, for words that are not that wide
        np.left_shift(out, 8, out=out)
        np.bitwise_or(out, plane(part, len(out)), out=out)


def plane(part: memoryview, count: int) -> Bytes:
    """One plane, or anything else that is stored as it is unless it shrank, of `count` bytes. Raises as `join`."""
    return np.frombuffer(part if len(part) == count else decompressed(part, count), np.uint8)


def rotate(words: Unsigned, out: Unsigned) -> None:
    """The sign of floating-point words away from their exponent: all bits up by one, the uppermost to the bottom.

    So the exponent of a float32 or bfloat16 fills one plane. (ZipNN's: arXiv 2411.05239.)
    """
    np.right_shift(words, 8 * words.itemsize - 1, out=out)
    out |= words << words.dtype.type(1)


def unrotate(words: Unsigned) -> None:
    """The inverse of `rotate`, in place."""
    sign = words << words.dtype.type(8 * words.itemsize - 1)
    words >>= words.dtype.type(1)
    words |= sign


# -- halves ------------------------------------------------------------------------------------------------------------
# The lower half of a float32 is noise, whatever it is held against. Words in halves have it stored as it is, and their
# upper half as a word of its own: so only upper halves are held against others, and decoded along a chain.


def lower_halves(words: Unsigned, out: Unsigned) -> None:
    """The lower half of each word."""
    np.copyto(out, words, casting="unsafe")


def upper_halves(words: Unsigned, out: Unsigned) -> None:
    """The upper half of each word."""
    np.copyto(out, words.view(f"<u{out.itemsize}")[1::2])


def join_halves(lower: Unsigned, upper: Unsigned, out: Unsigned) -> None:
    """The inverse of both."""
    np.copyto(out, upper)
    np.left_shift(out, 4 * out.itemsize, out=out)
    np.bitwise_or(out, lower, out=out)
