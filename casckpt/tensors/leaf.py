"""What a codec for one type is, and how it refuses. A codec never imports a module, nor runs what a store names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class LeafError(Exception):
    """A codec cannot stand for this object, or cannot make it again. Whoever knows its path makes it a typed error."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Codec:
    """How the objects of exactly one type stand in a state of simpler ones.

    name: as it stands in stores, for ever. encode: gives the simpler state. decode: makes the object of what encode
    gave, and raises TypeError or ValueError for anything else. argument: for a type with something to say before its
    contents; the stored name is then `name:argument`, and decode takes it second.
    """

    cls: type
    name: str
    encode: Callable[[Any], object]
    decode: Callable[..., object]
    argument: Callable[[Any], str] | None = None


def of_type(state: object, cls: type[T]) -> T:
    """`state`, which must be a `cls` itself: what was read from a store is not trusted to be."""
    if type(state) is not cls:
        raise TypeError(f"{type(state).__name__} where {cls.__name__} is expected")
    return state


def all_of_type(states: object, cls: type[T], count: int) -> list[T]:
    """`states`, which must be a tuple of `count` objects of `cls` themselves."""
    items = of_type(states, tuple)
    if len(items) != count:
        raise ValueError(f"{len(items)} items where {count} are expected")
    return [of_type(item, cls) for item in items]
