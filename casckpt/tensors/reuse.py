"""Memory of a state that its owner has no more use for, to load another state into; each byte is given out once.

Only memory all of which one tensor shows is given: what it does not show may be anybody's.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any

import torch

from casckpt.limits import MAX_DEPTH
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import child
from casckpt.objects.values import TensorRecord
from casckpt.tensors.torch_leaves import DTYPES

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_KEYS = (str, int, bool, float, bytes, type(None))


class Reuse:
    """The tensors of a state, by their paths. state: nested dicts, lists and tuples."""

    def __init__(self, state: object) -> None:
        self._tensors = dict(_tensors(state, "", 0))
        self._given: list[tuple[int, int]] = []  # from address to address, in order

    def take(self, record: TensorRecord, path: str) -> torch.UntypedStorage | None:
        """A storage that a record's bytes fit exactly: that of the tensor at its path; None where there is none."""
        live = self._tensors.get(path)
        if live is None or not _fits(live, record):
            return None
        storage = live.untyped_storage()
        if not self._give(storage.data_ptr(), storage.nbytes()):
            return None
        if not live.is_inference():
            torch.autograd.graph.increment_version(live)
        return storage

    def _give(self, start: int, length: int) -> bool:
        """Whether nothing in this memory was given out before; two storages may lie over one memory."""
        at = bisect_left(self._given, (start, 0))
        if at < len(self._given) and self._given[at][0] < start + length:
            return False
        if at and self._given[at - 1][1] > start:
            return False
        insort(self._given, (start, start + length))
        return True


def _fits(live: torch.Tensor, record: TensorRecord) -> bool:
    """Whether the record's storage is as large as the live tensor's, and that shows each byte of its own."""
    if type(live) not in _PLAIN or live.layout is not torch.strided or live.device.type != "cpu":
        return False
    if live.dtype is not DTYPES.get(record.dtype) or tuple(live.shape) != record.shape:
        return False
    held = live.untyped_storage().nbytes()
    saved = record.storage.length if isinstance(record.storage, NodeRef) else None
    return held == saved == live.numel() * live.element_size() and _is_dense(live)


def _is_dense(live: torch.Tensor) -> bool:
    """Whether elements lie side by side in some order, so that no two are one place in memory."""
    step = 1
    for stride, size in sorted(
        (stride, size) for stride, size in zip(live.stride(), live.shape, strict=True) if size > 1
    ):
        if stride != step:
            return False
        step *= size
    return True


def _tensors(item: Any, path: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(item, torch.Tensor):
        yield path, item
    elif depth < MAX_DEPTH and isinstance(item, dict):
        for key, inner in item.items():
            if type(key) in _KEYS:
                yield from _tensors(inner, child(path, key), depth + 1)
    elif depth < MAX_DEPTH and isinstance(item, (list, tuple)):
        for index, inner in enumerate(item):
            yield from _tensors(inner, child(path, index), depth + 1)
