"""Spans: the bytes of a state, one storage, array or long text each, before they are cut into chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from casckpt.objects.words import BYTES, Words, words_of

if TYPE_CHECKING:
    import torch


# The garbage collector passes over spans: a state may have tens of thousands, and what one holds never holds the span.
class Span(msgspec.Struct, eq=False, gc=False):
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

    def words(self) -> Words:
        """What its bytes are made of, as far as it matters to codecs."""
        return BYTES

    def flat(self) -> torch.Tensor:
        """Its live bytes as a tensor of uint8 on their own device. Only the spans of tensors have one."""
        raise NotImplementedError


class HeldSpan(Span, eq=False, gc=False):
    """The bytes of an array or of long text, which are always in host memory."""

    read: Callable[[], memoryview]
    dtype: str = ""  # numpy's code of an array's

    def host(self) -> memoryview:
        return self.read()

    def words(self) -> Words:
        return words_of(self.dtype)
