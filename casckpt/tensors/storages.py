"""Tensors grouped by the storage that they share, and the span of it that they use between them.

A span is the hull from the lowest to the highest byte that any tensor of the state touches, so that a small view of a
large storage costs what it shows, and tensors that overlap are stored once.
"""

from __future__ import annotations

import ctypes

import torch

from casckpt.errors import StateError
from casckpt.limits import MAX_DIMENSIONS, MAX_EXTENT
from casckpt.objects.values import ITEM_SIZE, TensorRecord, reach
from casckpt.objects.words import Words, words_of
from casckpt.tensors.leaf import LeafError
from casckpt.tensors.memory import view_of
from casckpt.tensors.spans import Span
from casckpt.tensors.torch_leaves import DTYPES, flags_of

# The name and the size of an element in bytes of each dtype that can be saved.
_KNOWN = {dtype: (name, ITEM_SIZE[name]) for name, dtype in DTYPES.items()}


class StorageSpan(Span, eq=False, gc=False):
    """What the tensors seen so far use of one storage. low, high, start: bytes from where the storage begins."""

    storage: torch.UntypedStorage
    index: int
    dtype: str  # of the first tensor
    item_size: int
    low: int = 0
    high: int = 0
    start: int = 0
    tensors: int = 1
    alias: int | None = None

    def add(self, item_size: int, low: int, high: int) -> None:
        """Use these bytes too, in elements of this size. The span begins at a multiple of every item size in it, so
        that offsets stay whole elements."""
        self.tensors += 1
        self.item_size = max(self.item_size, item_size)
        if high:  # an empty tensor uses none
            self.low = min(self.low, low) if self.high else low
            self.high = max(self.high, high)
        self.start = self.low - self.low % self.item_size
        self.length = self.high - self.start

    def host(self) -> memoryview:
        if not self.length:
            return memoryview(b"")
        if not self.on_host:
            return self.flat().cpu().numpy().data
        self._check()
        return view_of(self.storage, self.start, self.length)

    def copied(self) -> bytes:
        if not self.on_host or not self.length:
            return bytes(self.host())
        self._check()
        return ctypes.string_at(self.storage.data_ptr() + self.start, self.length)

    def words(self) -> Words:
        return words_of(self.dtype)

    def flat(self) -> torch.Tensor:
        self._check()
        flat = torch.empty(0, dtype=torch.uint8, device=self.storage.device)
        return flat.set_(self.storage, self.start, (self.length,), (1,))

    def _check(self) -> None:
        """Whether the bytes are still there: set_() makes a storage longer, and an address is read blindly."""
        if self.start + self.length > self.storage.nbytes():
            raise StateError(
                "a tensor whose storage was freed while it was saved",
                path=self.path,
                remedy="save it before its storage is resized",
            )


class Storages:
    """Takes tensors one by one and gives provisional records; settles them when all are known.

    spans: where the span of a new storage is put; its place there is its number.
    """

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans
        # By the identity of torch's own object, which lives as long as its span.
        self._by_storage: dict[int, StorageSpan] = {}
        self._shared = False  # whether any storage has several tensors
        self._moved = False  # whether any span begins behind the start of its storage

    def add(self, tensor: torch.Tensor, path: str) -> TensorRecord:
        """A strided tensor's record, its offset counted from the start of the whole storage, aliases not told yet.

        Every look at a tensor costs, and a state may have tens of thousands of them: nothing is looked at twice.

        Raises:
            LeafError: a tensor whose bytes cannot be reached or do not say all of it.
        """
        known = _KNOWN.get(tensor.dtype)
        if known is None or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise _refusal(tensor)
        flags = flags_of(tensor)
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.detach().resolve_conj().resolve_neg()
        dtype, item = known
        try:
            storage = tensor.untyped_storage()
            storage.data_ptr()  # the zeros that forward-mode autograd makes have a storage, but no memory
        except (NotImplementedError, RuntimeError) as error:
            raise LeafError(
                f"a tensor without memory of its own ({error})",
                "save its clone(), or save it outside torch.func transforms",
            ) from error
        shape = tuple(tensor.shape)
        offset = int(tensor.storage_offset())
        if tensor.is_contiguous() and (elements := tensor.numel()) and len(shape) <= MAX_DIMENSIONS:
            stride, end = None, offset + elements
        else:
            stride, end = _checked_layout(tensor, shape)
            offset = offset if end else 0
        low, high = offset * item, end * item
        if high > storage.nbytes():
            raise LeafError("a tensor whose storage was freed", "save it before its storage is resized")
        span = self._by_storage.get(storage._cdata)
        if span is None:
            index = len(self._spans)
            span = StorageSpan(path, high - low, tensor.is_cpu, storage, index, dtype, item, low, high, low)
            self._by_storage[storage._cdata] = span
            self._spans.append(span)
            self._moved = self._moved or low > 0
        else:
            span.add(item, low, high)
            self._shared = True
        return TensorRecord(dtype, shape, stride, offset, span.index, None, flags)

    def settle(self) -> bool:
        """Number what is shared, now that every tensor is known; False where the provisional records are right."""
        if self._shared:
            shared = [span for span in self._by_storage.values() if span.tensors > 1]
            for alias, span in enumerate(shared):
                span.alias = alias
        return self._shared or self._moved

    def settled(self, record: TensorRecord) -> TensorRecord:
        """The record as it is stored: its offset from the start of the span, and its alias."""
        assert isinstance(record.storage, int)
        span = self._spans[record.storage]
        assert isinstance(span, StorageSpan)
        offset = record.offset - span.start // ITEM_SIZE[record.dtype] if record.elements else 0
        return TensorRecord(record.dtype, record.shape, record.stride, offset, record.storage, span.alias, record.flags)


def _checked_layout(tensor: torch.Tensor, shape: tuple[int, ...]) -> tuple[tuple[int, ...] | None, int]:
    """The strides of a tensor that is not contiguous, and the elements from the start of its storage to its last one.

    Raises:
        LeafError: a tensor of more dimensions, or larger ones, than a store can hold.
    """
    stride = tensor.stride()
    if len(shape) > MAX_DIMENSIONS or max((*shape, *stride), default=0) >= MAX_EXTENT:
        raise LeafError(
            f"a tensor of {len(shape)} dimensions of up to {max(shape)} elements, which no store can hold",
            f"reshape it to at most {MAX_DIMENSIONS} dimensions of less than 2**62 elements",
        )
    return None if tensor.is_contiguous() else stride, reach(shape, stride, int(tensor.storage_offset()))


def _refusal(tensor: torch.Tensor) -> LeafError:
    if tensor.dtype not in _KNOWN or tensor.is_quantized:
        return LeafError(
            f"a tensor of {tensor.dtype}, which means nothing without its quantizer",
            "save tensor.dequantize(), or tensor.int_repr() with its scales and zero points",
        )
    if tensor.is_nested:
        return LeafError("a nested tensor", "save list(tensor.unbind())")
    return LeafError("a tensor on the meta device, which has no values", "materialise it before saving")
