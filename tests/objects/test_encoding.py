"""Encoding a chunk: whatever was there before and whatever is asked for, the frame gives the chunk back."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casckpt.limits import CODECS, MIB
from casckpt.objects.encoding import Base, depth_limit, encode_chunk
from casckpt.objects.frame import DELTAS, Codec, head_size, read_frame
from casckpt.objects.words import Words
from tests.objects.chunks import WIDTHS, Frames, chunk_id, contents, next_contents, room_for

NUMBERS = np.random.default_rng(0)
every_words = st.builds(Words, st.sampled_from(WIDTHS), st.booleans()).filter(
    lambda one: one.size > 1 or not one.floating
)
modes = st.sampled_from(CODECS)


@settings(deadline=None, max_examples=200)
@given(st.data(), every_words, modes)
def test_any_chunk_of_a_history_is_given_back(data: st.DataObject, words: Words, mode: str) -> None:
    frames = Frames()
    chunks = [data.draw(contents(most=3000))]
    frames.put(chunks[0], words, mode)
    for _ in range(data.draw(st.integers(0, 5))):
        raw = data.draw(next_contents(chunks[-1]))
        if raw not in chunks:
            frames.put(raw, words, mode, chunks[-1], data.draw(st.integers(0, 7)))
            chunks.append(raw)
    for raw in chunks:
        assert frames.decoded(raw) == raw
        frame = frames.held[chunk_id(raw)]
        assert len(frame) <= head_size(16) + len(raw), "it fits the buffer that the chunk was in"
        assert len(frames.chain(raw).links) - 1 <= depth_limit(mode, words)


@settings(deadline=None)
@given(st.data(), every_words, modes)
def test_the_same_chunk_over_the_same_base_has_the_same_frame(data: st.DataObject, words: Words, mode: str) -> None:
    """Wherever they lie in memory, whatever was coded before, and on whichever thread."""
    base = data.draw(contents(most=3000))
    raw = data.draw(next_contents(base))
    made = set()

    def encode(shift: int) -> None:
        over = Base(chunk_id(base), memoryview(bytearray(base)), 0)
        made.add(bytes(encode_chunk(chunk_id(raw), room_for(raw, shift), words, mode, over)))
        encode_chunk(chunk_id(base), room_for(base, shift), words, mode)

    encode(0)
    encode(3)
    thread = threading.Thread(target=encode, args=(0,))
    thread.start()
    thread.join()
    assert len(made) == 1


def _floats(count: int, dtype: str = "<f4") -> np.ndarray:
    return NUMBERS.standard_normal(count).astype(dtype) * np.asarray(0.02, dtype)


def _codec(now: np.ndarray, before: np.ndarray | None, words: Words, mode: str = "auto") -> tuple[Codec, float]:
    """What a chunk gets, and its share of the raw bytes."""
    frames = Frames()
    raw = now.tobytes()
    if before is not None:
        frames.force(before.tobytes(), Codec.RAW, 1)
    codec = frames.put(raw, words, mode, None if before is None else before.tobytes())
    assert frames.decoded(raw) == raw
    return codec, len(frames.held[chunk_id(raw)]) / len(raw)


F32, F16, I64, U8 = Words(4, True), Words(2, True), Words(8, False), Words(1, False)


def test_each_kind_of_change_gets_the_codec_that_is_made_for_it() -> None:
    count = 40_000
    weights = _floats(count)
    stepped = weights + np.float32(1e-4) * _floats(count)
    some = weights.copy()
    some[::50] = 1
    average = np.square(_floats(count)) * np.float32(1e-6)
    decayed = average * np.float32(0.95) + np.square(_floats(count)) * np.float32(1e-9)
    other = _floats(count)
    tokens = NUMBERS.integers(0, 50_000, count)
    assert _codec(weights, None, F32)[0] is Codec.ROTATED_PLANES
    assert _codec(stepped, weights, F32)[0] is Codec.DELTA_PLANES
    assert _codec(stepped, weights, F32, "small")[0] is Codec.SORTED_DELTA
    assert _codec(stepped, weights, F32, "fast")[0] is Codec.ROTATED_PLANES
    assert _codec(other, weights, F32)[0] is Codec.ROTATED_PLANES
    codec, share = _codec(some, weights, F32)
    assert codec is Codec.SPARSE_DELTA and share < 0.06
    assert _codec(decayed, average, F32)[0] is Codec.SCALED_DELTA
    codec, share = _codec(np.full(count, 1.5, "<f4"), weights, F32)
    assert codec is Codec.CONSTANT and share < 0.001
    codec, share = _codec(tokens, None, I64)
    assert codec is Codec.PLANES and share < 0.3
    text = b" ".join(NUMBERS.choice([b"loss", b"step", b"gradient", b"of", b"the", b"epoch"], 9000))
    codec, share = _codec(np.frombuffer(text, np.uint8), None, U8)
    assert codec is Codec.ZSTD and share < 0.5
    assert _codec(np.frombuffer(NUMBERS.bytes(count), np.uint8), None, U8)[0] is Codec.RAW
    assert _codec(weights, weights[::-1], F32, "none")[0] is Codec.RAW


@pytest.mark.parametrize("mode", ["auto", "small"])
def test_a_chain_is_no_longer_than_its_mode_says(mode: str) -> None:
    frames = Frames()
    before, raw = None, _floats(5000)
    depths: list[int] = []
    deepest = depth_limit(mode, F32)
    for _ in range(2 * deepest + 2):
        frames.put(raw.tobytes(), F32, mode, before)
        depths.append(len(frames.chain(raw.tobytes()).links) - 1)
        before, raw = raw.tobytes(), raw + np.float32(1e-4) * _floats(5000)
    assert depths == 2 * list(range(deepest + 1))


def test_a_sample_that_misleads_costs_little() -> None:
    """Where the words that were looked at say that nothing changed, and all the others did."""
    before, now = _floats(262_144), _floats(262_144)
    apart = len(now) // 8
    for start in range(0, len(now), apart):
        now[start : start + 64] = before[start : start + 64]
    codec, share = _codec(now, before, F32)
    assert codec is Codec.ROTATED_PLANES and share < 0.9
    now = np.zeros(262_144, "<f4")
    now[::1000] = 1
    assert _codec(now, None, F32)[1] < 0.03


@pytest.mark.parametrize("tail", [b"\1\2\3", b"\1\2", b"\3", b"odd"])
@pytest.mark.parametrize("mode", ["fast", "auto", "small"])
def test_odd_bytes_behind_equal_words_come_back(tail: bytes, mode: str) -> None:
    frames = Frames()
    raw = b"\1\2\3\4" * 500 + tail
    codec = frames.put(raw, F32, mode)
    assert frames.decoded(raw) == raw
    assert (codec is Codec.CONSTANT) == (tail in (b"\1\2\3", b"\1\2"))


def test_a_base_of_another_length_is_left_alone() -> None:
    raw = _floats(999).tobytes()
    for length in (4, 3992, 4000):
        frame = encode_chunk(chunk_id(raw), room_for(raw), F32, "small", Base(bytes(16), memoryview(bytes(length)), 0))
        assert read_frame(frame)[0].codec not in DELTAS


def test_threads_do_not_disturb_one_another() -> None:
    histories = [[_floats(20_000).tobytes()] for _ in range(4)]
    for history in histories:
        for _ in range(20):
            history.append((np.frombuffer(history[-1], "<f4") + np.float32(1e-4) * _floats(20_000)).tobytes())
    wrong = []

    def work(history: list[bytes]) -> None:
        frames = Frames()
        for before, raw in zip([None, *history], history, strict=False):
            frames.put(raw, F32, "auto", before)
            if frames.decoded(raw) != raw:
                wrong.append(raw)

    threads = [threading.Thread(target=work, args=(history,)) for history in histories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_chunk_of_the_largest_common_size_fits_its_buffer_whatever_it_holds() -> None:
    for raw in (NUMBERS.bytes(MIB), bytes(MIB), bytes(MIB - 5) + b"other"):
        frames = Frames()
        for words in (F32, F16, I64, U8):
            frames.put(raw, words, "auto")
            assert frames.decoded(raw) == raw
