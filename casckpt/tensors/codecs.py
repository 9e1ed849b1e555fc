"""The table of types that a state may hold besides tensors, arrays and plain values, and the way to add to it.

A store names a type by the short name that it has here. A name that is not here is an error: nothing is imported, and
no code runs, because of what a store says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum, Flag
from typing import Any, Final, TypeVar

import numpy as np
import torch

from casckpt.errors import NewerFormatError, RegistrationError
from casckpt.tensors import named_tuples, numpy_leaves, python_leaves, torch_leaves
from casckpt.tensors.leaf import Codec, LeafError, of_type

C = TypeVar("C", bound=type)

_BUILT_IN: Final[tuple[Codec, ...]] = (*python_leaves.CODECS, *numpy_leaves.CODECS, *torch_leaves.CODECS)
_HANDLED_ELSEWHERE: Final = (
    *(type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset),
    *(torch.Tensor, torch.nn.Parameter, np.ndarray, np.memmap),
)
_USER: Final = "user"

_by_type: dict[type, Codec] = {codec.cls: codec for codec in _BUILT_IN}
_by_name: dict[str, Codec] = {codec.name: codec for codec in _BUILT_IN if codec.argument is None}
_with_argument: dict[str, Codec] = {codec.name: codec for codec in _BUILT_IN if codec.argument is not None}


def register(
    cls: C,
    name: str | None = None,
    *,
    encode: Callable[[Any], object] | None = None,
    decode: Callable[[Any], object] | None = None,
) -> C:
    """Teach casckpt to save the instances of exactly this class, and to make them again; gives the class back.

    An enum, a named tuple and a dataclass need nothing more. A dataclass is saved by its fields, and made again from
    them without calling `__init__` or `__post_init__`: it comes back as it was. For any other class, `encode` takes an
    instance and gives any state that can be saved, tensors included, and `decode` makes an instance of that state.

    name: what stores call it; the class's own name unless given. Whoever loads must have registered it by that name.

    Raises:
        RegistrationError: the name is taken by another class, or the class cannot be saved so.
    """
    if not isinstance(cls, type):
        raise RegistrationError(f"{cls!r} is not a class")
    stored = f"{_USER}:{cls.__name__ if name is None else name}"
    if cls in _HANDLED_ELSEWHERE or (cls in _by_type and not _by_type[cls].name.startswith(f"{_USER}:")):
        raise RegistrationError(f"{cls.__qualname__} is supported already")
    taken = _by_name.get(stored)
    if taken is not None and _place(taken.cls) != _place(cls):
        raise RegistrationError(
            f"the name {stored.removeprefix(f'{_USER}:')!r} is taken by {_place(taken.cls)}",
            remedy="give another one: register(cls, name=...)",
        )
    if (encode is None) != (decode is None):
        raise RegistrationError(f"{cls.__qualname__}: encode and decode are needed both, or neither")
    given = encode is not None and decode is not None
    # type: ignore, because mypy does not see in `given` that neither is None
    codec = Codec(cls, stored, encode, decode) if given else _derived(cls, stored)  # type: ignore[arg-type]
    _by_type[cls] = _by_name[stored] = codec
    return cls


def _place(cls: type) -> str:
    # a class defined again, as by a notebook's cell run twice, is taken for the same one
    return f"{cls.__module__}.{cls.__qualname__}"


def encode(item: object) -> tuple[str, object] | None:
    """The name of the item's type and a simpler state that stands for the item; None where there is no codec.

    Raises:
        LeafError: an item of a known type that cannot be saved all the same.
    """
    codec = _by_type.get(type(item))
    if codec is None:
        if named_tuples.is_named_tuple(type(item)):
            return named_tuples.name_of(type(item)), named_tuples.encode(item)
        return None
    argument = codec.argument(item) if codec.argument is not None else ""
    return f"{codec.name}:{argument}" if argument else codec.name, codec.encode(item)


def decode(name: str, state: Any) -> object:
    """The item that `encode` gave this name and state for.

    Raises:
        LeafError: no such type is registered, or its item cannot be made here.
        NewerFormatError: a name of the format that this release does not know.
        TypeError, ValueError, LookupError, ArithmeticError: `encode` never gave such a state.
    """
    codec = _by_name.get(name)
    if codec is not None:
        return codec.decode(state)
    kind, _, argument = name.partition(":")
    if kind in _with_argument:
        return _with_argument[kind].decode(state, argument)
    if kind == named_tuples.NAME:
        return named_tuples.decode(state, argument, [codec.cls for codec in _by_type.values()])
    if kind == _USER:
        raise LeafError(
            f"it was saved as an instance of a class registered as {argument!r}, and no class is here",
            f"casckpt.register(cls, name={argument!r}) before loading",
        )
    raise NewerFormatError(f"a value of the unknown type {name!r}", remedy="load it with a later casckpt")


def is_user_type(name: str) -> bool:
    """Whether the codec of that name was registered, so that its errors are not the format's."""
    return name.startswith(f"{_USER}:")


# -- registered types that need no functions ---------------------------------------------------------------------------


def _derived(cls: type, stored: str) -> Codec:
    if issubclass(cls, Flag):
        return Codec(cls, stored, lambda flag: flag._value_, lambda state: _member(cls, lambda: cls(state), state))
    if issubclass(cls, Enum):
        return Codec(cls, stored, lambda member: member._name_, lambda state: _member(cls, lambda: cls[state], state))
    if named_tuples.is_named_tuple(cls):
        return Codec(cls, stored, named_tuples.encode, lambda state: named_tuples.make(cls, state))
    if dataclasses.is_dataclass(cls) and _is_made_of_fields(cls):
        return Codec(cls, stored, _encode_dataclass, lambda state: _decode_dataclass(cls, state))
    raise RegistrationError(
        f"{cls.__qualname__} is no enum, named tuple or plain dataclass",
        remedy="give encode= and decode=: functions to a state that can be saved, and back",
    )


def _member(cls: type, find: Callable[[], object], state: object) -> object:
    try:
        return find()
    except (LookupError, ValueError) as error:
        raise LeafError(f"{cls.__qualname__} has no member {state!r} any more", "load it where it has") from error


def _is_made_of_fields(cls: type) -> bool:
    try:
        object.__new__(cls)
    except TypeError:  # a subclass of dict, int, ...: its contents are not in its fields
        return False
    return True


def _encode_dataclass(item: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(item)]
    missing = [name for name in names if not hasattr(item, name)]
    extra = [name for name in getattr(item, "__dict__", ()) if name not in names]
    if missing or extra:
        raise LeafError(
            f"a {type(item).__qualname__} whose attributes are not its fields: {', '.join(missing + extra)}",
            "casckpt.register(cls, encode=..., decode=...) with functions that know what they mean",
        )
    return {name: getattr(item, name) for name in names}


def _decode_dataclass(cls: type, state: object) -> object:
    held = of_type(state, dict)
    names = [field.name for field in dataclasses.fields(cls)]
    if set(held) != set(names):
        raise LeafError(
            f"a {cls.__qualname__} was saved with the fields {', '.join(held)}, and has {', '.join(names)} now",
            "casckpt.register(cls, encode=..., decode=...) with a decode that knows both",
        )
    made: object = object.__new__(cls)
    for name, item in held.items():
        object.__setattr__(made, name, item)  # a frozen dataclass refuses to do it itself
    return made
