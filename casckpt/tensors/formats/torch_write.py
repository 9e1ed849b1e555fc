"""Files of torch.save, written so that weights_only reads them again: each is read back before it counts."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Hashable
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from casckpt.errors import CasckptError, ExportError, ImportFormatError, UnsupportedTypeError
from casckpt.objects.paths import child, readable
from casckpt.objects.tree import canonical
from casckpt.tensors.flatten import Flat, flatten
from casckpt.tensors.formats.replace import Progress, Writer, written
from casckpt.tensors.formats.torch_numpy import settled
from casckpt.tensors.formats.torch_read import load_weights_only, read_torch
from casckpt.tensors.memory import records


def write_torch(state: Any, target: Path, progress: Progress | None, *, overwrite: bool) -> tuple[int, int]:
    """Write a state by torch.save, and read it back before it counts; returns the bytes and the number of tensors.

    Raises:
        UnsupportedTypeError: something in it would not come back by weights_only; named by its path.
        ExportError, ExportFullError
    """
    flat = flatten(state)
    check_torch(state)
    total = sum(span.length for span in flat.spans)
    with written(target, total, progress, overwrite=overwrite) as writer:
        output = _Quiet(writer)
        try:
            torch.save(state, cast(IO[bytes], output))
        except (pickle.PickleError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            output.settle()
            raise ExportError(f"torch cannot write it: {error}", file=str(target), remedy="use safetensors") from error
        output.settle()
        writer.sync()
        try:
            back = flatten(read_torch(writer.part))
        except ImportFormatError as error:
            raise ExportError(f"torch would not read it again: {error.problem}", file=str(target)) from error
        if _outline(back) != _outline(flat):
            raise ExportError("torch would read something else again", file=str(target), remedy="use safetensors")
    return writer.written, sum(1 for _ in records(flat.value))


def _outline(flat: Flat) -> bytes:
    """All of a state but the bytes of its tensors."""
    return canonical(flat.value, [span.length.to_bytes(8, "big") for span in flat.spans])


class _Quiet:
    """A file for torch.save, which ends the process where writing raises: the error waits until torch is done."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._error: BaseException | None = None

    def write(self, data: Any) -> int:
        """Write, or only count once something went wrong."""
        if self._error is None:
            try:
                self._writer.write(data)
            except BaseException as error:  # an interrupt too
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def settle(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error


# -- what weights_only reads -------------------------------------------------------------------------------------------

_PLAIN = frozenset((type(None), bool, float, str))
# Bits of an int that every pickle of torch's can hold.
_INT_BITS = 1000


class _Trial:
    """Tries every leaf that is not known to come back, once for all of its kind where the kind decides."""

    def __init__(self) -> None:
        self._known: dict[Hashable, bool] = {}
        self._dtypes: dict[int, torch.dtype] = {}  # of the tensors over each storage, by its address

    def check(self, item: Any, path: str) -> None:
        kind = type(item)
        if kind in _PLAIN or (kind is int and item.bit_length() < _INT_BITS):
            return
        if kind in (list, tuple):
            for index, inner in enumerate(item):
                if type(inner) not in _PLAIN:
                    self.check(inner, child(path, index))
        elif kind in (dict, OrderedDict, Counter):
            for key, inner in item.items():
                inner_path = child(path, key if isinstance(key, str) else readable(key))
                self.check(key, inner_path)
                self.check(inner, inner_path)
        elif not self._comes_back(item, kind):
            raise UnsupportedTypeError(
                f"torch does not read a {_called(item)} back by weights_only",
                path=path,
                remedy="export it as safetensors, which holds every state",
            )
        elif isinstance(item, torch.Tensor) and item.layout is torch.strided:
            self._check_storage(item, path)

    def _check_storage(self, tensor: torch.Tensor, path: str) -> None:
        address = tensor.untyped_storage().data_ptr()
        if address and self._dtypes.setdefault(address, tensor.dtype) != tensor.dtype:
            raise UnsupportedTypeError(
                f"torch does not save a tensor of {tensor.dtype} over the memory of one of {self._dtypes[address]}",
                path=path,
                remedy="export it as safetensors, which holds every state",
            )

    def _comes_back(self, item: Any, kind: type) -> bool:
        tried: Any = item
        key: Hashable = None
        if isinstance(item, torch.Tensor) and item.layout is torch.strided:
            tried, key = torch.empty(0, dtype=torch.uint8).view(item.dtype), (kind, item.dtype, item.requires_grad)
            if kind is torch.nn.Parameter:
                tried = torch.nn.Parameter(tried, requires_grad=False)
            tried.requires_grad_(item.requires_grad)
        elif kind in (np.ndarray, np.memmap) and item.size:  # empty bytes are pickled in a way of their own
            tried, key = np.zeros(1, item.dtype), (item.dtype, item.dtype.char)
        if key is None:
            return _comes_back(tried)
        if key not in self._known:
            self._known[key] = _comes_back(tried)
        return self._known[key]


def _called(item: Any) -> str:
    dtype = getattr(item, "dtype", None)
    return f"{type(item).__qualname__}" + ("" if dtype is None else f" of {dtype}")


def _comes_back(item: Any) -> bool:
    buffer = BytesIO()
    try:
        torch.save(item, buffer)
        size = buffer.tell()
        buffer.seek(0)
        back = settled(load_weights_only(buffer, mapped=False), 1024 + 16 * size, size)
        return _outline(flatten(back)) == _outline(flatten(item))
    except (pickle.PickleError, CasckptError, TypeError, ValueError, AttributeError, RuntimeError, LookupError):
        return False


def check_torch(state: object) -> None:
    """Whether every leaf of a state comes back by weights_only.

    Raises:
        UnsupportedTypeError: the first that does not; named by its path.
    """
    _Trial().check(state, "")
