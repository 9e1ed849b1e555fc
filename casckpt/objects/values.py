"""Values: a state without its types and its tensors' bytes, as a tree holds it.

A value is None, bool, int, float, str, bytes, a list, a tuple, or one of the classes below. Whatever else a state may
hold (a set, a path, an enum, an OrderedDict) is a `Typed` over these, by a name that a codec answers to. A value never
holds Python code, and reading one never runs any.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Annotated, Final, TypeAlias

import msgspec

from casckpt.limits import MAX_DIMENSIONS, MAX_EXTENT
from casckpt.objects.node import NodeRef

Storage: TypeAlias = bytes | NodeRef | int
"""Where a record's bytes are: in the record, in a node, or (not saved yet) at this place in the list of spans."""

Extent: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MAX_EXTENT)]
"""A size, stride or offset in elements; reading checks it."""
Extents: TypeAlias = Annotated[tuple[Extent, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]

TENSOR: Final = 5  # the tag of a TensorRecord in a tree

REQUIRES_GRAD: Final = 1
PARAMETER: Final = 2

# Bytes in one element of each torch dtype, by its name without "torch.".
ITEM_SIZE: Final[dict[str, int]] = {
    **dict.fromkeys(("bool", "uint8", "int8", "bits8", "bits1x8", "bits2x4", "bits4x2"), 1),
    **dict.fromkeys((f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    "float4_e2m1fn_x2": 1,
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16", "bits16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32", "complex32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}


# A struct, and none that the garbage collector looks at: a state may hold tens of thousands of them.
class TensorRecord(msgspec.Struct, frozen=True, array_like=True, tag=TENSOR, forbid_unknown_fields=True, gc=False):
    """A dense tensor over a storage. Its fields stand in a tree in this order.

    shape: elements along each dimension. stride: elements, None where the tensor is contiguous. offset: elements from
    the start of the stored span. alias: the same number on all tensors of a state that share one storage, else None.
    flags: REQUIRES_GRAD, PARAMETER.
    """

    dtype: str
    shape: Extents
    stride: Extents | None
    offset: Extent
    storage: Storage
    alias: Extent | None
    flags: Extent

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each dimension in elements, also where the tensor is contiguous."""
        return contiguous_strides(self.shape) if self.stride is None else self.stride

    @property
    def elements(self) -> int:
        """How many elements the tensor shows."""
        return prod(self.shape)

    @property
    def end(self) -> int:
        """Elements from the start of the stored span to just past the last one that the tensor touches; 0 if none."""
        if self.stride is not None:
            return reach(self.shape, self.stride, self.offset)
        return self.offset + self.elements if 0 not in self.shape else 0

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor shows (an expanded one shows more than it stores)."""
        return self.elements * ITEM_SIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class ArrayRecord:
    """A numpy array, or with `scalar` a numpy scalar; `dtype` is numpy's own description of it (numpy.lib.format)."""

    dtype: Value
    shape: tuple[int, ...]
    fortran: bool
    scalar: bool
    storage: Storage


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """Bytes, or with `text` a str as UTF-8 (lone surrogates as they come), too long to stand in a tree."""

    text: bool
    storage: Storage


@dataclass(frozen=True, slots=True)
class Map:
    """A mapping with keys of any plain type, in insertion order."""

    entries: tuple[tuple[Value, Value], ...]


@dataclass(frozen=True, slots=True)
class Typed:
    """A value of a registered type: the type's name, and what its codec made of it."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class TreeRef:
    """A container that is a tree object of its own."""

    id: bytes


@dataclass(frozen=True, slots=True)
class Paged:
    """A container cut into pages, each a tree object. tag: what it is once joined. ids: of the pages, in order."""

    tag: int
    ids: tuple[bytes, ...]


# Typed values that are mappings by another name: a part of one is one too. Any other Typed is whole or nothing.
MAPPINGS: Final = ("counter", "default_dict", "ordered_dict")
# The key under which a mapping keeps what belongs to it as a whole. No key of a state is encoded so.
METADATA: Final = Typed("metadata", None)

Plain: TypeAlias = bool | int | float | str | bytes | None
Record: TypeAlias = TensorRecord | ArrayRecord | BlobRecord
Value: TypeAlias = Plain | list["Value"] | tuple["Value", ...] | Map | Typed | Record | TreeRef | Paged


@lru_cache(maxsize=1024)  # the tensors of a state have few shapes
def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a row-major tensor: (2, 3, 4) -> (12, 4, 1). An empty dimension counts as one."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def reach(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> int:
    """Elements from the start of the storage to just past the last one that a tensor touches; 0 for an empty one."""
    if 0 in shape:
        return 0
    return offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
