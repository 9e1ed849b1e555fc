"""Which codec a chunk gets, told from a sample of its words: a look, where trying them all would take too long.

What is estimated is bits a word. The same chunk over the same base always gets the same answer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from casckpt.objects import delta
from casckpt.objects.frame import Codec
from casckpt.objects.scratch import Unsigned, scratch_words

# The sample: strips of neighbouring words, evenly spread.
_STRIPS: Final = 8
_STRIP: Final = 64
# Of the sample's words so many may differ from the base for a sparse delta: its mask takes a bit a word.
_SPARSE: Final = 0.3
# A codec that is decoded over a base must be that much smaller than one that is not.
_GAIN: Final = 0.97
_LEAST_SCALE: Final = 0.5


class Choice(NamedTuple):
    """scale: of a scaled delta."""

    codec: Codec
    scale: np.float32 = np.float32(1)


def sample(words: Unsigned) -> Unsigned:
    """Some of the words; all of them where there are few."""
    apart = len(words) // _STRIPS
    if apart < 2 * _STRIP:
        return words[: 2 * _STRIPS * _STRIP]
    return words[: apart * _STRIPS].reshape(_STRIPS, apart)[:, :_STRIP].ravel()


def choose(words: Unsigned, base: Unsigned | None, *, floating: bool) -> Choice:
    """The codec of a chunk of numbers: PLANES or ROTATED_PLANES, CONSTANT, or with a base one of the deltas."""
    seen = sample(words)
    if (seen == seen[0]).all() and (words == words[0]).all():
        return Choice(Codec.CONSTANT)
    alone = Choice(Codec.ROTATED_PLANES if floating and words.itemsize > 1 else Codec.PLANES)
    if base is None:
        return alone
    before = sample(base)
    zigzag = np.empty_like(seen)
    delta.difference(seen, before, zigzag)
    if np.count_nonzero(zigzag) <= _SPARSE * len(seen):
        return Choice(Codec.SPARSE_DELTA)
    found, bits = Choice(Codec.DELTA_PLANES), _bits(zigzag)
    if floating and words.itemsize == 4:
        scale = scale_of(seen, before)
        if scale is not None:
            grown = scratch_words("sampled", len(before), 4)
            delta.scaled(before, scale, grown)
            delta.difference(seen, grown, zigzag)
            scaled = _bits(zigzag) - (0 if (zigzag & 1).any() else 1)  # nothing fell below the scale: no signs
            if scaled < _GAIN * bits:
                found, bits = Choice(Codec.SCALED_DELTA, scale), scaled
    return found if bits < _GAIN * _bits_alone(seen, floating) else alone


def scale_of(words: Unsigned, base: Unsigned) -> np.float32 | None:
    """The least that any of some float32 words is of its base, where it is at least a half and all of them are
    positive: so far a decaying average falls before something is added to it. None where it is not so."""
    if ((words - np.uint32(1)) >> 23 >= 255).any() or ((base - np.uint32(1)) >> 23 >= 254).any():
        return None  # negative, zero, infinite or no number
    with np.errstate(all="ignore"):
        least = np.float32((words.view("<f4") / base.view("<f4")).min())
    return least if _LEAST_SCALE <= least <= 1 else None


def _bits(zigzag: Unsigned) -> float:
    """About the bits that each takes: its length's share of entropy, and what stands behind the uppermost bit."""
    lengths = np.frexp(zigzag.astype(np.float64))[1]
    return _entropy(np.bincount(lengths)) + float(np.maximum(lengths - 1, 0).mean())


def _bits_alone(words: Unsigned, floating: bool) -> float:
    """About the bits that a word takes in planes: the uppermost is all that shrinks by much."""
    top = 8 * words.itemsize - 8
    if floating:
        words = words << words.dtype.type(1)
    return _entropy(np.bincount((words >> words.dtype.type(top)).astype(np.uint8))) + top


def _entropy(counts: np.ndarray[tuple[int], np.dtype[np.intp]]) -> float:
    seen = counts[counts > 0]
    total = int(seen.sum())
    return float(np.log2(total) - (seen * np.log2(seen)).sum() / total)
