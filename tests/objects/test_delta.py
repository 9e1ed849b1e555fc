"""Differences: every pair of words has one that leads back, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.objects import delta
from casckpt.objects.planes import words_in
from casckpt.objects.scratch import Unsigned
from tests.objects.chunks import FLOATS_32, WIDTHS, contents, next_contents, shifted


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Unsigned, Unsigned]:
    """Words, and those that stood in their place; nobody may write to either, aligned or not."""
    width = draw(st.sampled_from(WIDTHS))
    base = draw(contents(least=width))
    raw = draw(next_contents(base))
    return words_in(shifted(raw, draw(st.integers(0, 7))), width), words_in(
        shifted(base, draw(st.integers(0, 7))), width
    )


@given(pairs())
def test_a_difference_leads_back_to_the_words(pair: tuple[Unsigned, Unsigned]) -> None:
    words, base = pair
    zigzag = np.empty(words.shape, words.dtype)
    delta.difference(words, base, zigzag)
    made = base.copy()
    delta.add(zigzag, made)
    assert (made == words).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_small_differences_of_either_sign_are_small_numbers_and_wrap_around(width: int) -> None:
    top = (1 << 8 * width) - 1
    base = np.array([7, 7, 7, 7, 0, top], f"<u{width}")
    words = np.array([7, 6, 8, 5, top, 0], f"<u{width}")
    zigzag = np.empty_like(words)
    delta.difference(words, base, zigzag)
    assert list(zigzag) == [0, 1, 2, 3, 1, 2]


@given(pairs())
def test_the_places_of_changes_are_found_again(pair: tuple[Unsigned, Unsigned]) -> None:
    words, base = pair
    zigzag = np.empty(words.shape, words.dtype)
    delta.difference(words, base, zigzag)
    bits = delta.changed(zigzag)
    assert len(bits) == -(-len(words) // 8)
    assert list(delta.places(bits, len(words))) == list(words != base)


def test_only_normal_numbers_are_scaled_and_all_others_keep_every_bit() -> None:
    words = np.array(FLOATS_32, "<u4")
    out = np.empty_like(words)
    delta.scaled(words, np.float32(0.5), out)
    halved = {0x01000000: 0x00800000, 0x7F7FFFFF: 0x7EFFFFFF, 0xFF7FFFFF: 0xFEFFFFFF}
    halved |= {0x3F800000: 0x3F000000, 0x3F7FFFFF: 0x3EFFFFFF}
    assert [hex(one) for one in out] == [hex(halved.get(one, one)) for one in FLOATS_32]
    delta.scaled(out, np.float32(1), out)  # in place
    assert [int(one) for one in out] == [halved.get(one, one) for one in FLOATS_32]


@given(contents(least=8), st.floats(0.5, 1, width=32), st.integers(0, 7))
def test_a_scaled_number_is_the_product_that_ieee_754_has(raw: bytes, scale: float, shift: int) -> None:
    words = words_in(shifted(raw, shift), 4)
    out = np.empty(words.shape, words.dtype)
    delta.scaled(words, np.float32(scale), out)
    exponent = words >> 23 & 255
    with np.errstate(all="ignore"):
        product = (words.view("<f4").astype(np.float64) * scale).astype("<f4").view("<u4")
    assert (out == np.where((exponent > 1) & (exponent < 255), product, words)).all()


@pytest.mark.parametrize(("width", "ones"), [(2, [1.0, -1.0]), (4, [1.0, -1.0]), (8, [1.0, -1.0])])
def test_words_of_one_exponent_stand_together_in_the_order_that_they_had(width: int, ones: list[float]) -> None:
    base = np.array([4.0, *ones, 0.25, 4.5, 1.0], f"<f{width}").view(f"<u{width}")
    if width == 4:
        assert list(delta.by_exponent(base)) == [3, 1, 2, 5, 0, 4]
    order = delta.by_exponent(base)
    top = base[order] >> (8 * width - 9) & 255
    assert (np.diff(top.astype(int)) >= 0).all()
    many = np.random.default_rng(0).standard_normal(20_000).astype(f"<f{width}").view(f"<u{width}")
    order = delta.by_exponent(many)
    top = many[order] >> (8 * width - 9) & 255
    assert all(first < second for first, second, same in zip(order, order[1:], np.diff(top) == 0, strict=False) if same)
