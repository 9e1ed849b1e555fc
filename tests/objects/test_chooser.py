"""The chooser: a look at a few words says what the whole would say."""

from __future__ import annotations

import numpy as np
import pytest

from casckpt.objects.chooser import Choice, choose, sample, scale_of
from casckpt.objects.frame import Codec
from casckpt.objects.words import Words
from tests.objects.chunks import Frames

NUMBERS = np.random.default_rng(0)


def test_the_sample_is_spread_over_the_words_and_all_of_them_where_they_are_few() -> None:
    words = np.arange(100_000, dtype="<u4")
    seen = sample(words)
    assert len(seen) == 512 and seen[0] == 0 and seen[-1] > 80_000
    assert (sample(words[:300]) == words[:300]).all()


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_only_words_that_are_all_the_same_are_constant(width: int) -> None:
    words = np.full(5000, 77, f"<u{width}")
    assert choose(words, None, floating=width > 1).codec is Codec.CONSTANT
    for at in (0, 70, 4998, 4999):
        changed = words.copy()
        changed[at] += 1
        assert choose(changed, None, floating=width > 1).codec is not Codec.CONSTANT


def test_words_without_a_base_are_planes_turned_where_they_have_a_sign() -> None:
    words = NUMBERS.integers(0, 1 << 32, 5000, np.uint32)
    assert choose(words, None, floating=True).codec is Codec.ROTATED_PLANES
    assert choose(words, None, floating=False).codec is Codec.PLANES
    assert choose(words.view(np.uint8), None, floating=False).codec is Codec.PLANES


@pytest.mark.parametrize("scale", [0.5, 0.9, 0.95**10, 0.999])
def test_the_scale_of_a_decaying_average_is_found(scale: float) -> None:
    before = np.square(NUMBERS.standard_normal(50_000)).astype("<f4") * np.float32(1e-6)
    now = before * np.float32(scale)
    now[::3] += np.square(NUMBERS.standard_normal(len(now[::3]))).astype("<f4") * np.float32(1e-8)
    choice = choose(now.view("<u4"), before.view("<u4"), floating=True)
    assert choice.codec is Codec.SCALED_DELTA and abs(choice.scale / scale - 1) < 1e-3


def test_the_share_of_moments_that_nothing_was_added_to_is_found_whatever_their_signs() -> None:
    before = (NUMBERS.standard_normal(50_000) * 1e-3).astype("<f4")
    now = before * np.float32(0.9)
    now[::3] += (NUMBERS.standard_normal(len(now[::3])) * 1e-4).astype("<f4")
    choice = choose(now.view("<u4"), before.view("<u4"), floating=True)
    assert choice.codec is Codec.SCALED_DELTA and abs(choice.scale / 0.9 - 1) < 1e-6


@pytest.mark.parametrize("width", [4, 8])
def test_words_stand_in_halves_where_the_lower_ones_are_noise(width: int) -> None:
    def choice(words: np.ndarray, base: np.ndarray | None) -> Choice:
        as_words = [None if one is None else one.astype(f"<f{width}").view(f"<u{width}") for one in (words, base)]
        assert as_words[0] is not None
        return choose(as_words[0], as_words[1], floating=True)

    before = NUMBERS.standard_normal(50_000).astype(f"<f{width}")
    dense = before + 1e-2 * NUMBERS.standard_normal(50_000)
    assert choice(dense, None) == Choice(Codec.ROTATED_PLANES, halved=True)
    assert choice(dense, before) == Choice(Codec.DELTA_PLANES, halved=True)
    tiny = before * (1 + 2.0 ** (-20 if width == 4 else -48) * NUMBERS.standard_normal(50_000))
    assert choice(tiny, before) == Choice(Codec.DELTA_PLANES, halved=False)
    short = before.astype("<f4").view("<u4") & np.uint32(0xFFFF0000)
    assert choice(short.view("<f4"), None) == Choice(Codec.ROTATED_PLANES, halved=False)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf, 1e-40])
def test_words_that_cannot_be_scaled_are_not_and_nobody_is_warned(wrong: float) -> None:
    before = np.square(NUMBERS.standard_normal(5000)).astype("<f4")
    now = before * np.float32(0.95)
    for held in (before, now):
        spoilt = [before.copy(), now.copy()]
        spoilt[held is now][:] = wrong
        choice = choose(spoilt[1].view("<u4"), spoilt[0].view("<u4"), floating=True)
        assert choice.codec in (Codec.CONSTANT, Codec.ROTATED_PLANES, Codec.DELTA_PLANES, Codec.SCALED_DELTA)
        assert 0.5 <= choice.scale <= 1


@pytest.mark.parametrize("ratio", [0.3, 0.4999, 1.0001, 1.5, 1e9])
def test_no_scale_is_taken_that_a_reader_would_refuse(ratio: float) -> None:
    before = np.square(NUMBERS.standard_normal(50_000)).astype("<f4") * np.float32(1e-6)
    now = before * np.float32(ratio)
    frames = Frames()
    for last in (Codec.RAW, Codec.SCALED_DELTA):
        choice = choose(now.view("<u4"), before.view("<u4"), floating=True, last=Choice(last))
        assert choice.codec is not Codec.SCALED_DELTA
    frames.force(before.tobytes(), Codec.RAW, 1)
    frames.put(now.tobytes(), Words(4, True), "auto", before.tobytes())
    assert frames.decoded(now.tobytes()) == now.tobytes()


def test_nobody_is_warned_of_infinities_on_either_side() -> None:
    both = np.array([np.inf, 1e-40, 1.0, 3e38] * 2000, "<f4")
    words = both.view("<u4")
    assert scale_of(words, words[::-1].copy()) is None and scale_of(words[:1], words[:1]) is None
    assert scale_of(words[2:3], words[1:2]) is None, "denormal: what comes of it depends on the thread"


def test_what_the_base_is_by_is_taken_on_trust_where_it_is_a_dense_delta() -> None:
    before = np.square(NUMBERS.standard_normal(50_000)).astype("<f4")
    now, other = before * np.float32(0.9), -before

    def codec(words: np.ndarray, last: Codec) -> Codec:
        return choose(words.view("<u4"), before.view("<u4"), floating=True, last=Choice(last)).codec

    assert codec(other, Codec.DELTA_PLANES) is Codec.DELTA_PLANES
    assert codec(now, Codec.SCALED_DELTA) is Codec.SCALED_DELTA
    assert codec(other, Codec.SCALED_DELTA) is Codec.ROTATED_PLANES, "it is looked at anew"
    for last in (Codec.SPARSE_DELTA, Codec.ROTATED_PLANES, Codec.RAW):
        assert codec(NUMBERS.standard_normal(50_000).astype("<f4"), last) is Codec.ROTATED_PLANES
    assert codec(np.ones_like(now), Codec.DELTA_PLANES) is Codec.CONSTANT
