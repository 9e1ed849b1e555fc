"""Which codec a chunk gets, told from a sample of its words: a look, where trying them all would take too long.

What is estimated is bits a word. The same chunk over the same base always gets the same answer.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from casckpt.objects import delta
from casckpt.objects.chain import is_halved
from casckpt.objects.frame import Codec, FrameHead
from casckpt.objects.scratch import Unsigned

# The sample: strips of neighbouring words, evenly spread.
_STRIPS: Final = 8
_STRIP: Final = 64
_SAMPLE: Final = _STRIPS * _STRIP
# Of the sample's words so many may differ from the base for a sparse delta: its mask takes a bit a word.
_SPARSE: Final = 0.3
# A codec that is decoded over a base must be that much smaller than one that is not.
_GAIN: Final = 0.97
# And a scaled delta than one that is not, since it takes twice the time.
_GAIN_BY_SCALE: Final = 0.95
_LEAST_SCALE: Final = 0.5
# Shares of less difference are the same one: a few float32 roundings.
_SAME_SHARE: Final = 1e-6
# float32 words without their signs, seen as whole numbers, that are normal.
_LEAST_NORMAL: Final = 0x00800000
_GREATEST_NORMAL: Final = 0x7F7FFFFF
# A difference that takes so many bits more than a half has noise in its lower one.
_ABOVE: Final = 2
# What counts as about one share, and the words of a sample that are looked at for it.
_NEAR_SHARE: Final = 0.005
_FEW: Final = 32
# Words of so many bytes and more may stand in halves.
_HALVED: Final = 4
# Of the entropy that bytes at random have in a sample, what is taken for noise.
_NOISE: Final = 0.9
# Bits of all words that are counted together, by how many they are: n * log2(n).
_COUNTED: Final = np.arange(1, 2 * _SAMPLE + 1) * np.log2(np.arange(1, 2 * _SAMPLE + 1))
_TOGETHER: Final = np.concatenate(([0.0], _COUNTED))
# The bits behind the uppermost one of a whole number, by the sign and exponent that it has as a float32.
_BEHIND: Final = np.maximum(np.arange(512) % 256 - 127, 0)


class Choice(NamedTuple):
    """halved: whether words stand in halves, the lower ones as they are. scale: of a scaled delta."""

    codec: Codec
    halved: bool = False
    scale: np.float32 = np.float32(1)


def sample(words: Unsigned) -> Unsigned:
    """Some of the words; the first ones where there are few."""
    apart = len(words) // _STRIPS
    if apart < 2 * _STRIP:
        return words[: 2 * _SAMPLE]
    return words[: apart * _STRIPS].reshape(_STRIPS, apart)[:, :_STRIP].ravel()


def choice_of(head: FrameHead) -> Choice:
    """What was chosen for a frame."""
    return Choice(head.codec, is_halved(head))


def choose(words: Unsigned, base: Unsigned | None, *, floating: bool, last: Choice | None = None) -> Choice:
    """The codec of a chunk of numbers: PLANES or ROTATED_PLANES, CONSTANT, or with a base one of the deltas.

    last: what was chosen for the base itself. Where that is a dense delta, this is one too, most likely, and no time is
    spent on making sure: chains are short, and what begins the next one is looked at again.
    """
    if words[0] == words[-1] and (sample(words) == words[0]).all() and (words == words[0]).all():
        return Choice(Codec.CONSTANT)
    if base is None:
        return alone(words) if floating else Choice(Codec.PLANES)
    if last is not None and last.codec is Codec.DELTA_PLANES:
        return Choice(last.codec, last.halved and words.itemsize >= _HALVED)
    seen, before = sample(words), sample(base)
    unchanged, bits = _bits(_difference(seen, before))
    if unchanged >= 1 - _SPARSE:
        return Choice(Codec.SPARSE_DELTA)
    is_noise = floating and _is_halved(seen)
    found = Choice(Codec.DELTA_PLANES, is_noise and bits > 4 * words.itemsize + _ABOVE)
    if floating and words.itemsize == 4 and _may_have_decayed(seen, before):
        scale = scale_of(seen, before)
        if scale is not None:
            grown = np.empty_like(before)
            delta.scaled(before, scale, grown)
            _, scaled = _bits(_difference(seen, grown))
            if scaled < _GAIN_BY_SCALE * bits:
                found, bits = Choice(Codec.SCALED_DELTA, scale=scale), scaled
    if floating and bits < _GAIN * (8 * words.itemsize - 8):
        return found  # what stands behind the exponent takes more by itself
    if bits < _GAIN * _bits_alone(seen, floating):
        return found
    return Choice(Codec.ROTATED_PLANES if floating and words.itemsize > 1 else Codec.PLANES, is_noise)


def _may_have_decayed(words: Unsigned, base: Unsigned) -> bool:
    """Whether half of a few words are about one share of their base."""
    few = max(1, len(words) // _FEW)
    with np.errstate(all="ignore"):
        shares = np.sort(words.view("<f4")[::few] / base.view("<f4")[::few])
        half = len(shares) // 2
        return bool((shares[half:] - shares[: len(shares) - half] < _NEAR_SHARE).any())


def scale_of(words: Unsigned, base: Unsigned) -> np.float32 | None:
    """What float32 words are of their base, if they are a decaying average: most are one and the same share of it where
    nothing was added (rows of an embedding that no token met), and none is less where squares were. From a half to one;
    None where it is not so, or any of them is no normal number."""
    for one in (words, base):
        size = one & np.uint32(0x7FFFFFFF)
        if size.min() < _LEAST_NORMAL or size.max() > _GREATEST_NORMAL:
            return None
    shares = np.divide(words.view("<f4"), base.view("<f4"), dtype=np.float64)
    middle = np.partition(shares, len(shares) // 2)[len(shares) // 2]
    least = middle if np.count_nonzero(np.abs(shares - middle) < _SAME_SHARE) > len(shares) // 2 else shares.min()
    return np.float32(least) if _LEAST_SCALE <= least <= 1 else None


def alone(words: Unsigned) -> Choice:
    """What floating-point words are by themselves."""
    return Choice(Codec.ROTATED_PLANES, _is_halved(sample(words)))


def _is_halved(seen: Unsigned) -> bool:
    """Whether the lower halves of words are noise, told from the uppermost byte of them."""
    if seen.itemsize < _HALVED:
        return False
    upmost = (seen >> seen.dtype.type(4 * seen.itemsize - 8)).astype(np.uint8)
    return _entropy(np.bincount(upmost), len(seen)) > _NOISE * min(8, math.log2(len(seen)))


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
