"""Inputs that are nearly right: what is changed in one is drawn from a generator, so that a seed gives it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from tests.trials.hostile.target import Target, joined, taken_apart

# Numbers at the edges of what fields hold, and of what is allowed in them.
_EDGES: Final = sorted(
    {
        edge
        for power in (0, 4, 5, 7, 8, 15, 16, 24, 26, 31, 32, 40, 53, 61, 62, 63, 64)
        for edge in ((1 << power) - 1, 1 << power, (1 << power) + 1)
    }
)
# Heads of msgpack: maps, arrays, texts, bytes, numbers and extensions of every width.
_HEADS: Final = tuple(
    bytes((head,)) for head in (*range(0x80, 0x86), *range(0x90, 0x9C), 0xA0, 0xA1, *range(0xC0, 0xE0), 0xFF, 0x00)
)
_LONGEST: Final = 1 << 16


def mutated(random: Random, target: Target, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, changed in one to five places; its checksums put right again nine times out of ten."""
    data = random.choice(seeds)
    if target.parts:
        data = joined(_of_parts(random, target, [*taken_apart(data)], seeds))
    else:
        other = random.choice(seeds)
        for _ in range(_count(random)):
            data = random.choice(_CHANGES)(random, data, other, target.tokens)[:_LONGEST]
    if target.mend is not None and random.random() < 0.9:
        data = target.mend(data, random)
    return data


def _of_parts(random: Random, target: Target, parts: list[bytes], seeds: Sequence[bytes]) -> list[bytes]:
    for _ in range(_count(random)):
        if not parts:
            return parts
        at = random.randrange(len(parts))
        kind = random.random()
        if kind < 0.05:
            del parts[at]
        elif kind < 0.1:
            parts.insert(at, random.choice(parts))
        elif kind < 0.15:
            parts[at] = random.choice(taken_apart(random.choice(seeds)) or [b""])
        else:
            other = random.choice(parts)
            parts[at] = random.choice(_CHANGES)(random, parts[at], other, target.tokens)[:_LONGEST]
    return parts


def _count(random: Random) -> int:
    return random.choice((1, 1, 1, 2, 2, 3, 5))


def _flip(random: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    if not data:
        return b"\0"
    at = random.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << random.randrange(8),)) + data[at + 1 :]


def _byte(random: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + bytes((random.choice((0, 1, 127, 128, 255, random.randrange(256))),)) + data[at + 1 :]


def _number(random: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    """A number of some width at an edge, over what was there."""
    width = random.choice((1, 2, 4, 8))
    at = random.randrange(len(data) + 1)
    edge = random.choice(_EDGES) * random.choice((1, 1, 1, -1)) % (1 << 8 * width)
    return data[:at] + edge.to_bytes(width, random.choice(("little", "big"))) + data[at + width :]


def _drift(random: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    """A number that is there, a little more or less."""
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes(((data[at] + random.choice((-2, -1, 1, 2))) % 256,)) + data[at + 1 :]


def _token(random: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    token = random.choice(tokens or _HEADS)
    at = random.randrange(len(data) + 1)
    return data[:at] + token + data[at + random.choice((0, 1, len(token))) :]


def _splice(random: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    start = random.randrange(len(other) + 1)
    piece = other[start : start + random.choice((1, 2, 4, 8, 16, 64, 1024))]
    at = random.randrange(len(data) + 1)
    return data[:at] + piece + data[at + random.choice((0, len(piece))) :]


def _cut(random: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[start + random.choice((1, 2, 4, 16, len(data))) :]


def _again(random: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    """A piece of it many times over: nesting, long lists, equal keys."""
    start = random.randrange(len(data) + 1)
    piece = data[start : start + random.choice((1, 2, 3, 5, 9, 20))]
    return data[:start] + piece * random.choice((2, 3, 17, 200)) + data[start + len(piece) :]


_CHANGES: Final[tuple[Callable[[Random, bytes, bytes, tuple[bytes, ...]], bytes], ...]] = (
    _flip,
    _byte,
    _byte,
    _number,
    _number,
    _drift,
    _token,
    _token,
    _splice,
    _cut,
    _again,
)
