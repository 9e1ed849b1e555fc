"""Memory that a thread works in, kept between chunks: what is asked for again costs no page faults.

It belongs to the piece of work that asked, until that asks for the same again. Work within work has memory of its own:
Python runs signal handlers between any two steps of the main thread, and one may load or commit. Nothing of it may be
handed on. What chunks of an unusual size need is made anew each time: a thread may live as long as the process.
"""

from __future__ import annotations

import threading
from typing import Any, Final, TypeAlias

import numpy as np

from casckpt.limits import MIB

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Unsigned: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""Little-endian unsigned words."""

Part: TypeAlias = bytes | memoryview | Bytes
"""A stretch of bytes, wherever it lies."""

# The most that is kept for one purpose, in bytes.
_KEPT: Final = 4 * MIB

_local = threading.local()


class Working:
    """A piece of work: what it asks for is its own until it ends, whatever begins and ends meanwhile on its thread."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before: int = _local.__dict__.get("level", 0)
        _local.level = self._before + 1

    def __exit__(self, *error: object) -> None:
        _local.level = self._before


def scratch(purpose: str, size: int) -> Bytes:
    """So many bytes for a purpose, with whatever stands in them."""
    if size > _KEPT:
        return np.empty(size, np.uint8)
    held: dict[tuple[int, str], Bytes] = _local.__dict__.setdefault("held", {})
    place = _local.__dict__.get("level", 0), purpose
    found = held.get(place)
    if found is None or len(found) < size:
        found = held[place] = np.empty(size, np.uint8)
    return found[:size]


def scratch_words(purpose: str, count: int, width: int) -> Unsigned:
    """So many words of `width` bytes, likewise."""
    return scratch(purpose, count * width).view(f"<u{width}")
