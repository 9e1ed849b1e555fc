"""What the independent reader gives, as Python and torch objects: the table of types in docs/format.md, put to use.

It uses nothing of casckpt, so that a state that comes out equal proves that the page says all there is to know.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.lib.format import descr_to_dtype
from torch.optim.swa_utils import SWALR

from tests.compat.reader.values import Array, Mapping, Tensor, Typed

METADATA = object()
FACTORIES = {"": None, "counter": Counter, "ordered_dict": OrderedDict} | {
    cls.__name__: cls for cls in (bool, bytes, complex, dict, float, int, list, set, str, tuple)
}
NAMED = {
    "torch.dtype": lambda name: getattr(torch, name),
    "torch.layout": lambda name: getattr(torch, name),
    "torch.memory_format": lambda name: getattr(torch, name),
    "torch.device": torch.device,
    "torch.size": torch.Size,
    "torch.function": {"swalr.cosine": SWALR._cosine_anneal, "swalr.linear": SWALR._linear_anneal}.get,
    "numpy.str": np.str_,
    "numpy.bytes": np.bytes_,
    "set": set,
    "frozenset": frozenset,
    "bytearray": bytearray,
    "decimal": Decimal,
    "ordered_dict": OrderedDict,
    "namespace": lambda fields: argparse.Namespace(**fields),
    "simple_namespace": lambda fields: types.SimpleNamespace(**fields),
    "complex": lambda parts: complex(*parts),
    "fraction": lambda parts: Fraction(*parts),
    "date": lambda parts: datetime.date(*parts),
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "timezone": lambda parts: datetime.timezone(*parts),
    "datetime": lambda parts: datetime.datetime(*parts[:7], parts[8], fold=parts[7]),
    "time": lambda parts: datetime.time(*parts[:4], parts[5], fold=parts[4]),
    "metadata": lambda nothing: METADATA,
}


class Reviver:
    """Makes objects of one state. types: classes by the names under which they were registered."""

    def __init__(self, registered: dict[str, Any]) -> None:
        self._registered = registered
        self._shared: dict[int, torch.Tensor] = {}

    def item(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.item(inner) for inner in value]
        if isinstance(value, tuple):
            return tuple([self.item(inner) for inner in value])
        if isinstance(value, Mapping):
            return {self.item(key): self.item(inner) for key, inner in value.entries}
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, Array):
            return _array(value)
        return self._typed(value) if isinstance(value, Typed) else value

    def _typed(self, value: Typed) -> Any:
        name, _, argument = value.name.partition(":")
        inner = self.item(value.value)
        if name == "ordered_dict" and METADATA in inner:
            made = OrderedDict(inner)
            made._metadata = made.pop(METADATA)
            return made
        if name == "counter":
            counter: Counter[Any] = Counter()
            dict.update(counter, inner)
            return counter
        if name == "default_dict":
            return defaultdict(FACTORIES[argument], inner)
        if name == "deque":
            return deque(inner, int(argument) if argument else None)
        if name == "path":
            return getattr(pathlib, argument)(inner)
        if name == "named_tuple":
            module, _, qualified = argument.partition(":")
            return getattr(sys.modules[module], qualified)(**inner)
        if name == "torch.sparse":
            return _sparse(*inner)
        if name == "user":
            return self._registered[argument](inner)
        return NAMED[name](inner)

    def _tensor(self, tensor: Tensor) -> torch.Tensor:
        if tensor.alias is None or tensor.alias not in self._shared:
            storage = torch.frombuffer(bytearray(tensor.storage) or bytearray(1), dtype=torch.uint8)
            storage = storage[: len(tensor.storage)].clone()  # its memory begins where torch wants it to
            if tensor.alias is not None:
                self._shared[tensor.alias] = storage
        else:
            storage = self._shared[tensor.alias]
        empty = torch.empty(0, dtype=torch.uint8).view(getattr(torch, tensor.dtype))
        made = empty.set_(storage.untyped_storage(), tensor.offset, tensor.shape, tensor.stride)
        return _flagged(made, tensor.flags)


def _flagged(tensor: torch.Tensor, flags: int) -> torch.Tensor:
    if flags & 2:
        return torch.nn.Parameter(tensor, requires_grad=bool(flags & 1))
    return tensor.requires_grad_() if flags & 1 else tensor


def _sparse(layout: str, shape: Any, coalesced: bool, flags: int, first: Any, second: Any, *third: Any) -> torch.Tensor:
    if layout == "sparse_coo":
        made = torch.sparse_coo_tensor(first, second, shape, is_coalesced=coalesced, check_invariants=True)
    else:
        made = torch.sparse_compressed_tensor(
            first, second, *third, size=shape, layout=getattr(torch, layout), check_invariants=True
        )
    return _flagged(made, flags)


def _array(array: Array) -> Any:
    described = array.dtype.value if isinstance(array.dtype, Typed) else array.dtype
    dtype = np.dtype(np.longlong) if isinstance(array.dtype, Typed) and array.dtype.name == "long_long" else None
    if dtype is None:
        dtype = descr_to_dtype(described)
    elif dtype.str != described:
        dtype = next(
            made for char in "qQ" for made in (np.dtype(char), np.dtype(char).newbyteorder()) if made.str == described
        )
    made = np.ndarray(array.shape, dtype, bytearray(array.storage), order="F" if array.fortran else "C")
    return made[()] if array.scalar else made
