"""What is fuzzed: a function of bytes that may raise nothing but casckpt's own errors, with inputs that it takes.

An input of several parts (the trees of a state, the frames of a chain) is one run of bytes: each part behind its
length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from casckpt.errors import CasckptError


@dataclass(frozen=True, slots=True)
class Target:
    """One parser.

    seeds: inputs that it takes, made of real objects. parse: what is tried; its result counts for nothing. mend: puts
    checksums and lengths right again after a mutation, so that what stands behind them is reached. tokens: bytes that
    mean something there. parts: whether an input has several. allowed: what it may raise. files: whether it works on
    files in the current folder, which makes it slow.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    parse: Callable[[bytes], object]
    mend: Callable[[bytes, Random], bytes] | None = None
    tokens: tuple[bytes, ...] = ()
    parts: bool = False
    allowed: tuple[type[Exception], ...] = (CasckptError,)
    files: bool = False


def joined(parts: Sequence[bytes]) -> bytes:
    """Parts as one input."""
    return b"".join([len(part).to_bytes(4, "little") + part for part in parts])


def taken_apart(data: bytes) -> list[bytes]:
    """The parts of an input, whatever it is: a length that goes too far ends with the input."""
    parts: list[bytes] = []
    at = 0
    while at + 4 <= len(data) and len(parts) < 64:
        length = int.from_bytes(data[at : at + 4], "little")
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return parts
