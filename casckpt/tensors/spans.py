"""Spans: the bytes of a state, one storage, array or long text each, before they are cut into chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Span:
    """The used span of one storage. path: of the first leaf that uses it. length: bytes.

    on_host: whether they are in host memory. It keeps the storage alive. Its bytes are live: whoever writes to the
    tensor changes them.
    """

    path: str
    length: int
    on_host: bool

    def host(self) -> memoryview:
        """Its bytes in host memory: the live ones where the storage is there, else a fresh copy of them."""
        raise NotImplementedError

    def copied(self) -> bytes:
        """Its bytes as they are now. For few of them this is much cheaper than `host`."""
        return bytes(self.host())

    def flat(self) -> torch.Tensor:
        """Its live bytes as a tensor of uint8 on their own device. Only the spans of tensors have one."""
        raise NotImplementedError


@dataclass(slots=True)
class HeldSpan(Span):
    """The bytes of an array or of long text, which are always in host memory."""

    _read: Callable[[], memoryview] = field(repr=False, compare=False)

    def host(self) -> memoryview:
        return self._read()
