"""Memory that a thread works in, kept between chunks: what is asked for again costs no page faults.

It belongs to the thread that asked, until it asks for the same again. Nothing of it may be handed on.
"""

from __future__ import annotations

import threading
from typing import Any, TypeAlias

import numpy as np

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Unsigned: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""Little-endian unsigned words."""

Part: TypeAlias = bytes | memoryview | Bytes
"""A stretch of bytes, wherever it lies."""

_local = threading.local()


def scratch(purpose: str, size: int) -> Bytes:
    """So many bytes for a purpose, with whatever stands in them."""
    held: dict[str, Bytes] = _local.__dict__.setdefault("held", {})
    found = held.get(purpose)
    if found is None or len(found) < size:
        found = held[purpose] = np.empty(size, np.uint8)
    return found[:size]


def scratch_words(purpose: str, count: int, width: int) -> Unsigned:
    """So many words of `width` bytes, likewise."""
    return scratch(purpose, count * width).view(f"<u{width}")
