"""Frames: what is packed is read again, and no changed byte of a head goes unnoticed."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError, NewerFormatError
from casckpt.limits import MAX_OBJECT_BYTES
from casckpt.objects.frame import MAGIC, MAX_PLANES, Codec, FrameHead, head_size, pack_head, read_frame
from casckpt.objects.ids import Kind


@st.composite
def frames(draw: st.DrawFn) -> tuple[FrameHead, bytes]:
    size = draw(st.sampled_from([16, 32]))
    oid = st.binary(min_size=size, max_size=size)
    payload = draw(st.binary(max_size=64))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=MAX_PLANES - 1)))
    edges = [0, *cuts, len(payload)]
    planes = tuple(end - start for start, end in itertools.pairwise(edges)) if draw(st.booleans()) else ()
    head = FrameHead(
        kind=draw(st.sampled_from(Kind)),
        codec=draw(st.sampled_from(Codec)),
        id=draw(oid),
        raw_length=draw(st.integers(0, MAX_OBJECT_BYTES)),
        payload_length=len(payload),
        base=draw(st.none() | oid),
        word_size=draw(st.sampled_from([0, 1, 2, 4, 8, 16])),
        planes=planes,
    )
    return head, payload


@given(frames())
def test_a_frame_is_read_as_it_was_packed(made: tuple[FrameHead, bytes]) -> None:
    head, payload = made
    packed = pack_head(head)
    assert len(packed) == head_size(len(head.id), has_base=head.base is not None, planes=len(head.planes))
    read, view = read_frame(memoryview(packed + payload))
    assert read == head
    assert view == payload


@given(frames(), st.data())
def test_a_changed_head_never_reads_as_another_one(made: tuple[FrameHead, bytes], data: st.DataObject) -> None:
    head, payload = made
    packed = bytearray(pack_head(head))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((CorruptObjectError, NewerFormatError)):
        read_frame(memoryview(bytes(packed) + payload))


@given(frames(), st.data())
def test_a_cut_or_longer_frame_is_refused(made: tuple[FrameHead, bytes], data: st.DataObject) -> None:
    whole = pack_head(made[0]) + made[1]
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\0"):
        with pytest.raises(CorruptObjectError):
            read_frame(memoryview(wrong))


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_are_a_frame_or_a_typed_error(raw: bytes, magic: bool) -> None:
    with pytest.raises((CorruptObjectError, NewerFormatError)):
        read_frame(memoryview((MAGIC + b"\1" if magic else b"") + raw))


def _forged(at: int, value: bytes, *, planes: tuple[int, ...] = ()) -> memoryview:
    """A frame whose head says something else, with a checksum that fits."""
    head = bytearray(pack_head(FrameHead(Kind.CHUNK, Codec.RAW, bytes(16), 3, 3, planes=planes)))
    head[at : at + len(value)] = value
    head[20:24] = bytes(4)
    head[20:24] = xxhash.xxh32_intdigest(bytes(head)).to_bytes(4, "little")
    return memoryview(bytes(head) + b"abc")


@pytest.mark.parametrize(
    ("forged", "error", "message"),
    [
        (_forged(5, b"\x09"), CorruptObjectError, "unknown kind 9"),
        (_forged(5, b"\x00"), CorruptObjectError, "unknown kind 0"),
        (_forged(6, b"\x09"), NewerFormatError, "codec 9.*later casckpt"),
        (_forged(4, b"\x02"), NewerFormatError, "version 2.*later casckpt"),
        (_forged(0, b"X"), CorruptObjectError, "not a frame"),
        (_forged(7, b"\x14"), CorruptObjectError, "impossible"),
        (_forged(8, b"\x03"), CorruptObjectError, "impossible"),
        (_forged(9, b"\x11"), CorruptObjectError, "impossible"),
        (_forged(10, b"\x02"), CorruptObjectError, "impossible"),
        (_forged(11, b"\x01"), CorruptObjectError, "impossible"),
        (_forged(12, struct.pack("<I", MAX_OBJECT_BYTES + 1)), CorruptObjectError, "says"),
        (_forged(16, struct.pack("<I", 4)), CorruptObjectError, "says that it has"),
        (_forged(40, struct.pack("<I", 9), planes=(3,)), CorruptObjectError, "do not add up"),
    ],
)
def test_a_head_that_lies_with_a_good_checksum_is_refused(forged: memoryview, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        read_frame(forged)


def test_the_layout_of_a_head_never_changes() -> None:
    head = FrameHead(Kind.NODE, Codec.DELTA_PLANES, bytes(range(16)), 7, 3, bytes(range(16, 32)), 4, (1, 2))
    packed = pack_head(head)
    assert packed[:20].hex() == "f1434b46010203100402010007000000" + "03000000"
    assert packed[24:] == bytes(range(32)) + struct.pack("<II", 1, 2)
