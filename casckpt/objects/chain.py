"""A chunk out of its frames: its own, and where that is a delta, those of the chunks that it is based on.

Every head is checked, and every length in it, before memory is taken or a payload looked at. What comes out is checked
against the chunk's id: whatever lies between, the bytes are exact or an error is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from casckpt.errors import CorruptObjectError
from casckpt.limits import MAX_CHAIN, MAX_CHUNK_SIZE
from casckpt.objects import delta
from casckpt.objects.frame import DELTAS, Codec, FrameHead, read_frame
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.planes import join, join_halves, plane, unrotate, upper_halves, words_in
from casckpt.objects.scratch import Unsigned, Working, scratch_words
from casckpt.objects.zstd import decompressed

Lookup = Callable[[bytes], memoryview]
"""The stored frame of a chunk; raises MissingObjectError where there is none."""

_WORDS: Final = (1, 2, 4, 8)
# Which sizes of words a codec takes, and how many planes it has besides one for each byte of a word.
_SHAPES: Final[dict[Codec, tuple[tuple[int, ...], int]]] = {
    Codec.PLANES: (_WORDS, 0),
    Codec.ROTATED_PLANES: ((2, 4, 8), 0),
    Codec.DELTA_PLANES: (_WORDS, 0),
    Codec.SORTED_DELTA: ((2, 4, 8), 0),
    Codec.SPARSE_DELTA: (_WORDS, 1),
    Codec.SCALED_DELTA: ((4,), 1),
}
# Those of which words of these sizes may stand in halves: the lower halves as one part, planes of the upper ones.
_HALVED: Final = (Codec.ROTATED_PLANES, Codec.DELTA_PLANES, Codec.SORTED_DELTA)
_HALVED_WORDS: Final = (4, 8)


class Link(NamedTuple):
    """One frame of a chain, its head checked."""

    head: FrameHead
    payload: memoryview

    @property
    def is_halved(self) -> bool:
        """Whether its words stand in halves."""
        return is_halved(self.head)


@dataclass(frozen=True, slots=True)
class Chain:
    """The frames that a chunk is made of, its own first, each based on the next.

    root: the bytes of the chunk that the last one is based on, where they are at hand; None where it stands by itself.
    """

    links: tuple[Link, ...]
    root: memoryview | None = None

    @property
    def id(self) -> bytes:
        """Of the chunk."""
        return self.links[0].head.id

    @property
    def length(self) -> int:
        """Bytes of the chunk."""
        return self.links[0].head.raw_length

    @property
    def head(self) -> FrameHead:
        """Of its own frame."""
        return self.links[0].head


def read_link(oid: bytes, frame: memoryview) -> Link:
    """The frame of a chunk, its head checked against itself.

    Raises:
        CorruptObjectError, NewerFormatError
    """
    head, payload = read_frame(frame)
    if head.kind is not Kind.CHUNK or head.id != oid:
        raise CorruptObjectError(f"chunk {oid.hex()} holds another object's frame")
    if (head.base is not None) != (head.codec in DELTAS):
        raise CorruptObjectError(f"chunk {oid.hex()} has a base that its codec has no use for, or none that it needs")
    if not _is_shaped(head):
        raise CorruptObjectError(f"chunk {oid.hex()} has parts that its codec has no use for, or sizes that cannot be")
    return Link(head, payload)


def _is_shaped(head: FrameHead) -> bool:
    """Whether word size, planes and lengths are what the codec has."""
    if not 0 < head.raw_length <= MAX_CHUNK_SIZE:
        return False
    if head.codec in (Codec.RAW, Codec.ZSTD):
        return not head.planes and not head.word_size and (head.codec is Codec.ZSTD or _stands_as_it_is(head))
    if head.word_size not in _WORDS or head.raw_length < head.word_size:
        return False
    if head.codec is Codec.CONSTANT:
        return not head.planes and head.payload_length == head.word_size
    widths, more = _SHAPES[head.codec]
    tail = head.raw_length % head.word_size
    if is_halved(head):
        return head.planes[0] == head.raw_length // head.word_size * (head.word_size // 2) and (
            not tail or head.planes[-1] == tail
        )
    count = more + head.word_size + (1 if tail else 0)
    return head.word_size in widths and len(head.planes) == count and (not tail or head.planes[-1] == tail)


def is_halved(head: FrameHead) -> bool:
    """Whether a chunk's words stand in halves; told by the number of parts."""
    count = 1 + head.word_size // 2 + (1 if head.word_size and head.raw_length % head.word_size else 0)
    return head.codec in _HALVED and head.word_size in _HALVED_WORDS and len(head.planes) == count


