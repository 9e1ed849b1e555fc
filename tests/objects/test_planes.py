"""Planes: splitting, joining and turning are inverses, and nobody else's memory is touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError
from casckpt.objects.planes import huffman, join, plane, rotate, split, unrotate, words_in
from casckpt.objects.scratch import Unsigned
from tests.objects.chunks import WIDTHS, contents, shifted


@st.composite
def numbers(draw: st.DrawFn, widths: tuple[int, ...] = WIDTHS) -> Unsigned:
    """Words that nobody may write to, aligned or not."""
    return words_in(shifted(draw(contents()), draw(st.integers(0, 7))), draw(st.sampled_from(widths)))


@settings(deadline=None)
@given(numbers(), st.integers(0, 7))
def test_joining_planes_gives_the_words_that_were_split(words: Unsigned, shift: int) -> None:
    parts = [memoryview(bytes(part)) for part in split(words, huffman(), "test")]
    assert len(parts) == words.itemsize
    out = np.empty(shift + words.nbytes, np.uint8)[shift:].view(words.dtype)
    join(parts, out)
    assert (out == words).all()


def test_the_first_plane_holds_the_lowest_bytes() -> None:
    words = np.array([0x04030201, 0xD4C3B2A1], "<u4")
    assert [bytes(part) for part in split(words, huffman(), "test")] == [
        b"\x01\xa1",
        b"\x02\xb2",
        b"\x03\xc3",
        b"\x04\xd4",
    ]


def test_a_plane_shrinks_or_stands_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 16, 9999).astype("<u4")
    low, middle, zero, top = split(noise, huffman(), "test")
    assert len(low) == len(middle) == 9999 and len(zero) == len(top) < 30
    assert bytes(plane(memoryview(zero), 9999)) == bytes(9999)
    assert bytes(plane(memoryview(low), 9999)) == bytes(low)


def test_what_is_split_next_leaves_planes_alone_that_were_made_for_another_purpose() -> None:
    noise = np.random.default_rng(0)
    first, second = (noise.integers(0, 1 << 32, 999, np.uint32) for _ in range(2))
    parts = split(first, huffman(), "one")
    split(second, huffman(), "another")
    out = np.empty_like(first)
    join([memoryview(bytes(part)) for part in parts], out)
    assert (out == first).all()


@pytest.mark.parametrize("part", [bytes(11), b"", b"no zstd", bytes(9)])
def test_a_plane_of_another_length_is_refused(part: bytes) -> None:
    with pytest.raises(CorruptObjectError):
        plane(memoryview(part), 10)


@given(numbers((2, 4, 8)))
def test_turning_back_is_the_inverse_of_turning(words: Unsigned) -> None:
    out = np.empty(words.shape, words.dtype)
    rotate(words, out)
    assert (out & 1 == words >> (8 * words.itemsize - 1)).all()
    unrotate(out)
    assert (out == words).all()


def test_the_exponent_of_a_turned_float_fills_its_uppermost_plane() -> None:
    words = np.array([1.0, -1.5, 2.0], "<f4").view("<u4")
    out = np.empty_like(words)
    rotate(words, out)
    assert list(out >> 24) == [127, 127, 128]
