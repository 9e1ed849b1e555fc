"""How much the elements of two tensors or arrays differ, in float64, piece by piece. Never a copy of a whole one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from casckpt.history.diff import Difference

# Elements that are looked at in one piece: each piece takes some ten times 8 bytes of them.
_PIECE: Final = 1 << 18

Numbers: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Elements: TypeAlias = torch.Tensor | Numbers


def compare(old: object, new: object) -> Difference | None:
    """The difference of two tensors or arrays of the same shape; None for any other, or of dtypes that are no numbers.

    Integers of 64 bits are subtracted exactly before they are rounded; bool counts as 0 and 1; the absolute difference
    of complex numbers is that of the plane.
    """
    if not (isinstance(old, (torch.Tensor, np.ndarray, np.generic)) and isinstance(new, _ELEMENTS)):
        return None
    old, new = _elements(old), _elements(new)
    if tuple(old.shape) != tuple(new.shape) or not (_is_numeric(old) and _is_numeric(new)):
        return None
    sums = _Sums()
    with np.errstate(all="ignore"):  # what is not finite is counted, not warned of
        scale = _scale(old, new)
        for before, after in _pieces(old, new):
            sums.add(_numbers(before), _numbers(after), scale)
    return sums.difference(scale)


_ELEMENTS: Final = (torch.Tensor, np.ndarray, np.generic)
_NUMERIC: Final = re.compile(r"bool|u?int(8|16|32|64)|b?float(8_\w+|16|32|64)|complex\d+")


def _elements(item: Any) -> Elements:
    if isinstance(item, torch.Tensor):
        return item.detach().resolve_conj().resolve_neg()
    return np.asarray(item)


def _is_numeric(item: Elements) -> bool:
    if isinstance(item, torch.Tensor):
        return _NUMERIC.fullmatch(str(item.dtype).removeprefix("torch.")) is not None
    return item.dtype.kind in "biufc"


def _pieces(old: Elements, new: Elements) -> Iterator[tuple[Elements, Elements]]:
    """Both cut alike along their dimensions, so that no piece has more than _PIECE elements and none is copied."""
    shape = tuple(old.shape)
    count = math.prod(shape)
    if count <= _PIECE:
        if count:
            yield old, new
        return
    axis = max(range(len(shape)), key=lambda dimension: shape[dimension])
    step = max(1, shape[axis] * _PIECE // count)
    for start in range(0, shape[axis], step):
        cut = tuple([slice(None)] * axis + [slice(start, start + step)])
        yield from _pieces(old[cut], new[cut])


def _numbers(piece: Elements) -> Numbers:
    """A piece as float64 or complex128, or as the integers of 64 bits that it is."""
    if isinstance(piece, torch.Tensor):
        if piece.dtype in (torch.int64, torch.uint64):
            return piece.contiguous().cpu().numpy().reshape(-1)
        wide = torch.complex128 if piece.is_complex() else torch.float64
        return piece.to(wide).contiguous().cpu().numpy().reshape(-1)
    flat = piece.reshape(-1)
    if flat.dtype.kind in "iu" and flat.dtype.itemsize == 8:
        return flat.astype(flat.dtype.newbyteorder("="))
    return flat.astype(np.complex128 if flat.dtype.kind == "c" else np.float64)


def _subtract(old: Numbers, new: Numbers) -> Numbers:
    """new - old in float64; of integers of 64 bits rounded only once."""
    if old.dtype.kind not in "iu" or new.dtype.kind not in "iu":
        return _wide(new) - _wide(old)
    high = (new >> 32).astype(np.float64) - (old >> 32).astype(np.float64)
    low = _low(new).astype(np.float64) - _low(old).astype(np.float64)
    return np.asarray(high * 2.0**32 + low)


def _low(piece: Numbers) -> Numbers:
    return np.asarray(piece & piece.dtype.type(0xFFFFFFFF))


def _wide(piece: Numbers) -> Numbers:
    return piece.astype(np.float64) if piece.dtype.kind in "iu" else piece


def _scale(old: Elements, new: Elements) -> float:
    """A power of two by which numbers whose squares float64 cannot hold are divided; else 1."""
    if not any(str(item.dtype).endswith(("float64", "complex128", "longdouble", "float128")) for item in (old, new)):
        return 1.0
    largest = 0.0
    for piece in (piece for pair in _pieces(old, new) for piece in pair):
        numbers = np.abs(_wide(_numbers(piece)))
        largest = max(largest, float(np.max(numbers, where=np.isfinite(numbers), initial=0.0)))
    if largest == 0.0 or 1e-100 < largest < 1e100:
        return 1.0
    return math.ldexp(1.0, max(min(math.frexp(largest)[1], 1000), -1000))


@dataclass(slots=True)
class _Sums:
    """What adds up over the pieces. Of finite elements: sums of |new - old|, of squares of old, new and new - old, and
    of (new - old) * (new + old), from which the difference of the norms comes without cancellation."""

    elements: int = 0
    differing: int = 0
    finite: int = 0
    largest: float = 0.0
    absolute: float = 0.0
    squares: float = 0.0
    old_squares: float = 0.0
    new_squares: float = 0.0
    crossed: float = 0.0
    odd: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def add(self, old: Numbers, new: Numbers, scale: float) -> None:
        self.elements += old.size
        exact = old.dtype.kind == new.dtype.kind or {old.dtype.kind, new.dtype.kind} == set("iu")
        same = old == new if exact else _wide(old) == _wide(new)
        delta = _subtract(old, new)
        old, new = _wide(old), _wide(new)
        old_nan, new_nan = np.isnan(old), np.isnan(new)
        self.differing += int(np.count_nonzero(~(same | (old_nan & new_nan))))
        finite = np.isfinite(old) & np.isfinite(new)
        if not finite.all():
            counts = (old_nan, new_nan, np.isinf(old) & ~old_nan, np.isinf(new) & ~new_nan)
            self.odd = [before + int(np.count_nonzero(found)) for before, found in zip(self.odd, counts, strict=True)]
            old, new, delta = old[finite], new[finite], delta[finite]
        self.finite += old.size
        if not old.size:
            return
        if scale != 1.0:
            old, new = old / scale, new / scale
            delta = new - old
        size = np.abs(delta)
        self.largest = max(self.largest, float(size.max()))
        self.absolute += float(size.sum())
        self.squares += float(np.dot(size, size))
        self.old_squares += float(np.vdot(old, old).real)
        self.new_squares += float(np.vdot(new, new).real)
        self.crossed += float(np.vdot(delta, new + old).real)

    def difference(self, scale: float) -> Difference:
        old, new = math.sqrt(self.old_squares), math.sqrt(self.new_squares)
        norm = math.sqrt(self.squares)
        return Difference(
            elements=self.elements,
            differing=self.differing,
            max_abs=self.largest * scale,
            mean_abs=self.absolute / self.finite * scale if self.finite else 0.0,
            relative=norm / old if old else (math.inf if norm else 0.0),
            cosine=self._cosine(old, new),
            old_nan=self.odd[0],
            new_nan=self.odd[1],
            old_inf=self.odd[2],
            new_inf=self.odd[3],
        )

    def _cosine(self, old: float, new: float) -> float:
        if not self.squares:
            return 0.0
        if not old or not new:
            return math.nan
        # 1 - cos = (|new - old|^2 - (|new| - |old|)^2) / (2 |old| |new|): of nearly equal vectors all digits are left
        grown = self.crossed / (old + new)
        return min(2.0, max(0.0, (self.squares - grown * grown) / (2.0 * old * new)))