def _stands_as_it_is(head: FrameHead) -> bool:
    return head.payload_length == head.raw_length


def read_chain(oid: bytes, lookup: Lookup, length: int | None = None) -> Chain:
    """The frames of a chunk, looked up one after the other.

    length: bytes that it must have, where that is known.

    Raises:
        CorruptObjectError: a head is damaged; or the frames lead on and on, or to one of another length.
        MissingObjectError, NewerFormatError
    """
    links = [read_link(oid, lookup(oid))]
    expected = links[0].head.raw_length if length is None else length
    while True:
        head = links[-1].head
        if head.raw_length != expected:
            raise CorruptObjectError(f"chunk {head.id.hex()} has {head.raw_length} bytes where {expected} are expected")
        if head.base is None:
            return Chain(tuple(links))
        if len(links) > MAX_CHAIN:
            raise CorruptObjectError(f"chunk {oid.hex()} is a delta over more than {MAX_CHAIN} others, or over itself")
        links.append(read_link(head.base, lookup(head.base)))


def decode_into(scheme: IdScheme, chain: Chain, out: memoryview) -> None:
    """A chunk's bytes into `out`, which must have its length; what landed there is checked against its id.

    Raises:
        CorruptObjectError: a frame is damaged, or its contents are not what the id says. `out` is then undefined.
    """
    if len(out) != chain.length:
        raise CorruptObjectError(f"chunk {chain.id.hex()} has {chain.length} bytes where {len(out)} are expected")
    with Working():
        _decode_links(chain, out)
    if scheme.digest(Kind.CHUNK, out) != chain.id:
        raise CorruptObjectError(f"chunk {chain.id.hex()} does not hash to its id")


def _decode_links(chain: Chain, out: memoryview) -> None:
    """From the last link to the first; what is not whole in between is kept as upper halves."""
    links = chain.links
    at = links[-1]
    upper: Unsigned | None = None  # of the words so far, where they are not whole, and in `out`
    try:
        if chain.root is not None:
            _copy(chain.root, out)
        for number in reversed(range(len(links))):
            at = links[number]
            if not at.is_halved:
                _put(at, out)
                continue
            upper = _upper(at, out, upper)
            above = links[number - 1] if number else None
            if above is None or not above.is_halved or above.head.word_size != at.head.word_size:
                _join(at, upper, out)
                upper = None
    except CorruptObjectError as error:
        raise CorruptObjectError(f"{_named(chain.id, at.head.id)}: {error.problem}") from error


def verified(scheme: IdScheme, chain: Chain) -> memoryview:
    """A chunk's bytes, checked against its id; no copy where they stand raw in its frame.

    Then they are a view of it, which must not outlive its transaction. Raises as `decode_into` does.
    """
    head, payload = chain.links[0]
    if head.codec is not Codec.RAW:
        made = memoryview(bytearray(head.raw_length))
        decode_into(scheme, chain, made)
        return made
    if scheme.digest(Kind.CHUNK, payload) != chain.id:
        raise CorruptObjectError(f"chunk {chain.id.hex()} does not hash to its id")
    return payload


def _named(oid: bytes, at: bytes) -> str:
    return f"chunk {oid.hex()}" + (f", at chunk {at.hex()} that it is a delta of" if at != oid else "")


def _parts(link: Link) -> list[memoryview]:
    parts: list[memoryview] = []
    start = 0
    for length in link.head.planes:
        parts.append(link.payload[start : start + length])
        start += length
    return parts


