"""What a chunk's bytes are made of: the size of the words that codecs work by, and whether they are floating point."""

from __future__ import annotations

from typing import Final, NamedTuple

from casckpt.objects.values import ITEM_SIZE


class Words(NamedTuple):
    """size: bytes, 1, 2, 4 or 8. floating: whether a word is a sign, an exponent and a mantissa, in this order."""

    size: int
    floating: bool


BYTES: Final = Words(1, False)
_FLOATING: Final = ("float", "bfloat", "complex")


def words_of(dtype: str) -> Words:
    """The words of a dtype of torch or numpy, by its name or its numpy code; of a complex one, those of a component."""
    size = ITEM_SIZE.get(dtype)
    if size is None:
        kind, digits = dtype.lstrip("<>|=")[:1], dtype.lstrip("<>|=")[1:]
        if not digits.isdigit() or kind not in "iufcbmM" or dtype.startswith(">"):
            return BYTES
        size, floating = int(digits), kind in "fc"
        is_complex = kind == "c"
    else:
        floating, is_complex = dtype.startswith(_FLOATING), dtype.startswith("complex")
    if is_complex:
        size //= 2
    return Words(size, floating and size > 1) if size in (1, 2, 4, 8) else BYTES
