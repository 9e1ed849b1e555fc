"""inflate: a value and the memory that holds its records' bytes, as the state again. The inverse of flatten.py.

What a record says is checked against the memory before a tensor is laid over it. No stored name is imported or run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from casckpt.errors import CasckptError, CorruptObjectError, UnsupportedTypeError
from casckpt.objects.paths import child
from casckpt.objects.values import ITEM_SIZE, ArrayRecord, BlobRecord, Map, TensorRecord, Typed, Value
from casckpt.tensors import codecs
from casckpt.tensors.leaf import LeafError
from casckpt.tensors.memory import Held, Memory
from casckpt.tensors.numpy_leaves import make_array
from casckpt.tensors.torch_leaves import DTYPES, with_flags


def inflate(value: Value, memory: Memory) -> object:
    """The state that a value stands for, over memory that was made for it and filled. Tensors are where that is.

    Raises:
        UnsupportedTypeError: a registered type is not registered here, or something in it cannot be had here.
        CorruptObjectError: the value is not one that `flatten` gives.
        NewerFormatError: it holds a type that a later release has.
    """
    return _Inflater(memory).item(value, "")


class _Inflater:
    def __init__(self, memory: Memory) -> None:
        self._held: Iterator[Held] = iter(memory.held)

    def item(self, value: Value, path: str) -> Any:
        if isinstance(value, TensorRecord):
            return _tensor(value, next(self._held), path)
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if isinstance(value, Map):
            return self._dict(value, path)
        if isinstance(value, list):
            return [self.item(inner, child(path, index)) for index, inner in enumerate(value)]
        if isinstance(value, tuple):
            return tuple([self.item(inner, child(path, index)) for index, inner in enumerate(value)])
        if isinstance(value, Typed):
            return self._typed(value, path)
        if isinstance(value, (ArrayRecord, BlobRecord)):
            return _leaf(value, next(self._held), path)
        raise CorruptObjectError(f"at {path}: a reference where its contents are expected")

    def _dict(self, value: Map, path: str) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, inner in value.entries:
            inner_path = child(path, key)
            name = key if isinstance(key, (str, int)) else inflate_plain(key, inner_path)
            item = self.item(inner, inner_path)
            try:
                made[name] = item
            except TypeError as error:
                raise CorruptObjectError(f"at {path}: a key that cannot be one") from error
        if len(made) != len(value.entries):
            raise CorruptObjectError(f"at {path}: a dict with equal keys")
        return made

    def _typed(self, value: Typed, path: str) -> object:
        state = self.item(value.value, path)
        try:
            if value.name in ("set", "frozenset"):
                return _set(value.name, state)
            return codecs.decode(value.name, state)
        except LeafError as error:
            raise UnsupportedTypeError(error.problem, path=path, remedy=error.remedy) from error
        except (CasckptError, MemoryError):
            raise
        except Exception as error:
            if codecs.is_user_type(value.name):
                error.add_note(f"raised by the decode that was registered for {value.name}, at {path}")
                raise
            raise CorruptObjectError(f"at {path}: a stored {value.name} cannot be read: {error}") from error


def _set(name: str, state: object) -> object:
    if type(state) is not list:
        raise TypeError("no list of elements")
    made = set(state)
    if len(made) != len(state):
        raise ValueError("equal elements")
    return made if name == "set" else frozenset(made)


def inflate_plain(value: Value, path: str = "") -> Any:
    """The inverse of `flatten_plain`: for what stands in a commit or a key.

    Raises:
        CorruptObjectError: it refers to something outside of it; and as `inflate`.
    """
    memory = Memory.for_value(value)
    if memory.targets:
        raise CorruptObjectError(f"at {path}: a plain value refers to a storage")
    return _Inflater(memory).item(value, path)


def _leaf(record: ArrayRecord | BlobRecord, held: Held, path: str) -> object:
    assert not isinstance(held, torch.UntypedStorage)
    try:
        if isinstance(record, BlobRecord):
            raw = held.tobytes()
            return raw.decode("utf-8", "surrogatepass") if record.text else raw
        return make_array(record, held)
    except LeafError as error:
        raise UnsupportedTypeError(error.problem, path=path, remedy=error.remedy) from error
    except (TypeError, ValueError) as error:
        raise CorruptObjectError(f"at {path}: {error}") from error


def _tensor(record: TensorRecord, held: Held, path: str) -> torch.Tensor:
    assert isinstance(held, torch.UntypedStorage)
    dtype = DTYPES.get(record.dtype)
    if dtype is None:
        raise UnsupportedTypeError(
            f"a tensor of dtype {record.dtype}, which torch {torch.__version__} has not",
            path=path,
            remedy="load it with the torch that saved it, or a later one",
        )
    # set_() makes a storage that is too short longer, and shows what it finds there
    if record.end * ITEM_SIZE[record.dtype] > held.nbytes():
        raise CorruptObjectError(f"at {path}: a tensor reaches past its {held.nbytes()} bytes")
    try:
        made = _empty(dtype, held.device).set_(held, record.offset, record.shape, record.strides)
        return with_flags(made, record.flags)
    except (ValueError, RuntimeError) as error:
        raise CorruptObjectError(f"at {path}: {error}") from error


def _empty(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if dtype is torch.complex32:  # torch warns where one is made, but not of a view
        return torch.empty(0, dtype=torch.uint8, device=device).view(dtype)
    return torch.empty(0, dtype=dtype, device=device)
