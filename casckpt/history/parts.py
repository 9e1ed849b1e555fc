"""What a commit's state is made of, part by part, from its tree alone: no chunk is read."""

from __future__ import annotations

from dataclasses import dataclass

from casckpt.history.fetch import Objects
from casckpt.history.listing import stored_bytes, whole_leaves
from casckpt.objects.paths import child
from casckpt.objects.tree import expand, shallow
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, TensorRecord, Value


@dataclass(frozen=True, slots=True)
class Part:
    """One top-level key of a state, as it stands in paths; "" where the state is no plain dict and so is one part.

    tensors: how many tensors and arrays. values: how many other leaves, a long list of plain values as one. nbytes: of
    the storages, each once. Of a released part nothing but its name is known.
    """

    name: str
    tensors: int
    values: int
    nbytes: int
    released: bool


def parts(objects: Objects, root: bytes, released: tuple[str, ...]) -> list[Part]:
    """The parts of the state under a root tree, in its order.

    Raises:
        CorruptObjectError, MissingObjectError
    """
    return parts_of(objects, objects.tree(root), released)


def parts_of(objects: Objects, state: Value, released: tuple[str, ...] = ()) -> list[Part]:
    """The parts of a state that is at hand as a value."""
    state = shallow(state, objects.tree)
    if not isinstance(state, Map):
        return [part_of(objects, "", state)]
    return [
        Part(child("", key), 0, 0, 0, True) if key in released else part_of(objects, child("", key), value)
        for key, value in state.entries
    ]


def part_of(objects: Objects, name: str, value: Value) -> Part:
    """A value as the part of that name."""
    tensors = others = nbytes = 0
    seen: set[int] = set()
    for _, leaf in whole_leaves(expand(value, objects.tree)):
        if isinstance(leaf, (TensorRecord, ArrayRecord)):
            tensors += 1
        else:
            others += 1
        if isinstance(leaf, TensorRecord) and leaf.alias is not None:
            if leaf.alias in seen:
                continue
            seen.add(leaf.alias)
        if isinstance(leaf, (TensorRecord, ArrayRecord, BlobRecord)):
            nbytes += stored_bytes(leaf)
    return Part(name, tensors, others, nbytes, False)