def _laid_out(link: Link, out: memoryview) -> tuple[Unsigned, list[memoryview]]:
    """`out` as words, with the odd bytes behind the last one in place, and the planes of the words."""
    width = link.head.word_size
    parts = _parts(link)
    tail = len(out) % width
    if tail:
        out[len(out) - tail :] = parts.pop()
    return np.frombuffer(out[: len(out) - tail], f"<u{width}"), parts


def _put(link: Link, out: memoryview) -> None:
    """What a frame holds whose words are not halved, into `out`, which holds its base if it is a delta."""
    codec = link.head.codec
    if codec is Codec.RAW:
        _copy(link.payload, out)
    elif codec is Codec.ZSTD:
        _copy(memoryview(decompressed(link.payload, len(out))), out)
    elif codec is Codec.CONSTANT:
        width, whole = link.head.word_size, len(out) - len(out) % link.head.word_size
        np.frombuffer(out[:whole], f"<u{width}")[:] = np.frombuffer(link.payload, f"<u{width}")
        out[whole:] = link.payload[: len(out) - whole]
    else:
        words, parts = _laid_out(link, out)
        _decode(codec, parts, words)


def _upper(link: Link, out: memoryview, base: Unsigned | None) -> Unsigned:
    """The upper halves of a frame's words.

    base: those of what it is a delta of, which are used up; None: they are in `out`, if it is one.
    """
    width = link.head.word_size
    count = len(out) // width
    if base is None:
        base = scratch_words("upper", count, width // 2)
        if link.head.base is not None:
            upper_halves(words_in(out, width), base)
    _decode(link.head.codec, _parts(link)[1 : 1 + width // 2], base)
    return base


def _join(link: Link, upper: Unsigned, out: memoryview) -> None:
    """Whole words into `out`."""
    words, parts = _laid_out(link, out)
    join_halves(np.frombuffer(parts[0], upper.dtype), upper, words)


def _decode(codec: Codec, parts: list[memoryview], words: Unsigned) -> None:
    """What parts hold, into `words`, which are the base's if the codec is of a delta."""
    width = words.itemsize
    if codec is Codec.PLANES or codec is Codec.ROTATED_PLANES:
        join(parts, words)
        if codec is Codec.ROTATED_PLANES:
            unrotate(words)
        return
    if codec is Codec.SPARSE_DELTA:
        where = delta.places(plane(parts[0], -(-len(words) // 8)), len(words))
        there = words[where]
        values = scratch_words("zigzag", len(there), width)
        join(parts[1:], values)
        delta.add(values, there)
        words[where] = there
        return
    zigzag = scratch_words("zigzag", len(words), width)
    if codec is Codec.SCALED_DELTA:
        join(parts[1:], zigzag)
        delta.scaled(words, _scale(parts[0]), words)
    elif codec is Codec.SORTED_DELTA:
        grouped = scratch_words("grouped", len(words), width)
        join(parts, grouped)
        zigzag[delta.by_exponent(words)] = grouped
    else:
        join(parts, zigzag)
    delta.add(zigzag, words)


def _scale(part: memoryview) -> np.float32:
    if len(part) != 4:
        raise CorruptObjectError(f"it has a scale of {len(part)} bytes")
    scale = np.frombuffer(part, "<f4")[0]
    if not 0.5 <= scale <= 1:
        raise CorruptObjectError(f"it has a scale of {scale}")
    return np.float32(scale)


def _copy(raw: memoryview, out: memoryview) -> None:
    """Copy without the GIL, which an assignment to a memoryview keeps for as long as it takes, and without memcpy.

    glibc's memcpy copies 2 KiB to about 1 MiB by `rep movsb`, which on AMD is 8 times slower where the destination lies
    up to 63 bytes further on in its page than the source does: glibc's bug 30994. That is the rule here: a frame of
    LMDB's has its payload 56 bytes into a page, and malloc begins a large tensor 64 bytes into one.
    """
    np.bitwise_or(np.frombuffer(raw, np.uint8), 0, out=np.frombuffer(out, np.uint8))
