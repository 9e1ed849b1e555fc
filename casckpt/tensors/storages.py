"""Tensors grouped by the storage that they share, and the span of it that they use between them.

A span is the hull from the lowest to the highest byte that any tensor of the state touches, so that a small view of a
large storage costs what it shows, and tensors that overlap are stored once.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch

from casckpt.errors import StateError
from casckpt.limits import MAX_DIMENSIONS, MAX_EXTENT
from casckpt.objects.values import ITEM_SIZE, TensorRecord, reach
from casckpt.tensors.leaf import LeafError
from casckpt.tensors.spans import Span
from casckpt.tensors.torch_leaves import DTYPES, flags_of

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(slots=True)
class _Shared:
    """One storage, and what the tensors seen so far touch of it, in bytes. index: of its span."""

    storage: torch.UntypedStorage
    path: str
    index: int
    low: int = 0
    high: int = 0
    item_size: int = 1
    tensors: int = 0
    alias: int | None = None

    @property
    def start(self) -> int:
        """Where the span starts: a multiple of every item size in it, so that offsets stay whole elements."""
        return self.low - self.low % self.item_size

    @property
    def length(self) -> int:
        """Bytes in the span."""
        return self.high - self.start


@dataclass(slots=True)
class _TensorSpan(Span):
    """The used span of a tensor's storage. start: of the span in it, in bytes."""

    _storage: torch.UntypedStorage = field(repr=False, compare=False)
    _start: int = field(repr=False, compare=False)

    def host(self) -> memoryview:
        return self.flat().cpu().numpy().data if self.length else memoryview(b"")

    def copied(self) -> bytes:
        if not self.on_host or not self.length:
            return bytes(self.host())
        self._check()
        return ctypes.string_at(self._storage.data_ptr() + self._start, self.length)

    def flat(self) -> torch.Tensor:
        self._check()
        flat = torch.empty(0, dtype=torch.uint8, device=self._storage.device)
        return flat.set_(self._storage, self._start, (self.length,), (1,))

    def _check(self) -> None:
        """set_() makes a storage that is too short longer, and memory is read where nothing is."""
        if self._start + self.length > self._storage.nbytes():
            raise StateError(
                "a tensor whose storage was freed while it was saved",
                path=self.path,
                remedy="save it before its storage is resized",
            )


class Storages:
    """Takes tensors one by one and gives provisional records; settles them when all are known."""

    def __init__(self) -> None:
        # By the identity of torch's own object, which lives as long as it is held here.
        self._shared: dict[int, _Shared] = {}
        self._by_index: dict[int, _Shared] = {}

    def add(self, tensor: torch.Tensor, path: str, next_index: int) -> TensorRecord:
        """A strided tensor's record, its offset counted from the start of the whole storage, aliases not told yet.

        next_index: the place of the span, if this tensor is the first of its storage.

        Raises:
            LeafError: a tensor whose bytes cannot be reached or do not say all of it.
        """
        _refuse_unless_plain(tensor)
        flags = flags_of(tensor)
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.detach().resolve_conj().resolve_neg()
        dtype = _NAMES[tensor.dtype]
        item = ITEM_SIZE[dtype]
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError) as error:
            raise LeafError(
                f"a tensor without a storage of its own ({error})", "save it outside torch.func transforms"
            ) from error
        shared = self._shared.get(storage._cdata)
        if shared is None:
            shared = self._shared[storage._cdata] = self._by_index[next_index] = _Shared(storage, path, next_index)
        shape = tuple(tensor.shape)
        if len(shape) > MAX_DIMENSIONS or max((*shape, *tensor.stride()), default=0) >= MAX_EXTENT:
            raise LeafError(
                f"a tensor of {len(shape)} dimensions of up to {max(shape)} elements, which no store can hold",
                f"reshape it to at most {MAX_DIMENSIONS} dimensions of less than 2**62 elements",
            )
        stride = None if tensor.is_contiguous() else tensor.stride()
        offset = int(tensor.storage_offset())
        shared.tensors += 1
        shared.item_size = max(shared.item_size, item)
        if 0 in shape:
            offset = 0
        else:
            elements = offset + tensor.numel() if stride is None else reach(shape, stride, offset)
            if elements * item > storage.nbytes():
                raise LeafError("a tensor whose storage was freed", "save it before its storage is resized")
            shared.low = min(shared.low, offset * item) if shared.high else offset * item
            shared.high = max(shared.high, elements * item)
        return TensorRecord(dtype, shape, stride, offset, shared.index, None, flags)

    def settle(self) -> bool:
        """Number what is shared, now that every tensor is known; False where the provisional records are right."""
        aliases = 0
        moved = False
        for shared in self._shared.values():
            if shared.tensors > 1:
                shared.alias = aliases
                aliases += 1
            moved = moved or shared.start > 0
        return moved or aliases > 0

    def settled(self, record: TensorRecord) -> TensorRecord:
        """The record as it is stored: its offset from the start of the span, and its alias."""
        assert isinstance(record.storage, int)
        shared = self._by_index[record.storage]
        offset = record.offset - shared.start // ITEM_SIZE[record.dtype] if record.elements else 0
        return TensorRecord(
            record.dtype, record.shape, record.stride, offset, record.storage, shared.alias, record.flags
        )

    def span(self, index: int) -> Span:
        """The used span of a storage."""
        shared = self._by_index[index]
        return _TensorSpan(
            shared.path, shared.length, shared.storage.device.type == "cpu", shared.storage, shared.start
        )


def _refuse_unless_plain(tensor: torch.Tensor) -> None:
    if tensor.dtype not in _NAMES or tensor.is_quantized:
        raise LeafError(
            f"a tensor of {tensor.dtype}, which means nothing without its quantizer",
            "save tensor.dequantize(), or tensor.int_repr() with its scales and zero points",
        )
    if tensor.is_nested:
        raise LeafError("a nested tensor", "save list(tensor.unbind())")
    if tensor.is_meta:
        raise LeafError("a tensor on the meta device, which has no values", "materialise it before saving")
