"""A chunk out of its frames: whatever the codec, exactly its bytes; and of frames that lie, never any others."""

from __future__ import annotations

import contextlib
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError, MissingObjectError, NewerFormatError
from casckpt.limits import MAX_CHAIN, MAX_CHUNK_SIZE, MIB
from casckpt.objects.chain import Chain, decode_into, read_chain, read_link, verified
from casckpt.objects.frame import DELTAS, Codec, FrameHead, pack_head, read_frame
from casckpt.objects.ids import XXH3_128, Kind
from tests.objects.chunks import FLOATS_32, Frames, chunk_id, contents, kinds, next_contents, shifted

KINDS = kinds()
REFUSED = (CorruptObjectError, NewerFormatError, MissingObjectError)


@pytest.mark.parametrize(("codec", "width", "halved"), KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_codec_gives_back_what_it_was_given(codec: Codec, width: int, halved: bool, data: st.DataObject) -> None:
    base = data.draw(contents(least=width))
    raw = data.draw(next_contents(base))
    if codec is Codec.CONSTANT:
        raw = (raw[:width] * len(raw))[: len(raw)]
    frames = Frames()
    over = None
    if codec in DELTAS and raw != base:
        frames.force(base, Codec.RAW, 1)
        over = base
    elif codec in DELTAS:
        return  # a chunk is never its own base
    frames.force(raw, codec, width, over, halved)
    shift = data.draw(st.integers(0, 9))
    assert frames.decoded(raw, shift) == raw
    assert bytes(verified(XXH3_128, frames.chain(raw))) == raw
    at_hand = Chain((read_link(chunk_id(raw), frames.look_up(chunk_id(raw))),), over and shifted(over, shift))
    assert bytes(verified(XXH3_128, at_hand)) == raw


@settings(deadline=None)
@given(st.data())
def test_chains_of_deltas_of_any_codecs_give_back_every_chunk(data: st.DataObject) -> None:
    frames = Frames()
    chunks = [data.draw(contents(least=8))]
    frames.force(chunks[0], Codec.RAW, 1)
    for _ in range(data.draw(st.integers(1, 6))):
        raw = data.draw(next_contents(chunks[-1]))
        if raw in chunks:
            continue
        codec, width, halved = data.draw(st.sampled_from([kind for kind in KINDS if kind[0] in DELTAS]))
        frames.force(raw, codec, width, chunks[-1], halved)
        chunks.append(raw)
    for raw in chunks:
        assert frames.decoded(raw) == raw


@pytest.mark.parametrize("scale", [0.5, 0.5000001, 0.95, 0.9999999, 1.0])
def test_what_no_arithmetic_may_touch_comes_back_from_a_scaled_delta(scale: float) -> None:
    every = np.array([*FLOATS_32, *(exponent << 23 | 0x555555 for exponent in range(512))], "<u4")
    base, raw = every.tobytes(), np.roll(every, 7).tobytes()
    frames = Frames()
    frames.force(base, Codec.RAW, 1)
    frames.force(raw, Codec.SCALED_DELTA, 4, base, scale=scale)
    assert frames.decoded(raw) == raw


# -- frames that lie ---------------------------------------------------------------------------------------------------


def _reads_as(raw: bytes, frames: Frames) -> None:
    """A chunk is what it was, or an error is raised."""
    with contextlib.suppress(*REFUSED):
        assert frames.decoded(raw) == raw
    with contextlib.suppress(*REFUSED):
        assert bytes(verified(XXH3_128, read_chain(chunk_id(raw), frames.look_up))) == raw


def _example(codec: Codec, width: int, halved: bool, frames: Frames, seed: int = 0) -> bytes:
    """A chunk by a codec, with some planes that shrink and odd bytes behind the last word."""
    made = np.random.default_rng(seed)
    base = (made.standard_normal(150).astype("<f4") ** 2).tobytes() + b"odd"
    raw = (np.frombuffer(base[:600], "<u4") + made.integers(0, 9, 150).astype("<u4")).tobytes() + b"end"
    if codec is Codec.SPARSE_DELTA:
        raw = base[:100] + bytes([base[100] ^ 1]) + base[101:]
    if codec is Codec.CONSTANT:
        raw = (raw[:width] * len(raw))[: len(raw)]
    frames.force(base, Codec.RAW, 1)
    frames.force(raw, codec, width, base if codec in DELTAS else None, halved)
    return raw


@pytest.mark.parametrize(("codec", "width", "halved"), KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_frame_with_changed_bytes_never_gives_others(
    codec: Codec, width: int, halved: bool, data: st.DataObject
) -> None:
    frames = Frames()
    raw = _example(codec, width, halved, frames)
    frame = bytearray(frames.held[chunk_id(raw)])
    how = data.draw(st.sampled_from(["flip", "cut", "swap", "longer"]))
    at = data.draw(st.integers(0, len(frame) - 1))
    if how == "flip":
        frame[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del frame[at:]
    elif how == "longer":
        frame += frame[at:]
    else:
        other = data.draw(st.integers(0, len(frame) - 1))
        frame[at], frame[other] = frame[other], frame[at]
    frames.held[chunk_id(raw)] = bytes(frame)
    _reads_as(raw, frames)


@pytest.mark.parametrize(("codec", "width", "halved"), KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_head_that_lies_with_a_good_checksum_never_gives_other_bytes(
    codec: Codec, width: int, halved: bool, data: st.DataObject
) -> None:
    frames = Frames()
    raw = _example(codec, width, halved, frames)
    head, payload = read_frame(frames.look_up(chunk_id(raw)))
    number = st.integers(0, 2000) | st.integers(0, 2**31)
    lies: dict[str, Any] = {
        "codec": st.sampled_from(Codec),
        "raw_length": number,
        "word_size": st.sampled_from([0, 1, 2, 4, 8, 16]),
        "planes": st.permutations(head.planes).map(tuple) | st.lists(number, max_size=16).map(tuple),
        "base": st.none() | st.binary(min_size=16, max_size=16) | st.just(chunk_id(raw)),
    }
    told = {name: data.draw(lies[name]) for name in data.draw(st.sets(st.sampled_from(sorted(lies)), min_size=1))}
    if told.get("planes") and data.draw(st.booleans()):  # lengths that add up all the same
        rest = len(payload) - sum(told["planes"][:-1])
        told["planes"] = (*told["planes"][:-1], max(rest, 0))
    frames.held[chunk_id(raw)] = pack_head(replace(head, **told)) + bytes(payload)
    _reads_as(raw, frames)


@pytest.mark.parametrize(("codec", "width", "halved"), [kind for kind in KINDS if kind[0] in DELTAS])
def test_a_delta_over_another_base_is_refused(codec: Codec, width: int, halved: bool) -> None:
    frames = Frames()
    raw = _example(codec, width, halved, frames)
    other = bytes(reversed(raw))
    frames.force(other, Codec.RAW, 1)
    head, payload = read_frame(frames.look_up(chunk_id(raw)))
    frames.held[chunk_id(raw)] = pack_head(replace(head, base=chunk_id(other))) + bytes(payload)
    with pytest.raises(CorruptObjectError, match=r"does not hash to its id"):
        frames.decoded(raw)
    del frames.held[chunk_id(other)]
    with pytest.raises(MissingObjectError):
        frames.decoded(raw)


def _framed(raw: bytes, codec: Codec, parts: list[bytes], width: int, **more: Any) -> memoryview:
    planes = tuple(len(part) for part in parts)
    head = FrameHead(Kind.CHUNK, codec, chunk_id(raw), len(raw), sum(planes), word_size=width, planes=planes)
    return memoryview(pack_head(replace(head, **more)) + b"".join(parts))


BOMB = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
RAW = bytes(range(200)) * 2
BASE = bytes(400)
OVER = {"base": chunk_id(BASE)}
HUNDREDS = [bytes(100)] * 4
NAN = b"\0\0\xc0\x7f"
SIZES = "sizes that cannot be"
LIES = {
    "a zstd frame larger than the chunk": ("size", _framed(RAW, Codec.ZSTD, [BOMB], 0, planes=())),
    "a zstd frame without its size": ("size", _framed(RAW, Codec.ZSTD, [UNSIZED], 0, planes=())),
    "a plane larger than it may be": ("size", _framed(RAW, Codec.PLANES, [bytes(100), BOMB[:99], *HUNDREDS[2:]], 4)),
    "a plane longer than the words": ("decompress", _framed(RAW, Codec.PLANES, [bytes(101), *HUNDREDS[1:]], 4)),
    "a plane without its size": ("size", _framed(RAW, Codec.PLANES, [UNSIZED] * 4, 4)),
    "an empty plane": ("decompress", _framed(RAW, Codec.PLANES, [b""] * 4, 4)),
    "a plane of noise": ("decompress", _framed(RAW, Codec.DELTA_PLANES, [b"no zstd"] * 4, 4, **OVER)),
    "another number of planes": (SIZES, _framed(RAW, Codec.PLANES, HUNDREDS[:3], 4)),
    "halves where there may be none": (SIZES, _framed(RAW, Codec.PLANES, [bytes(200), *HUNDREDS[:2]], 4)),
    "lower halves that are too long": (SIZES, _framed(RAW, Codec.ROTATED_PLANES, [bytes(201), *HUNDREDS[:2]], 4)),
    "lower halves that are too short": (SIZES, _framed(RAW, Codec.DELTA_PLANES, [b"", *HUNDREDS[:2]], 4, **OVER)),
    "odd bytes behind halves, of another length": (
        SIZES,
        _framed(RAW + b"odd", Codec.ROTATED_PLANES, [bytes(200), *HUNDREDS[:2], b"x"], 4),
    ),
    "another length of odd bytes": (SIZES, _framed(RAW + b"odd", Codec.PLANES, [*HUNDREDS, b"x"], 4)),
    "odd bytes that are none": (SIZES, _framed(RAW, Codec.PLANES, [*HUNDREDS, b""], 4)),
    "a word as long as no word is": (SIZES, _framed(RAW, Codec.PLANES, [bytes(25)] * 16, 16)),
    "a word longer than the chunk": (SIZES, _framed(b"abc", Codec.CONSTANT, [b"abcd"], 4, planes=())),
    "no word size": (SIZES, _framed(RAW, Codec.PLANES, [], 0)),
    "a word size that the codec does not take": (SIZES, _framed(RAW, Codec.ROTATED_PLANES, [bytes(400)], 1)),
    "a scale of another length": ("scale of 3 bytes", _framed(RAW, Codec.SCALED_DELTA, [b"abc", *HUNDREDS], 4, **OVER)),
    "a scale that is no number": ("scale of nan", _framed(RAW, Codec.SCALED_DELTA, [NAN, *HUNDREDS], 4, **OVER)),
    "a scale above one": ("scale of 2.0", _framed(RAW, Codec.SCALED_DELTA, [b"\0\0\0\x40", *HUNDREDS], 4, **OVER)),
    "a mask that is too long": ("decompress", _framed(RAW, Codec.SPARSE_DELTA, [bytes(14), *[b""] * 4], 4, **OVER)),
    "a mask of other words": ("decompress", _framed(RAW, Codec.SPARSE_DELTA, [b"\xff" * 13, *[b""] * 4], 4, **OVER)),
    "a constant of another length": (SIZES, _framed(RAW, Codec.CONSTANT, [b"abc"], 4, planes=())),
    "a delta without a base": ("a base", _framed(RAW, Codec.DELTA_PLANES, HUNDREDS, 4)),
    "a base that is not needed": ("a base", _framed(RAW, Codec.PLANES, HUNDREDS, 4, **OVER)),
    "itself as its base": ("over itself", _framed(RAW, Codec.DELTA_PLANES, HUNDREDS, 4, base=chunk_id(RAW))),
    "planes of raw bytes": (SIZES, _framed(RAW, Codec.RAW, [RAW], 0)),
    "a raw chunk of another length": (SIZES, _framed(RAW, Codec.RAW, [RAW[1:]], 0, planes=())),
    "a chunk of no bytes": (SIZES, _framed(b"", Codec.RAW, [], 0)),
}


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_refused_and_takes_no_memory(lie: str) -> None:
    frames = Frames({chunk_id(BASE): b""})
    frames.force(BASE, Codec.CONSTANT, 4)
    message, frame = LIES[lie]
    others = {
        "a chunk of no bytes": b"",
        "another length of odd bytes": RAW + b"odd",
        "odd bytes behind halves, of another length": RAW + b"odd",
        "a word longer than the chunk": b"abc",
    }
    raw = others.get(lie, RAW)
    frames.held[chunk_id(raw)] = bytes(frame)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError, match=message):
            frames.decoded(raw)
        with pytest.raises(CorruptObjectError, match=message):
            verified(XXH3_128, read_chain(chunk_id(raw), frames.look_up))
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_chunk_of_another_length_is_refused_before_memory_is_taken_for_it() -> None:
    head = FrameHead(Kind.CHUNK, Codec.ZSTD, chunk_id(RAW), MAX_CHUNK_SIZE, len(BOMB))
    frames = Frames({chunk_id(RAW): pack_head(head) + BOMB})
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError, match=f"{MAX_CHUNK_SIZE} bytes where 400 are expected"):
            frames.decoded(RAW)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    frames.held[chunk_id(RAW)] = pack_head(replace(head, raw_length=MAX_CHUNK_SIZE + 1)) + BOMB
    with pytest.raises(CorruptObjectError, match="sizes that cannot be"):
        read_chain(chunk_id(RAW), frames.look_up)
    with pytest.raises(CorruptObjectError, match="401 are expected"):
        whole = Frames()
        whole.force(RAW, Codec.RAW, 1)
        decode_into(XXH3_128, whole.chain(RAW), memoryview(bytearray(401)))


def test_a_base_of_another_length_is_refused() -> None:
    frames = Frames()
    frames.force(BASE, Codec.RAW, 1)
    frames.force(RAW, Codec.DELTA_PLANES, 4, BASE)
    frames.force(BASE + b"more", Codec.RAW, 1)
    head, payload = read_frame(frames.look_up(chunk_id(RAW)))
    frames.held[chunk_id(RAW)] = pack_head(replace(head, base=chunk_id(BASE + b"more"))) + bytes(payload)
    with pytest.raises(CorruptObjectError, match="404 bytes where 400 are expected"):
        frames.decoded(RAW)


def test_the_frame_of_another_object_is_refused() -> None:
    frames = Frames()
    frames.force(RAW, Codec.RAW, 1)
    frames.held[chunk_id(BASE)] = frames.held[chunk_id(RAW)]
    with pytest.raises(CorruptObjectError, match="another object's frame"):
        frames.decoded(BASE)
    head = FrameHead(Kind.NODE, Codec.RAW, chunk_id(BASE), 400, 400)
    frames.held[chunk_id(BASE)] = pack_head(head) + BASE
    with pytest.raises(CorruptObjectError, match="another object's frame"):
        frames.decoded(BASE)


# -- chains that do not end --------------------------------------------------------------------------------------------


def _chain_of(deltas: int) -> tuple[Frames, bytes]:
    frames = Frames()
    raw = bytes(400)
    frames.force(raw, Codec.CONSTANT, 4)
    for number in range(1, deltas + 1):
        before, raw = raw, number.to_bytes(2, "little") * 200
        frames.force(raw, Codec.DELTA_PLANES, 4, before)
    return frames, raw


def test_a_chain_may_have_as_many_deltas_as_is_said_and_no_more() -> None:
    frames, raw = _chain_of(MAX_CHAIN)
    assert frames.decoded(raw) == raw
    frames, raw = _chain_of(MAX_CHAIN + 1)
    with pytest.raises(CorruptObjectError, match=f"more than {MAX_CHAIN} others"):
        frames.decoded(raw)


def test_a_chain_that_closes_to_a_circle_is_refused() -> None:
    frames, raw = _chain_of(3)
    first = (1).to_bytes(2, "little") * 200
    head, payload = read_frame(frames.look_up(chunk_id(first)))
    frames.held[chunk_id(first)] = pack_head(replace(head, base=chunk_id(raw))) + bytes(payload)
    with pytest.raises(CorruptObjectError, match="or over itself"):
        frames.decoded(raw)


def test_what_is_wrong_with_a_base_is_said_of_it() -> None:
    frames, raw = _chain_of(2)
    first = (1).to_bytes(2, "little") * 200
    frames.held[chunk_id(first)] = bytes(
        _framed(first, Codec.DELTA_PLANES, [b"no zstd"] * 4, 4, base=chunk_id(bytes(400)))
    )
    with pytest.raises(CorruptObjectError, match=f"{chunk_id(raw).hex()}, at chunk {chunk_id(first).hex()}"):
        frames.decoded(raw)


@given(st.sampled_from(KINDS))
@example((Codec.RAW, 1, False))
def test_a_raw_chunk_is_not_copied_and_any_other_is_not_a_view(kind: tuple[Codec, int, bool]) -> None:
    frames = Frames()
    raw = _example(*kind, frames)
    frame = frames.look_up(chunk_id(raw))
    made = verified(
        XXH3_128, read_chain(chunk_id(raw), lambda oid: frame if oid == chunk_id(raw) else frames.look_up(oid))
    )
    assert (made.obj is frame.obj) == (kind[0] is Codec.RAW)
