"""Live tensors and arrays that are about to be written, and lie in part in the same memory.

They may only where that cannot make a difference: where both come out of one saved storage, byte for byte as they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from casckpt.errors import RestoreMismatchError
from casckpt.objects.values import ITEM_SIZE, ArrayRecord, Storage, TensorRecord, contiguous_strides, reach


@dataclass(frozen=True, slots=True)
class Claim:
    """Memory that is going to be written: addresses from `start` up to `end`.

    origin: a saved storage and the address at which its first byte would lie, where each byte written comes from the
    place in that storage that its address says; else None.
    """

    path: str
    device: str
    start: int
    end: int
    origin: tuple[Storage, int] | None


def claim_tensor(live: torch.Tensor, record: TensorRecord, path: str) -> list[Claim]:
    """What writing a record into a tensor that it fits writes; empty for a tensor without memory of its own."""
    try:
        start = live.data_ptr()
    except RuntimeError:  # a tensor of a kind that has no memory of its own
        start = 0
    if not start or not live.numel():
        return []
    size = ITEM_SIZE[record.dtype]
    end = start + reach(tuple(live.shape), live.stride(), 0) * size
    as_saved = _same_strides(record.shape, live.stride(), record.strides) and not (live.is_conj() or live.is_neg())
    origin = (record.storage, start - record.offset * size) if as_saved else None
    return [Claim(path, str(live.device), start, end, origin)]


def claim_array(live: np.ndarray[Any, Any], record: ArrayRecord, path: str) -> list[Claim]:
    """What writing a record into an array writes; empty for an array without elements."""
    if not live.size:
        return []
    start, end = np.lib.array_utils.byte_bounds(live)
    strides = contiguous_strides(record.shape[::-1])[::-1] if record.fortran else contiguous_strides(record.shape)
    as_saved = live.shape == record.shape and _same_strides(
        record.shape, live.strides, [stride * live.itemsize for stride in strides]
    )
    return [Claim(path, "cpu", start, end, (record.storage, start) if as_saved else None)]


def refuse_overlaps(claims: Sequence[Claim]) -> None:
    """Whether everything can be written so that nothing is overwritten with something else.

    Raises:
        RestoreMismatchError: two claims overlap, and what was saved for them are not pieces of one storage.
    """
    before: list[Claim] = []
    for claim in sorted(claims, key=lambda claim: (claim.device, claim.start)):
        before = [other for other in before if other.device == claim.device and other.end > claim.start]
        for other in before:
            if claim.origin is None or claim.origin != other.origin:
                raise RestoreMismatchError(
                    f"the live memory overlaps with that of {other.path}, and they were not saved as parts of one "
                    "memory with that layout",
                    path=claim.path,
                    remedy="restore only one of the two, or give one of them memory of its own with clone() or copy()",
                )
        before.append(claim)


def _same_strides(shape: Sequence[int], one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the strides of a shape that has elements are the same, where they matter."""
    return all(size == 1 or a == b for size, a, b in zip(shape, one, other, strict=True))
