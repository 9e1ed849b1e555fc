"""Words as their difference to words that stood at the same place before.

Differences wrap around, so that any words have one; zigzag makes small ones of either sign small numbers (0, -1, 1, -2
become 0, 1, 2, 3). Differences of the raw words of floating-point numbers beat their XOR by 5-15 %.
"""

from __future__ import annotations

import numpy as np

from casckpt.objects.scratch import Bytes, Unsigned, scratch_words


def difference(words: Unsigned, base: Unsigned, out: Unsigned) -> None:
    """The zigzag of words - base."""
    width = words.itemsize
    np.subtract(words, base, out=out)
    signed = out.view(f"<i{width}")
    sign = scratch_words("sign", len(words), width).view(f"<i{width}")
    np.right_shift(signed, 8 * width - 1, out=sign)
    np.left_shift(signed, 1, out=signed)
    np.bitwise_xor(signed, sign, out=signed)


def add(zigzag: Unsigned, onto: Unsigned) -> None:
    """The inverse of `difference`: `onto`, which holds the base, becomes the words. `zigzag` is used up."""
    width = onto.itemsize
    sign = scratch_words("sign", len(onto), width)
    np.bitwise_and(zigzag, 1, out=sign)
    np.negative(sign, out=sign)
    np.right_shift(zigzag, 1, out=zigzag)
    np.bitwise_xor(zigzag, sign, out=zigzag)
    np.add(onto, zigzag, out=onto)


def scaled(base: Unsigned, scale: np.float32, out: Unsigned) -> None:
    """float32 words times a number: what a decaying average becomes before something is added to it.

    Only normal numbers are multiplied, those of the smallest exponent left out, and only by 1/2 to 1: there, IEEE 754
    has one answer, whether or not the processor flushes denormal numbers to zero. All others stay as they are.
    """
    exponent = scratch_words("sign", len(base), 4)
    np.right_shift(base, 23, out=exponent)
    np.bitwise_and(exponent, 255, out=exponent)
    np.subtract(exponent, 2, out=exponent)  # those of 0 and 1 wrap around
    if len(base) and int(exponent.max()) < 253:
        np.multiply(base.view("<f4"), scale, out=out.view("<f4"))
        return
    np.copyto(out, base)
    np.multiply(base.view("<f4"), scale, out=out.view("<f4"), where=exponent < 253)  # several times slower


def by_exponent(base: Unsigned) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """An order of the words in which those of one exponent stand together: by the eight bits behind the sign."""
    top = (base >> base.dtype.type(8 * base.itemsize - 9)).astype(np.uint8)
    return np.argsort(top, kind="stable")


def changed(zigzag: Unsigned) -> Bytes:
    """A bit for each word that differs from its base, the first word's lowest in the first byte."""
    return np.packbits(zigzag != 0, bitorder="little")


def places(bits: Bytes, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The inverse of `changed`: for each of the first `count` words, whether its bit is set."""
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)
