"""Raw or zstd: decode is the inverse, never takes a length on trust, and never gives bytes that miss their id."""

from __future__ import annotations

import contextlib
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError, NewerFormatError
from casckpt.limits import CODECS, MIB
from casckpt.objects import codec
from casckpt.objects.frame import Codec, FrameHead, head_size, pack_head, read_frame
from casckpt.objects.ids import XXH3_128, Kind

RANDOM = np.random.default_rng(0).bytes(100_000)
CONTENTS = {
    "empty": b"",
    "one": b"x",
    "zeros": bytes(100_000),
    "random": RANDOM,
    "text": b"a loss of 0.25 " * 9000,
    "random in the middle": bytes(40_000) + RANDOM[:40_000] + bytes(40_000),
    "zeros in the middle": RANDOM[:8_000] + bytes(40_000) + RANDOM[:8_000],
}
contents = st.binary(max_size=600) | st.sampled_from(list(CONTENTS.values()))


def _id(raw: bytes, kind: Kind = Kind.CHUNK) -> bytes:
    return XXH3_128.digest(kind, raw)


def _framed(raw: bytes, payload: bytes, how: Codec, raw_length: int | None = None, **more: object) -> memoryview:
    length = len(raw) if raw_length is None else raw_length
    head = FrameHead(Kind.CHUNK, how, _id(raw), length, len(payload), **more)  # type: ignore[arg-type]
    return memoryview(pack_head(head) + payload)


@given(contents, st.sampled_from(Kind), st.sampled_from(CODECS))
def test_decode_is_the_inverse_of_encode(raw: bytes, kind: Kind, mode: str) -> None:
    oid = _id(raw, kind)
    frame = memoryview(codec.encode(kind, oid, raw, mode))
    assert codec.decode(XXH3_128, kind, oid, frame) == raw
    assert len(frame) <= head_size(16) + len(raw)


@given(contents, st.sampled_from(CODECS))
def test_a_chunk_coded_in_its_buffer_has_the_frame_that_it_has_elsewhere(raw: bytes, mode: str) -> None:
    buffer = memoryview(bytearray(head_size(16) + len(raw)))
    buffer[head_size(16) :] = raw
    frame = memoryview(codec.encode_in_place(_id(raw), buffer, mode))
    assert codec.decode(XXH3_128, Kind.CHUNK, _id(raw), frame) == raw
    assert bytes(frame) == codec.encode(Kind.CHUNK, _id(raw), raw, mode)


def test_what_does_not_shrink_is_stored_as_it_is() -> None:
    for name, raw in CONTENTS.items():
        head, _ = read_frame(memoryview(codec.encode(Kind.CHUNK, _id(raw), raw, "auto")))
        shrinks = name not in ("empty", "one", "random")
        assert (head.codec is Codec.ZSTD) == shrinks, name
        head, _ = read_frame(memoryview(codec.encode(Kind.CHUNK, _id(raw), raw, "none")))
        assert head.codec is Codec.RAW
    assert len(codec.encode(Kind.CHUNK, b"i" * 16, CONTENTS["random in the middle"], "small")) < 41_000


@given(st.sampled_from(["text", "random"]), st.sampled_from(CODECS), st.data())
def test_a_changed_byte_never_decodes_to_other_bytes(name: str, mode: str, data: st.DataObject) -> None:
    raw = CONTENTS[name][:2000]
    frame = bytearray(codec.encode(Kind.CHUNK, _id(raw), raw, mode))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    # zstd has bits that change nothing; then the bytes must be the right ones
    with contextlib.suppress(CorruptObjectError, NewerFormatError):
        assert codec.decode(XXH3_128, Kind.CHUNK, _id(raw), memoryview(frame)) == raw


def test_an_object_under_another_id_or_kind_is_refused() -> None:
    raw = b"abc"
    frame = memoryview(codec.encode(Kind.CHUNK, _id(raw), raw))
    with pytest.raises(CorruptObjectError, match="another object's frame"):
        codec.decode(XXH3_128, Kind.NODE, _id(raw), frame)
    with pytest.raises(CorruptObjectError, match="another object's frame"):
        codec.decode(XXH3_128, Kind.CHUNK, _id(b"abd"), frame)
    forged = memoryview(codec.encode(Kind.CHUNK, _id(b"abd"), raw))
    with pytest.raises(CorruptObjectError, match="does not hash to its id"):
        codec.decode(XXH3_128, Kind.CHUNK, _id(b"abd"), forged)


def test_lengths_that_lie_are_refused_before_memory_is_taken_for_them() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc" * 100)
    raw = b"abc" * 100
    cases = [
        _framed(raw, bomb, Codec.ZSTD),
        _framed(raw, bomb[:-1], Codec.ZSTD, 64 * MIB),
        _framed(raw, unsized, Codec.ZSTD),
        _framed(raw, b"", Codec.ZSTD),
        _framed(raw, b"no zstd at all", Codec.ZSTD),
        _framed(raw, raw[:-1], Codec.RAW),
        _framed(raw, raw, Codec.RAW, 256 * MIB),
    ]
    tracemalloc.start()
    for frame in cases[:1] + cases[2:]:
        with pytest.raises(CorruptObjectError):
            codec.decode(XXH3_128, Kind.CHUNK, _id(raw), frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB
    with pytest.raises(CorruptObjectError, match="does not decompress"):
        codec.decode(XXH3_128, Kind.CHUNK, _id(raw), cases[1])


def test_parts_that_a_codec_has_no_use_for_are_refused() -> None:
    raw = b"abc"
    for more in ({"base": bytes(16)}, {"planes": (3,)}, {"word_size": 4}):
        with pytest.raises(CorruptObjectError, match="no use for"):
            codec.decode(XXH3_128, Kind.CHUNK, _id(raw), _framed(raw, raw, Codec.RAW, **more))


@pytest.mark.parametrize("how", [how for how in Codec if how > Codec.ZSTD])
def test_a_codec_that_only_chunks_have_is_one_of_a_later_release_elsewhere(how: Codec) -> None:
    with pytest.raises(NewerFormatError, match="later casckpt"):
        codec.decode(XXH3_128, Kind.CHUNK, _id(b"abc"), _framed(b"abc", b"abc", how))
