"""Stored bytes into live tensors: only what differs is read and written, and never a byte that is not the tensor's own.

A tensor whose elements lie side by side as they were saved is written where it is; any other by way of a copy.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from msgspec.structs import replace

from casckpt.errors import RestoreMismatchError
from casckpt.history.fetch import Objects
from casckpt.objects.node import NodeRef
from casckpt.objects.values import ITEM_SIZE, TensorRecord, reach
from casckpt.tensors.load import Region, node_of, read, update
from casckpt.tensors.memory import view_of
from casckpt.tensors.torch_leaves import DTYPES

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def read_tensor(objects: Objects, record: TensorRecord) -> torch.Tensor:
    """One record as a new tensor on the CPU, without its flags."""
    loaded = read(objects, replace(record, alias=None, flags=0))
    assert isinstance(loaded, torch.Tensor)
    return loaded


def check_fits(live: torch.Tensor, record: TensorRecord, path: str) -> None:
    """Whether the record can be written into the live tensor.

    Raises:
        RestoreMismatchError: another shape or dtype; or a tensor without memory.
    """
    if tuple(live.shape) != record.shape:
        raise RestoreMismatchError(
            f"the saved tensor has shape {record.shape}, the live one {tuple(live.shape)}", path=path
        )
    if live.dtype is not DTYPES.get(record.dtype):
        raise RestoreMismatchError(
            f"the saved tensor has dtype {record.dtype}, the live one {str(live.dtype).removeprefix('torch.')}",
            path=path,
            remedy="convert the live one, or load() the commit and convert what was saved",
        )
    if live.is_meta:
        raise RestoreMismatchError(
            "the live tensor is on the meta device, where nothing can be written",
            path=path,
            remedy="give it memory first, with to_empty()",
        )
    if any(size > 1 and stride == 0 for size, stride in zip(live.shape, live.stride(), strict=True)):
        raise RestoreMismatchError(
            "the live tensor is expanded: several of its elements are one place in memory",
            path=path,
            remedy="restore into what it was expanded from, or into a clone() of it",
        )
    if type(live) in _PLAIN and _end(live) > live.untyped_storage().nbytes():
        raise RestoreMismatchError("the live tensor's storage was freed", path=path)


def write(objects: Objects, writes: Iterable[tuple[torch.Tensor, TensorRecord]]) -> None:
    """Write records into live tensors that they fit. Every node is looked up before the first byte is written.

    Raises:
        CorruptObjectError, MissingObjectError: a node, and nothing was written; or a chunk, and the tensors are then
            undefined.
    """
    lying: list[torch.Tensor] = []
    regions: list[Region] = []
    small: list[tuple[torch.Tensor, bytes]] = []
    apart: list[tuple[torch.Tensor, TensorRecord]] = []
    for live, record in writes:
        if live.numel() == 0:
            continue
        start = record.offset * ITEM_SIZE[record.dtype]
        node = node_of(objects, record.storage) if isinstance(record.storage, NodeRef) else None
        if not _lies_as_saved(live, record):
            apart.append((live, record))
        elif node is not None:
            lying.append(live)
            regions.append(Region(node, _bytes(live), start))
        else:
            assert isinstance(record.storage, bytes)
            small.append((live, record.storage[start : start + live.numel() * live.element_size()]))
    changed: set[int] = set()
    try:
        update(objects, regions, changed)
    finally:
        for index in changed:
            _count_write(lying[index])
    for live, held in small:
        out = _bytes(live)
        if out != held:
            out[:] = held
            _count_write(live)
    for live, record in apart:  # one after the other, so that there is never a second state in memory
        loaded = read_tensor(objects, record)
        with torch.no_grad():
            live.copy_(loaded)


def _count_write(live: torch.Tensor) -> None:
    """Let autograd know that the tensor is not what it was."""
    if not live.is_inference():
        torch.autograd.graph.increment_version(live)


def equal_bytes(objects: Objects, one: TensorRecord, other: TensorRecord) -> bool:
    """Whether two records of the same shape and dtype show the same bytes."""
    raws = [
        read_tensor(objects, record).contiguous().reshape(-1).view(torch.uint8).numpy().data for record in (one, other)
    ]
    return raws[0] == raws[1]


def _lies_as_saved(live: torch.Tensor, record: TensorRecord) -> bool:
    """Whether the live bytes, and those of the record, are one run of the same order."""
    if type(live) not in _PLAIN or live.device.type != "cpu" or live.is_conj() or live.is_neg():
        return False
    along = [
        (stride, saved, size)
        for stride, saved, size in zip(live.stride(), record.strides, record.shape, strict=True)
        if size > 1
    ]
    step = 1
    for stride, saved, size in sorted(along):
        if stride != step or saved != step:
            return False
        step *= size
    return True


def _end(live: torch.Tensor) -> int:
    return reach(tuple(live.shape), live.stride(), int(live.storage_offset())) * live.element_size()


def _bytes(live: torch.Tensor) -> memoryview:
    size = live.element_size()
    return view_of(live.untyped_storage(), int(live.storage_offset()) * size, live.numel() * size)
