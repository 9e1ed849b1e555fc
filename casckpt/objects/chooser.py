"""Which codec a chunk gets, told from a sample of its words: a look, where trying them all would take too long.

What is estimated is bits a word. The same chunk over the same base always gets the same answer.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from casckpt.objects import delta
from casckpt.objects.frame import Codec
from casckpt.objects.scratch import Unsigned

# The sample: strips of neighbouring words, evenly spread.
_STRIPS: Final = 8
_STRIP: Final = 64
_SAMPLE: Final = _STRIPS * _STRIP
# Of the sample's words so many may differ from the base for a sparse delta: its mask takes a bit a word.
_SPARSE: Final = 0.3
# A codec that is decoded over a base must be that much smaller than one that is not.
_GAIN: Final = 0.97
# And a scaled delta than one that is not; both are decoded over the base.
_GAIN_BY_SCALE: Final = 0.99
_LEAST_SCALE: Final = 0.5
# The positive normal numbers among float32 words, seen as signed integers.
_LEAST_NORMAL: Final = 0x00800000
_GREATEST_NORMAL: Final = 0x7F7FFFFF
# Bits of all words that are counted together, by how many they are: n * log2(n).
_COUNTED: Final = np.arange(1, 2 * _SAMPLE + 1) * np.log2(np.arange(1, 2 * _SAMPLE + 1))
_TOGETHER: Final = np.concatenate(([0.0], _COUNTED))
# The bits behind the uppermost one of a whole number, by the sign and exponent that it has as a float32.
_BEHIND: Final = np.maximum(np.arange(512) % 256 - 127, 0)


class Choice(NamedTuple):
    """scale: of a scaled delta."""

    codec: Codec
    scale: np.float32 = np.float32(1)


def sample(words: Unsigned) -> Unsigned:
    """Some of the words; the first ones where there are few."""
    apart = len(words) // _STRIPS
    if apart < 2 * _STRIP:
        return words[: 2 * _SAMPLE]
    return words[: apart * _STRIPS].reshape(_STRIPS, apart)[:, :_STRIP].ravel()


def choose(words: Unsigned, base: Unsigned | None, *, floating: bool, last: Codec | None = None) -> Choice:
    """The codec of a chunk of numbers: PLANES or ROTATED_PLANES, CONSTANT, or with a base one of the deltas.

    last: the codec of the base's own frame. Where that is a dense delta, this is one too, most likely, and no time is
    spent on making sure: chains are short, and what begins the next one is looked at again.
    """
    if words[0] == words[-1] and (sample(words) == words[0]).all() and (words == words[0]).all():
        return Choice(Codec.CONSTANT)
    alone = Choice(Codec.ROTATED_PLANES if floating and words.itemsize > 1 else Codec.PLANES)
    if base is None:
        return alone
    if last is Codec.DELTA_PLANES:
        return Choice(last)
    seen, before = sample(words), sample(base)
    if last is Codec.SCALED_DELTA:
        scale = scale_of(seen, before)
        return Choice(Codec.DELTA_PLANES) if scale is None else Choice(last, scale)
    unchanged, bits = _bits(_difference(seen, before))
    if unchanged >= 1 - _SPARSE:
        return Choice(Codec.SPARSE_DELTA)
    found = Choice(Codec.DELTA_PLANES)
    if floating and words.itemsize == 4:
        scale = scale_of(seen, before)
        if scale is not None:
            grown = np.empty_like(before)
            delta.scaled(before, scale, grown)
            _, scaled = _bits(_difference(seen, grown))
            if scaled < _GAIN_BY_SCALE * bits:
                found, bits = Choice(Codec.SCALED_DELTA, scale), scaled
    if floating and bits < _GAIN * (8 * words.itemsize - 8):
        return found  # what stands behind the exponent takes more by itself
    return found if bits < _GAIN * _bits_alone(seen, floating) else alone


def scale_of(words: Unsigned, base: Unsigned) -> np.float32 | None:
    """The least that any of some float32 words is of its base, where it is from a half to one and all of them are
    positive: so far a decaying average falls before something is added to it. None where it is not so."""
    for one in (words.view("<i4"), base.view("<i4")):
        if one.min() < _LEAST_NORMAL or one.max() > _GREATEST_NORMAL:
            return None
    least = np.divide(words.view("<f4"), base.view("<f4"), dtype=np.float64).min()
    return np.float32(least) if _LEAST_SCALE <= least <= 1 else None


def _bits(numbers: np.ndarray[tuple[int], np.dtype[Any]]) -> tuple[float, float]:
    """The share of numbers, signed or not, that are zero, and about the bits that each takes: the share of entropy of
    its sign and length, and what stands behind its uppermost bit."""
    counts = np.bincount(numbers.astype(np.float32).view(np.uint32) >> np.uint32(23))
    behind = float(counts.dot(_BEHIND[: len(counts)])) / len(numbers)
    return float(counts[0]) / len(numbers), _entropy(counts, len(numbers)) + behind


def _difference(words: Unsigned, base: Unsigned) -> np.ndarray[tuple[int], np.dtype[Any]]:
    return np.subtract(words, base).view(f"<i{words.itemsize}")


def _bits_alone(words: Unsigned, floating: bool) -> float:
    """About the bits that a word takes in planes: of numbers with an exponent, that is all that shrinks by much."""
    if not floating:
        return _bits(words)[1]
    top = 8 * words.itemsize - 8
    counts = np.bincount((words << words.dtype.type(1) >> words.dtype.type(top)).astype(np.uint8))
    return _entropy(counts, words.size) + top * (1 - int(counts[0]) / words.size)  # what has no exponent is zero


def _entropy(counts: np.ndarray[tuple[int], np.dtype[np.intp]], total: int) -> float:
    return math.log2(total) - float(_TOGETHER[counts].sum()) / total
