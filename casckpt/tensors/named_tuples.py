"""Named tuples: found again where their class is loaded already, else made anew. Nothing is ever imported for them."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType
from typing import Any

from casckpt.tensors.leaf import LeafError, of_type

NAME = "named_tuple"


def is_named_tuple(cls: type) -> bool:
    """Whether a class is one that collections.namedtuple or typing.NamedTuple made, or a subclass of one."""
    fields = getattr(cls, "_fields", None)
    return issubclass(cls, tuple) and isinstance(fields, tuple) and all(type(field) is str for field in fields)


def name_of(cls: type) -> str:
    """What a store calls such a class: "named_tuple:module:qualified.name"."""
    return f"{NAME}:{cls.__module__}:{cls.__qualname__}"


def encode(items: Any) -> dict[str, Any]:
    """The fields of a named tuple under their names.

    Raises:
        LeafError: it has more to it than its fields.
    """
    fields = type(items)._fields
    if len(fields) != tuple.__len__(items) or getattr(items, "__dict__", None):
        raise LeafError(
            f"a {type(items).__qualname__} with more to it than its fields", "save its contents as a plain dict"
        )
    return dict(zip(fields, tuple.__iter__(items), strict=True))


def make(cls: type, state: object) -> object:
    """A named tuple of that class, without running any of its code.

    Raises:
        LeafError: the class has other fields than were saved.
    """
    fields = of_type(state, dict)
    if tuple(fields) != cls._fields:  # type: ignore[attr-defined]  # of every named tuple
        raise LeafError(
            f"a {cls.__qualname__} was saved with the fields {', '.join(fields)}, and has others now",
            "load it where the class is as it was",
        )
    return tuple.__new__(cls, fields.values())


def decode(state: object, where: str, registered: Iterable[type]) -> object:
    """A named tuple of the class that `where` ("module:qualified.name") names, or of an equivalent one.

    registered: classes to look among before those of loaded modules.
    """
    fields = tuple(of_type(state, dict))
    for cls in (*registered, _loaded(where)):
        if cls is None or not is_named_tuple(cls) or name_of(cls) != f"{NAME}:{where}":
            continue
        if cls._fields == fields:  # type: ignore[attr-defined]  # of every named tuple
            return make(cls, state)
    return make(_equivalent(where, fields), state)


def _loaded(where: str) -> type | None:
    """The class, if its module is loaded. Only dictionaries are read: a module's or class's attributes may be code."""
    module, _, qualname = where.partition(":")
    found: object = sys.modules.get(module)
    for name in qualname.split("."):
        if not isinstance(found, (ModuleType, type)):
            return None
        held = object.__getattribute__(found, "__dict__") if isinstance(found, ModuleType) else vars(found)
        found = held.get(name)
    return found if isinstance(found, type) else None


@lru_cache(maxsize=1024)
def _equivalent(where: str, fields: tuple[str, ...]) -> type:
    module, _, qualname = where.partition(":")
    # its names are checked to be identifiers before it makes code of them
    made: Any = namedtuple(qualname.rpartition(".")[2], fields, module=module)  # type: ignore[misc]  # known at run time
    made.__qualname__ = qualname
    cls: type = made
    return cls
