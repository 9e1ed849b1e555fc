"""What the codecs of chunks mean, word by word, in plain integers: slow, and as the page has it."""

from __future__ import annotations

import struct

import zstandard

from tests.compat.reader.errors import FormatError, NewerError, need

RAW, ZSTD, PLANES, DELTA, SPARSE, CONSTANT, ROTATED, SCALED, SORTED = range(9)
WORD_SIZES = {
    **dict.fromkeys((RAW, ZSTD), (0,)),
    **dict.fromkeys((PLANES, DELTA, SPARSE, CONSTANT), (1, 2, 4, 8)),
    **dict.fromkeys((ROTATED, SORTED), (2, 4, 8)),
    SCALED: (4,),
}
DELTAS = (DELTA, SPARSE, SCALED, SORTED)
HALVED = (DELTA, ROTATED, SORTED)


def check_head(codec: int, word: int, raw_length: int, payload_length: int, parts: list[int], has_base: bool) -> None:
    """Everything that the head of a frame must keep to because of its codec."""
    if codec not in WORD_SIZES:
        raise NewerError(f"codec {codec}")
    need(word in WORD_SIZES[codec], "a word size that the codec does not take")
    need(has_base == (codec in DELTAS), "a base that is of no use, or none")
    need(word <= raw_length, "a word that is longer than the chunk")
    if codec in (RAW, ZSTD, CONSTANT):
        need(not parts, "parts that the codec does not have")
        need(codec == ZSTD or payload_length == (word or raw_length), "a payload of another length")
        return
    tail = raw_length % word
    if stands_in_halves(codec, word, raw_length, parts):
        need(parts[0] == raw_length // word * word // 2, "lower halves of another length")
    else:
        need(len(parts) == (codec in (SPARSE, SCALED)) + word + (tail > 0), "another number of parts")
    need(not tail or parts[-1] == tail, "a tail of another length")
    need(codec != SCALED or parts[0] == 4, "a scale of another length")
    need(sum(parts) == payload_length, "parts that do not add up")


def stands_in_halves(codec: int, word: int, raw_length: int, parts: list[int]) -> bool:
    return codec in HALVED and word in (4, 8) and len(parts) == 1 + word // 2 + (raw_length % word > 0)


def unpacked(packed: bytes, size: int) -> bytes:
    """What a zstd frame holds."""
    try:
        need(zstandard.frame_content_size(packed) == size, "a zstd frame of another size")
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"no zstd frame: {error}") from error


def decode(codec: int, word: int, raw_length: int, payload: bytes, parts: list[int], base: bytes | None) -> bytes:
    """The chunk that a payload stands for; `check_head` was called before."""
    if codec == RAW:
        return payload
    if codec == ZSTD:
        return unpacked(payload, raw_length)
    if codec == CONSTANT:
        return (payload * (raw_length // word + 1))[:raw_length]
    taken, at = [], 0
    for length in parts:
        taken.append(payload[at : at + length])
        at += length
    count = raw_length // word
    tail = taken.pop() if raw_length % word else b""
    if stands_in_halves(codec, word, raw_length, parts):
        half = word // 2
        if base is not None:
            need(len(base) == raw_length, "a base of another length")
            base = b"".join(base[at + half : at + word] for at in range(0, count * word, word))
        upper = decode(codec, half, count * half, b"".join(taken[1:]), [len(part) for part in taken[1:]], base)
        return b"".join(taken[0][at : at + half] + upper[at : at + half] for at in range(0, count * half, half)) + tail
    first = taken.pop(0) if codec in (SPARSE, SCALED) else b""
    bits, top = 8 * word, 8 * word - 1
    if codec in (PLANES, ROTATED):
        words = joined(taken, count)
        if codec == ROTATED:
            words = [(one >> 1) | (one << top) % 2**bits for one in words]
        return packed_words(words, word) + tail
    need(base is not None and len(base) == raw_length, "a base of another length")
    before = [int.from_bytes(base[at : at + word], "little") for at in range(0, count * word, word)]
    changed = list(range(count))
    if codec == SPARSE:
        mask = plane(first, -(-count // 8))
        changed = [at for at in range(count) if mask[at // 8] >> at % 8 & 1]
        need(sum(byte.bit_count() for byte in mask) == len(changed), "bits behind the last word")
    elif codec == SORTED:
        changed.sort(key=lambda at: before[at] >> (bits - 9) & 255)
    elif codec == SCALED:
        (scale,) = struct.unpack("<f", first)
        need(0.5 <= scale <= 1, "an impossible scale")
        before = [scaled(one, scale) for one in before]
    for at, zigzag in zip(changed, joined(taken, len(changed)), strict=True):
        before[at] = (before[at] + ((zigzag >> 1) ^ -(zigzag & 1))) % 2**bits
    return packed_words(before, word) + tail


def plane(part: bytes, length: int) -> bytes:
    need(len(part) <= length, "a plane that is longer than what it stands for")
    return part if len(part) == length else unpacked(part, length)


def joined(planes: list[bytes], count: int) -> list[int]:
    """The words of planes, the lowest bytes first."""
    return [int.from_bytes(one, "little") for one in zip(*[plane(part, count) for part in planes], strict=True)]


def packed_words(words: list[int], word: int) -> bytes:
    return b"".join(one.to_bytes(word, "little") for one in words)


def scaled(word: int, scale: float) -> int:
    """A float32 times a number: exact as a float64, then rounded once."""
    if not 2 <= word >> 23 & 255 <= 254:
        return word
    (number,) = struct.unpack("<f", word.to_bytes(4, "little"))
    return int.from_bytes(struct.pack("<f", number * scale), "little")
