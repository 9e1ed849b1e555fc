"""Memory that a thread works in, kept between chunks: what is asked for again costs no page faults.

It belongs to the thread that asked, until it asks for the same again. Nothing of it may be handed on.
What chunks of an unusual size need is made anew each time: a thread may live as long as the process.
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


def scratch(purpose: str, size: int) -> Bytes:
    """So many bytes for a purpose, with whatever stands in them."""
    if size > _KEPT:
        return np.empty(size, np.uint8)
    held: dict[str, Bytes] = _local.__dict__.setdefault("held", {})
    found = held.get(purpose)
    if found is None or len(found) < size:
        found = held[purpose] = np.empty(size, np.uint8)
    return found[:size]


def scratch_words(purpose: str, count: int, width: int) -> Unsigned:
    """So many words of `width` bytes, likewise."""
    return scratch(purpose, count * width).view(f"<u{width}")
