"""How the elements of a record lie in its span, and how they are brought side by side for a file, and back.

Everything is bytes here: no element is ever taken for a number, so that no bit of it can change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from casckpt.objects.values import (
    ITEM_SIZE,
    ArrayRecord,
    BlobRecord,
    Record,
    TensorRecord,
    contiguous_strides,
)
from casckpt.tensors.numpy_leaves import Array, dtype_of

_WORDS = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


@dataclass(frozen=True, slots=True)
class Layout:
    """The elements that a record shows, each once. item: bytes in one. shape, strides, offset: in elements."""

    item: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the elements side by side."""
        return int(np.prod(self.shape, dtype=object)) * self.item

    def is_whole(self, length: int) -> bool:
        """Whether the span holds these elements in their order, and nothing else."""
        return self.offset == 0 and self.strides == contiguous_strides(self.shape) and self.nbytes == length

    def overlaps(self) -> bool:
        """Whether elements may lie over each other."""
        reached = 0
        for stride, size in sorted(
            (stride, size) for stride, size in zip(self.strides, self.shape, strict=True) if size > 1
        ):
            if stride <= reached:
                return True
            reached += stride * (size - 1)
        return False

    def gather(self, span: memoryview) -> memoryview:
        """The elements side by side, row-major: the span's own bytes where they lie so, else a copy."""
        if self.is_whole(len(span)):
            return span
        if self.nbytes == 0:
            return memoryview(b"")
        packed = np.ascontiguousarray(self._over(np.frombuffer(span, np.uint8)))
        return packed.reshape(-1).view(np.uint8).data

    def scatter(self, packed: Array, span: Array) -> None:
        """The inverse of `gather`: elements that lie side by side, into their places in a span. Both flat bytes."""
        if self.nbytes:
            self._over(span)[...] = packed.view(self._word).reshape(self.shape)

    @property
    def _word(self) -> np.dtype[Any]:
        return _WORDS.get(self.item) or np.dtype(f"V{self.item}")

    def _over(self, span: Array) -> Array:
        strides = tuple(stride * self.item for stride in self.strides)
        return np.ndarray(self.shape, self._word, span.data, self.offset * self.item, strides)


def layout_of(record: Record, length: int) -> Layout:
    """The layout of a record in its span of `length` bytes. Expanded dimensions count 1: they broadcast.

    Raises:
        LeafError, TypeError, ValueError: an array whose dtype this machine has not got, or that is none.
    """
    if isinstance(record, TensorRecord):
        sizes = zip(record.shape, record.strides, strict=True)
        shape = tuple([1 if stride == 0 and size > 1 else size for size, stride in sizes])
        return Layout(ITEM_SIZE[record.dtype], shape, _settled(shape, record.strides), record.offset)
    if isinstance(record, BlobRecord):
        return Layout(1, (length,), (1,), 0)
    return _array_layout(record)


def _array_layout(record: ArrayRecord) -> Layout:
    strides = contiguous_strides(record.shape)
    if record.fortran:
        strides = tuple(reversed(contiguous_strides(tuple(reversed(record.shape)))))
    return Layout(dtype_of(record.dtype).itemsize, record.shape, strides, 0)


def _settled(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in which those that are never taken, of dimensions of one element, are as if contiguous."""
    plain = contiguous_strides(shape)
    loose = [size <= 1 for size in shape]
    if all(a == b for a, b, free in zip(strides, plain, loose, strict=True) if not free):
        return plain
    return tuple([b if free else a for a, b, free in zip(strides, plain, loose, strict=True)])
