"""Spans: the bytes of a state, one storage, array or long text each, before they are cut into chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """The used span of one storage. path: of the first leaf that uses it. length: bytes.

    It keeps the storage alive. Its bytes are live: whoever writes to the tensor changes them.
    """

    path: str
    length: int
    _read: Callable[[], memoryview] = field(repr=False, compare=False)

    def host(self) -> memoryview:
        """Its bytes in host memory: the live ones where the storage is there, else a fresh copy of them."""
        return self._read()
