"""Chunks for tests of codecs: contents that are hard on them, and frames by every codec, chosen or not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from casckpt.errors import MissingObjectError
from casckpt.objects.chain import Chain, decode_into, read_chain
from casckpt.objects.chooser import Choice
from casckpt.objects.encoding import Base, Coded, coded_by, encode_chunk, framed
from casckpt.objects.frame import DELTAS, Codec, head_size, read_frame
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.planes import words_in
from casckpt.objects.words import Words
from casckpt.objects.zstd import compressor

WIDTHS = (1, 2, 4, 8)
# bit patterns that arithmetic may change: numbers that are none, with payloads, quiet and signalling, of either sign;
# infinities, zeros, the least and largest normal and denormal ones
FLOATS_32 = (
    *(0x7FC00001, 0xFFC12345, 0x7F800001, 0xFF80BEEF, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x80000001),
    *(0x007FFFFF, 0x00800000, 0x00FFFFFF, 0x01000000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000, 0x3F7FFFFF),
)


def chunk_id(raw: bytes) -> bytes:
    return XXH3_128.digest(Kind.CHUNK, raw)


def room_for(raw: bytes, shift: int = 0) -> memoryview:
    """A buffer with a chunk behind room for its head. shift: off its line in memory."""
    start = head_size(16)
    buffer = np.empty(64 + shift + start + len(raw), np.uint8)[64 + shift :]
    buffer[start:] = np.frombuffer(raw, np.uint8)
    return buffer.data


def shifted(raw: bytes, by: int) -> memoryview:
    """The same bytes, so far from where their words would be aligned; nobody may write to them."""
    held = memoryview(bytes(64 + by) + raw)
    return held[64 + by :]


@dataclass
class Frames:
    """Frames by id, as a store holds them."""

    held: dict[bytes, bytes] = field(default_factory=dict)

    def look_up(self, oid: bytes) -> memoryview:
        if oid not in self.held:
            raise MissingObjectError(f"chunk {oid.hex()} is missing")
        return memoryview(self.held[oid])

    def put(self, raw: bytes, words: Words, mode: str, base: bytes | None = None, shift: int = 0) -> Codec:
        """Encode a chunk; base: the bytes of another one here. Returns the codec that it got."""
        oid = chunk_id(raw)
        over = None
        if base is not None:
            chain = self.chain(base)
            over = Base(chunk_id(base), shifted(base, shift), len(chain.links) - 1, chain.head)
        self.held[oid] = bytes(encode_chunk(oid, room_for(raw, shift), words, mode, over))
        return read_frame(self.look_up(oid))[0].codec

    def force(
        self, raw: bytes, codec: Codec, width: int, base: bytes | None = None, halved: bool = False, scale: float = 0.75
    ) -> None:
        """Encode a chunk by a codec, whatever it is good for."""
        oid = chunk_id(raw)
        over = None if base is None else Base(chunk_id(base), memoryview(base), 0)
        self.held[oid] = forced(oid, raw, Choice(codec, halved, np.float32(scale)), width, over)

    def chain(self, raw: bytes) -> Chain:
        return read_chain(chunk_id(raw), self.look_up, len(raw))

    def decoded(self, raw: bytes, shift: int = 0) -> bytes:
        """The bytes of a chunk, out of its frame."""
        out = np.full(64 + shift + len(raw), 0xA5, np.uint8)[64 + shift :]
        decode_into(XXH3_128, self.chain(raw), out.data)
        return out.tobytes()


def forced(oid: bytes, raw: bytes, choice: Choice, width: int, base: Base | None) -> bytes:
    view = memoryview(raw)
    numbers = words_in(view, width)
    tail = view[numbers.nbytes :]
    if choice.codec in (Codec.RAW, Codec.ZSTD):
        packed = raw if choice.codec is Codec.RAW else compressor(3).compress(raw)
        coded = Coded(choice.codec, 0, (packed,), has_planes=False)
    elif choice.codec is Codec.CONSTANT:
        coded = Coded(choice.codec, width, (view[:width],), has_planes=False)
    else:
        before = words_in(base.raw, width) if base is not None and choice.codec in DELTAS else None
        coded = coded_by(choice, numbers, before, tail)
    # what is forced may need more room than the chunk itself has
    length = head_size(16, has_base=base is not None, planes=len(coded.parts)) + coded.size
    roomy = memoryview(bytearray(max(length, head_size(16) + len(raw))))
    return bytes(framed(oid, coded, len(raw), roomy, base))


def kinds() -> list[tuple[Codec, int, bool]]:
    """Every codec with each size of words that it takes, whole or, where it may have them so, in halves."""
    whole = [(codec, width, False) for codec in Codec for width in widths_of(codec)]
    halved = (Codec.ROTATED_PLANES, Codec.DELTA_PLANES, Codec.SORTED_DELTA)
    return whole + [(codec, width, True) for codec in halved for width in (4, 8)]


def widths_of(codec: Codec) -> tuple[int, ...]:
    """The word sizes that a codec takes."""
    if codec in (Codec.RAW, Codec.ZSTD):
        return (1,)
    if codec is Codec.SCALED_DELTA:
        return (4,)
    return (2, 4, 8) if codec in (Codec.ROTATED_PLANES, Codec.SORTED_DELTA) else WIDTHS


@st.composite
def contents(draw: st.DrawFn, least: int = 1, most: int = 700) -> bytes:
    """Bytes of a chunk: noise, the same byte or word throughout, awkward floats, small steps, or few different ones."""
    size = draw(st.integers(least, most))
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    how = draw(st.sampled_from(["noise", "byte", "word", "floats", "ramp", "few", "positive", "drawn"]))
    if how == "drawn":
        return draw(st.binary(min_size=size, max_size=size))
    if how == "byte":
        return bytes([draw(st.integers(0, 255))]) * size
    if how == "word":
        width = draw(st.sampled_from(WIDTHS))
        return (seed.bytes(width) * (size // width + 1))[:size]
    if how == "floats":
        return seed.choice(np.array(FLOATS_32, "<u4"), size // 4 + 1).tobytes()[:size]
    if how == "ramp":
        return np.arange(size, dtype="<u4").tobytes()[:size]
    if how == "few":
        return seed.choice(np.frombuffer(seed.bytes(3), np.uint8), size).tobytes()
    if how == "positive":
        return np.square(seed.standard_normal(size // 4 + 1, dtype="<f4") * np.float32(1e-18)).tobytes()[:size]
    return seed.bytes(size)


@st.composite
def next_contents(draw: st.DrawFn, before: bytes) -> bytes:
    """What may stand where some bytes stood: the same, one word or a few changed, all a little, scaled, other ones."""
    how = draw(st.sampled_from(["same", "one", "some", "little", "scaled", "flipped", "other"]))
    now = np.frombuffer(before, np.uint8).copy()
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    if how == "one":
        now[draw(st.integers(0, len(now) - 1))] ^= draw(st.integers(1, 255))
    elif how == "some":
        now[seed.random(len(now)) < 0.05] += 1
    elif how == "other":
        now = np.frombuffer(seed.bytes(len(now)), np.uint8)
    elif len(now) >= 8 and how != "same":
        words = now[: len(now) // 8 * 8].view("<u4")
        if how == "little":
            words += seed.integers(-300, 300, len(words)).astype("<i4").view("<u4")
        elif how == "flipped":
            words ^= (seed.random(len(words)) < 0.5).astype("<u4") << np.uint32(31)
        else:
            with np.errstate(all="ignore"):
                np.multiply(words.view("<f4"), np.float32(0.95), out=words.view("<f4"))
                words += seed.integers(0, 9, len(words)).astype("<u4")
    return now.tobytes()
