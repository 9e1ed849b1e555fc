"""flatten: a live state as a value and the spans of bytes that its records number. inflate.py is the way back.

    {"w": tensor([1., 2.]), "lr": 0.1}
    -> value  Map((("w", TensorRecord("float32", (2,), None, 0, storage=0, ...)), ("lr", 0.1)))
       spans  [Span("w", 8 bytes)]

Nothing is copied here, and nothing is pickled. A type is taken by what it exactly is: a subclass is another type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from casckpt.errors import StateError, UnsupportedTypeError
from casckpt.limits import INLINE_STORAGE, MAX_DEPTH
from casckpt.objects.paths import child, readable
from casckpt.objects.tree import canonical
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, TensorRecord, Typed, Value
from casckpt.tensors import codecs, numpy_leaves
from casckpt.tensors.leaf import LeafError
from casckpt.tensors.refuse import refusal
from casckpt.tensors.spans import HeldSpan, Span
from casckpt.tensors.storages import Storages
from casckpt.tensors.torch_leaves import SPARSE, encode_sparse

__all__ = ["Flat", "Span", "flatten", "flatten_plain"]


@dataclass(frozen=True, slots=True)
class Flat:
    """A state as a value, whose records number the spans that hold their bytes."""

    value: Value
    spans: list[Span]


def flatten(state: object) -> Flat:
    """A state as a value and its spans, in the order of the state. The spans keep its bytes alive, and live.

    Raises:
        UnsupportedTypeError: something in it has a type that cannot be saved; its path is named.
        StateError: it contains itself, is nested too deeply, or has keys that cannot be told apart once stored.
    """
    flattener = _Flattener(plain=False)
    value = flattener.value(state, "", 0)
    return Flat(flattener.settled(value), flattener.spans)


def flatten_plain(value: object, path: str = "") -> Value:
    """A state without tensors and arrays as a value, whole: for what stands in a commit, in a key or in a set.

    Raises:
        UnsupportedTypeError, StateError: as by `flatten`, and for tensors and arrays.
    """
    return _Flattener(plain=True).value(value, path, 0)


class _Flattener:
    """One pass over a state. plain: no tensors, no arrays, and everything stands in the value itself."""

    def __init__(self, plain: bool) -> None:
        self._plain = plain
        self._open: set[int] = set()  # the containers that are being looked into
        self.spans: list[Span] = []
        self._storages = Storages(self.spans)

    def value(self, item: Any, path: str, depth: int) -> Value:
        kind = type(item)
        if depth > MAX_DEPTH:
            raise StateError(f"nested deeper than {MAX_DEPTH} levels", path=path, remedy="save it as a flatter state")
        if kind in _AS_THEY_ARE:
            return item  # type: ignore[no-any-return]  # one of the plain types, by its exact type
        handler = _HANDLERS.get(kind)
        try:
            if handler is not None:
                return handler(self, item, path, depth)
            return self._by_codec(item, path, depth)
        except LeafError as error:
            raise UnsupportedTypeError(error.problem, path=path, remedy=error.remedy) from error

    def settled(self, value: Value) -> Value:
        """The value with its tensors' records as they are once every tensor is known."""
        return self._settled(value) if self._storages.settle() else value

    def _settled(self, value: Value) -> Value:
        kind = type(value)
        if isinstance(value, TensorRecord):
            return self._storages.settled(value)
        if isinstance(value, Map):
            return Map(tuple([(key, self._settled(item)) for key, item in value.entries]))
        if isinstance(value, Typed):
            return Typed(value.name, self._settled(value.value))
        if kind is list:
            return [self._settled(item) for item in value]  # type: ignore[union-attr]  # narrowed by `kind`
        if kind is tuple:
            return tuple([self._settled(item) for item in value])  # type: ignore[union-attr]  # likewise
        return value

    # -- containers ----------------------------------------------------------------------------------------------------

    def _enter(self, container: object, path: str) -> None:
        if id(container) in self._open:
            raise StateError("the state contains itself", path=path, remedy="leave the inner reference out")
        self._open.add(id(container))

    def _list(self, items: list[Any], path: str, depth: int) -> Value:
        self._enter(items, path)
        plain = _AS_THEY_ARE if depth < MAX_DEPTH else frozenset()
        made = [
            item if type(item) in plain else self.value(item, child(path, index), depth + 1)
            for index, item in enumerate(items)  # a sampler's order is a list of millions: no path is made for each
        ]
        self._open.discard(id(items))
        return made

    def _tuple(self, items: tuple[Any, ...], path: str, depth: int) -> Value:
        return tuple(self._list(items, path, depth))  # type: ignore[arg-type]  # any sequence will do

    def _dict(self, items: dict[Any, Any], path: str, depth: int) -> Value:
        self._enter(items, path)
        entries: list[tuple[Value, Value]] = []
        simple = True
        # of a copy, since other threads may change it; no list of pairs, which the garbage collector would go through
        for key, item in items.copy().items():
            name: Value = key
            if type(key) is not str:
                name = _Flattener(plain=True).value(key, child(path, readable(key)), depth + 1)
                simple = simple and type(key) is int
            entries.append((name, self.value(item, child(path, name), depth + 1)))
        self._open.discard(id(items))
        if not simple and len({canonical(name) for name, _ in entries}) != len(entries):
            raise StateError(
                "a dict with keys that are the same once stored", path=path, remedy="a nan can be a key only once"
            )
        return Map(tuple(entries))

    def _set(self, items: frozenset[Any], path: str, depth: int) -> Value:
        plain = _Flattener(plain=True)
        made = [plain.value(item, child(path, readable(item)), depth + 2) for item in items]
        return Typed(type(items).__name__, sorted(made, key=canonical))

    def _by_codec(self, item: object, path: str, depth: int) -> Value:
        self._enter(item, path)
        encoded = self._encoded(item, path)
        if encoded is None:
            if isinstance(item, np.generic):
                self._open.discard(id(item))
                return self._array(np.asarray(item), path, depth, scalar=True)
            raise refusal(item, path)
        name, state = encoded
        made = Typed(name, self.value(state, path, depth + 1))
        self._open.discard(id(item))
        return made

    def _encoded(self, item: object, path: str) -> tuple[str, object] | None:
        try:
            return codecs.encode(item)
        except LeafError:
            raise
        except Exception as error:
            error.add_note(f"raised by the encode that was registered for {type(item).__qualname__}, at {path}")
            raise

    # -- leaves --------------------------------------------------------------------------------------------------------

    def _text(self, text: str, path: str, depth: int) -> Value:
        if self._plain or 4 * len(text) <= INLINE_STORAGE:  # no code point takes more than four bytes
            return text
        encoded = text.encode("utf-8", "surrogatepass")
        return text if len(encoded) <= INLINE_STORAGE else BlobRecord(True, self._held(path, encoded))

    def _bytes(self, held: bytes, path: str, depth: int) -> Value:
        return held if self._plain or len(held) <= INLINE_STORAGE else BlobRecord(False, self._held(path, held))

    def _held(self, path: str, held: bytes) -> int:
        self.spans.append(HeldSpan(path, len(held), True, lambda: memoryview(held)))
        return len(self.spans) - 1

    def _array(self, array: numpy_leaves.Array, path: str, depth: int, scalar: bool = False) -> Value:
        dtype = numpy_leaves.describe(array.dtype)
        if depth + 1 + _levels(dtype) > MAX_DEPTH:
            raise StateError(f"nested deeper than {MAX_DEPTH} levels", path=path, remedy="save it as a flatter state")
        if self._plain:
            if scalar:
                return ArrayRecord(dtype, (), False, True, bytes(numpy_leaves.bytes_of(array)))
            raise UnsupportedTypeError("an array cannot stand here", path=path, remedy="use array.tolist()")
        array, fortran = numpy_leaves.as_plain(array)
        self.spans.append(HeldSpan(path, array.nbytes, True, partial(numpy_leaves.bytes_of, array), array.dtype.str))
        return ArrayRecord(dtype, array.shape, fortran, scalar, len(self.spans) - 1)

    def _tensor(self, tensor: torch.Tensor, path: str, depth: int) -> Value:
        if self._plain:
            raise UnsupportedTypeError("a tensor cannot stand here", path=path, remedy="use tensor.tolist()")
        if tensor.layout is not torch.strided:
            return Typed(SPARSE, self.value(encode_sparse(tensor), path, depth + 1))
        return self._storages.add(tensor, path)


def _levels(value: Value) -> int:
    if isinstance(value, Typed):
        return 1 + _levels(value.value)
    if isinstance(value, (list, tuple)):
        return 1 + max(map(_levels, value), default=0)
    return 0


_AS_THEY_ARE: Final = frozenset((type(None), bool, int, float))
_HANDLERS: Final[dict[type, Callable[[_Flattener, Any, str, int], Value]]] = {
    str: _Flattener._text,
    bytes: _Flattener._bytes,
    list: _Flattener._list,
    tuple: _Flattener._tuple,
    dict: _Flattener._dict,
    set: _Flattener._set,
    frozenset: _Flattener._set,
    torch.Tensor: _Flattener._tensor,
    torch.nn.Parameter: _Flattener._tensor,
    np.ndarray: _Flattener._array,
    np.memmap: _Flattener._array,
}
