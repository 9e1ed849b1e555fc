"""A chunk as a frame: raw, or coded where that pays: by itself, or as the difference to one that was there before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from casckpt.limits import DEPTHS, SHORT_DEPTHS
from casckpt.objects import delta
from casckpt.objects.chooser import Choice, alone, choice_of, choose, sample, scale_of
from casckpt.objects.codec import compress
from casckpt.objects.frame import DELTAS, MAX_PLANES, Codec, FrameHead, head_size, pack_head
from casckpt.objects.ids import Kind
from casckpt.objects.planes import SORTED_WINDOW, huffman, lower_halves, rotate, split, upper_halves, words_in
from casckpt.objects.scratch import Part, Unsigned, Working, scratch_words
from casckpt.objects.words import Words
from casckpt.objects.zstd import compressor

# Below this nothing is saved that a database page would notice.
_SMALLEST: Final = 256
# What is coded is decoded each time it is loaded: it must be that much smaller than what it stands for.
_WORTH: Final = {"fast": 0.97, "auto": 0.97, "small": 1.0}
# A sparse delta becomes no longer than that, if the sample was right.
_SPARSE_WORTH: Final = 0.5
# Planes of numbers that are not floating point are made where those of a sample shrink to this share.
_PLANES_SHARE: Final = 0.9


def depth_limit(mode: str, words: Words) -> int:
    """The deltas that a chunk of such words lies over at most."""
    return (SHORT_DEPTHS if words.size == 2 else DEPTHS)[mode]


@dataclass(frozen=True, slots=True)
class Base:
    """A chunk that a delta may be taken to.

    raw: its bytes. depth: the deltas that it lies over itself. head: of its frame, where that is known.
    """

    id: bytes
    raw: memoryview
    depth: int
    head: FrameHead | None = None


@dataclass(frozen=True, slots=True)
class Coded:
    """A payload on its way into a frame: parts that lie one behind the other, and which of them are planes."""

    codec: Codec
    word_size: int
    parts: Sequence[Part]
    has_planes: bool = True

    @property
    def size(self) -> int:
        return _size(self.parts)


def encode_chunk(oid: bytes, buffer: memoryview, words: Words, mode: str, base: Base | None = None) -> memoryview:
    """The frame of a chunk that lies in `buffer` behind room for a head; it is written over it, from the start of
    `buffer` on, and what is returned is that part of it.

    buffer: `head_size(len(oid))` free bytes, then the chunk.
    mode: one of limits.CODECS. base: taken where it helps, is of the same length and not too deep.
    """
    start = head_size(len(oid))
    raw = buffer[start:]
    with Working():
        coded = _coded(raw, words, mode, base)
        if coded is not None:
            return framed(oid, coded, len(raw), buffer, base)
    buffer[:start] = pack_head(FrameHead(Kind.CHUNK, Codec.RAW, oid, len(raw), len(raw)))
    return buffer


def framed(oid: bytes, coded: Coded, length: int, buffer: memoryview, base: Base | None) -> memoryview:
    """The frame of what was coded of so many bytes, at the start of a buffer that it must fit."""
    planes = tuple(len(part) for part in coded.parts) if coded.has_planes else ()
    based = base.id if base is not None and coded.codec in DELTAS else None
    head = FrameHead(Kind.CHUNK, coded.codec, oid, length, coded.size, based, coded.word_size, planes)
    at = 0
    for part in (pack_head(head), *coded.parts):
        size = len(part)
        np.copyto(np.frombuffer(buffer[at : at + size], np.uint8), np.frombuffer(part, np.uint8))
        at += size
    return buffer[:at]


def _coded(raw: memoryview, words: Words, mode: str, base: Base | None) -> Coded | None:
    """What is to be stored of a chunk, or None where that is the chunk itself."""
    if mode == "none" or len(raw) < _SMALLEST:
        return None
    numbers = words_in(raw, words.size)
    usable = base is not None and base.depth < depth_limit(mode, words) and len(base.raw) == len(raw)
    before = words_in(base.raw, words.size) if base is not None and usable else None
    tail = raw[len(numbers) * words.size :]
    last = choice_of(base.head) if base is not None and base.head is not None and mode != "small" else None
    choice = choose(numbers, before, floating=words.floating, last=last)
    if choice.codec is Codec.CONSTANT and tail == raw[: len(tail)]:
        return Coded(Codec.CONSTANT, words.size, (raw[: words.size],), has_planes=False)
    candidates = _tried(choice, numbers, before, words) if mode == "small" else [choice]
    found = [coded_by(each, numbers, before, tail) for each in candidates if each.codec in DELTAS]
    expected = _SPARSE_WORTH if choice.codec is Codec.SPARSE_DELTA else _WORTH[mode]
    if mode == "small" or not found or found[0].size > expected * len(raw):  # the sample did not stand for it all
        found += _alone(raw, numbers, tail, words, mode)
    best = min(found, key=lambda coded: coded.size, default=None)
    room = head_size(len(base.id) if base else 0, has_base=True, planes=MAX_PLANES)
    return best if best is not None and best.size + room < _WORTH[mode] * len(raw) else None


def _tried(choice: Choice, numbers: Unsigned, before: Unsigned | None, words: Words) -> list[Choice]:
    """The deltas that are worth a try where time does not matter."""
    if before is None:
        return []
    tried = [Choice(Codec.DELTA_PLANES, choice.halved)]
    if choice.codec is Codec.SPARSE_DELTA:
        tried.append(choice)
    scale = scale_of(sample(numbers), sample(before)) if words == Words(4, True) else None
    if scale is not None:
        tried.append(Choice(Codec.SCALED_DELTA, scale=scale))
    if words.floating:
        tried.append(Choice(Codec.SORTED_DELTA, choice.halved))
    return tried


def coded_by(choice: Choice, numbers: Unsigned, before: Unsigned | None, tail: memoryview) -> Coded:
    """A chunk by a codec that makes planes, whether or not that is any good.

    before: what it becomes a delta of, where the codec is one of DELTAS.
    """
    codec, count, width = choice.codec, len(numbers), numbers.itemsize
    first: list[Part] = []
    coder = huffman(SORTED_WINDOW) if codec is Codec.SORTED_DELTA else huffman()
    if choice.halved:
        lower, upper = (scratch_words(f"{codec.name} {half}", count, width // 2) for half in ("lower", "upper"))
        lower_halves(numbers, lower)
        upper_halves(numbers, upper)
        numbers, first = upper, [lower.view(np.uint8)]
        if before is not None:
            upper_halves(before, below := scratch_words("below", count, width // 2))
            before = below
    made = numbers
    if codec is Codec.ROTATED_PLANES:
        made = scratch_words("made", count, numbers.itemsize)
        rotate(numbers, made)
    elif codec in DELTAS:
        assert before is not None
        made = scratch_words("made", count, numbers.itemsize)
        if codec is Codec.SCALED_DELTA:
            grown = scratch_words("scaled", count, width)
            delta.scaled(before, choice.scale, grown)
            before, first = grown, [choice.scale.tobytes()]
        delta.difference(numbers, before, made)
        if codec is Codec.SPARSE_DELTA:
            bits = delta.changed(made)
            packed = compressor(1).compress(bits.data) if count else b""
            first = [packed if len(packed) < len(bits) else bits]
            made = np.compress(made != 0, made)
        elif codec is Codec.SORTED_DELTA:
            made = made[delta.by_exponent(before)]
    parts = [*first, *split(made, coder, codec.name)]
    return Coded(codec, width, [*parts, tail.tobytes()] if len(tail) else parts)


def _alone(raw: memoryview, numbers: Unsigned, tail: memoryview, words: Words, mode: str) -> list[Coded]:
    """A chunk by itself, in the ways that a sample promises something of."""
    if words.floating:
        return [coded_by(alone(numbers), numbers, None, tail)]
    found: list[Coded] = []
    seen = sample(numbers)
    if _size(split(seen, huffman(), "sampled")) < _PLANES_SHARE * seen.nbytes:
        found.append(coded_by(Choice(Codec.PLANES), numbers, None, tail))
    packed = compress(raw, mode)
    if packed is not None:
        found.append(Coded(Codec.ZSTD, 0, (packed,), has_planes=False))
    return found


def _size(parts: Sequence[Part]) -> int:
    return sum(len(part) for part in parts)
