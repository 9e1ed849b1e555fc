"""numpy's arrays and scalars in torch files, without numpy's own unpickling: it would believe any dtype and any shape.

torch's weights_only reader is given the classes below in the place of numpy's functions. They take only arrays of
numbers, checked against their bytes; `settled` puts the arrays where their stand-ins are.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch

from casckpt.limits import MAX_DEPTH, MAX_DIMENSIONS

_NUMBERS: Final = "biufc"
_here: Final = threading.local()


@contextmanager
def reading_here() -> Iterator[None]:
    """Stand-ins are made in this thread only: torch's table of what is allowed is one for the whole process."""
    _here.reading = True
    try:
        yield
    finally:
        _here.reading = False


def _check_here() -> None:
    """Another thread's own torch.load must not be given a stand-in for an array, unnoticed."""
    if not getattr(_here, "reading", False):
        raise RuntimeError("casckpt is reading a file in another thread: load this one again when it is done")


class Dtype:
    """In the place of numpy.dtype: `Dtype("f8", False, True)`, then its byte order by BUILD."""

    def __init__(self, text: object, *flags: object) -> None:
        _check_here()
        if not isinstance(text, str) or len(text) > 4:
            raise ValueError("a numpy dtype that is no plain number")
        self.made: np.dtype[Any] = np.dtype(text)
        if self.made.kind not in _NUMBERS or self.made.hasobject:
            raise ValueError(f"a numpy dtype {text!r}, which is no plain number")

    def __setstate__(self, state: Any) -> None:
        _, order, *nothing = state
        if order not in ("<", ">", "|", "="):
            raise ValueError("a numpy dtype without a byte order")
        if any(item not in (None, -1, 0) for item in nothing):
            raise ValueError("a numpy dtype with parts")
        self.made = self.made.newbyteorder(order)


class NdArray:
    """In the place of numpy.ndarray: an array whose contents come by BUILD. `made` is the real one."""

    def __init__(self, *passed_over: object) -> None:
        _check_here()
        self.made: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("a numpy array without a shape")
        if len(shape) > MAX_DIMENSIONS or not isinstance(dtype, Dtype) or not isinstance(raw, bytes):
            raise ValueError("a numpy array that is not one of plain numbers")
        flat = np.frombuffer(bytearray(raw), dtype.made) if raw else np.empty(0, dtype.made)
        self.made = flat.reshape(shape, order="F" if fortran else "C")


def _reconstruct(cls: object, shape: object, code: object) -> NdArray:
    """In the place of numpy's function of that name: an empty array, to be filled by BUILD."""
    if cls is not NdArray:
        raise ValueError("a numpy array of another class")
    return NdArray()


class Scalar:
    """In the place of numpy's function `scalar`: a number of a dtype, given by its bytes."""

    def __init__(self, dtype: object, raw: object) -> None:
        if not isinstance(dtype, Dtype) or not isinstance(raw, bytes):
            raise ValueError("a numpy scalar that is no plain number")
        (self.made,) = np.frombuffer(raw, dtype.made)


def _no_bytes(*nothing: object) -> bytes:
    """In the place of Python's `bytes`, which pickles call for empty ones: with a number it would take memory."""
    if nothing:
        raise ValueError("bytes made in an unusual way")
    return b""


_TENSORS: Final = (torch.Tensor, torch.nn.Parameter)
_STAND_INS: Final = (Dtype, NdArray, Scalar)

SAFE: Final[list[Any]] = [
    (Dtype, "numpy.dtype"),
    (NdArray, "numpy.ndarray"),
    (_no_bytes, "builtins.bytes"),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((Scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""For torch.serialization.safe_globals."""


def settled(state: Any, most: int, size: int) -> Any:
    """The state with real arrays where there were stand-ins.

    most: items that it may have, a container met twice counted twice: a file of n bytes holds no more unless it is
    made to blow up. size: bytes that its tensors' storages may have between them.

    Raises:
        ValueError: it has more, is nested too deeply, or contains itself.
    """
    left = most
    held: dict[int, int] = {}  # bytes of each storage, by its identity

    def visit(item: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("it holds the same containers over and over")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels, or it contains itself")
        kind = type(item)
        if kind in _STAND_INS:
            if item.made is None:
                raise ValueError("a numpy array without contents")
            return item.made
        if kind in _TENSORS and item.layout is torch.strided and not item.is_meta:
            storage = item.untyped_storage()
            held[storage._cdata] = storage.nbytes()
        elif kind is list:
            item[:] = [visit(inner, depth + 1) for inner in item]
        elif kind is tuple:
            return tuple([visit(inner, depth + 1) for inner in item])
        elif kind is set:
            return {visit(inner, depth + 1) for inner in item}
        elif kind in (dict, OrderedDict, Counter):
            entries = [(visit(key, depth + 1), visit(inner, depth + 1)) for key, inner in item.items()]
            item.clear()
            for key, inner in entries:
                item[key] = inner
            for name, inner in vars(item).items() if kind is OrderedDict else ():
                vars(item)[name] = visit(inner, depth + 1)
        return item

    made = visit(state, 0)
    if sum(held.values()) > size:
        raise ValueError(f"its tensors have {sum(held.values())} bytes, of which the file has {size}")
    return made
