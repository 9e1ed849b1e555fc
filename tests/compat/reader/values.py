"""Values: what the tags mean, as plain Python and the classes below. A tensor is its bytes and how to see them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack

from tests.compat.reader.errors import NewerError, need
from tests.compat.reader.objects import unpack

LIST, TUPLE, MAPPING, TYPED, TENSOR, ARRAY, BLOB, TREE, PAGED, PAGE = range(1, 11)
ITEM_BYTES = {
    **dict.fromkeys(["bool", "uint8", "int8", "bits8", "bits1x8", "bits2x4", "bits4x2"], 1),
    **{f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)},
    **{f"float8_{name}": 1 for name in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")},
    "float4_e2m1fn_x2": 1,
    **dict.fromkeys(["int16", "uint16", "float16", "bfloat16", "bits16"], 2),
    **dict.fromkeys(["int32", "uint32", "float32", "complex32"], 4),
    **dict.fromkeys(["int64", "uint64", "float64", "complex64"], 8),
    "complex128": 16,
}


@dataclass
class Mapping:
    entries: list[tuple[Any, Any]]


@dataclass
class Typed:
    name: str
    value: Any


@dataclass
class Tensor:
    dtype: str
    shape: list[int]
    stride: list[int]
    offset: int
    storage: bytes
    alias: int | None
    flags: int


@dataclass
class Array:
    dtype: Any
    shape: list[int]
    fortran: bool
    scalar: bool
    storage: bytes


def product(numbers: list[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def extension(item: msgpack.ExtType) -> Any:
    if item.code == 1:
        number = int.from_bytes(item.data, "big", signed=True)
        need(not -(2**63) <= number < 2**64, "a small integer as an extension")
        need(len(item.data) == number.bit_length() // 8 + 1, "an integer with too many bytes")
        return number
    if item.code == 2:
        text = item.data.decode("utf-8", "surrogatepass")
        need(any("\ud800" <= char <= "\udfff" for char in text), "a common string as an extension")
        return text
    raise NewerError(f"extension type {item.code}")


def dtype_bytes(dtype: Any) -> int:
    """Bytes in an element of a numpy dtype, as it is described."""
    if isinstance(dtype, Typed):
        need(dtype.name == "long_long" or dtype.name.startswith("long_double:"), "no dtype")
        dtype = dtype.value
    if isinstance(dtype, str):
        found = re.fullmatch(r"[<>|=]([a-zA-Z?])(\d+)(\[.*\])?", dtype)
        need(found is not None, f"no dtype: {dtype}")
        return int(found[2]) * (4 if found[1] == "U" else 1)
    if isinstance(dtype, tuple):
        return dtype_bytes(dtype[0]) * product(dtype[1])
    need(isinstance(dtype, list), "no dtype")
    return sum(dtype_bytes(one) * product(shape[0] if shape else ()) for _, one, *shape in dtype)


def extents(items: Any) -> list[int]:
    need(isinstance(items, list) and len(items) <= 64, "impossible dimensions")
    need(all(type(item) is int and 0 <= item < 2**62 for item in items), "impossible extents")
    return items


class Objects(Protocol):
    """Where trees and storages come from."""

    def object(self, kind: str, oid: bytes) -> bytes: ...

    def storage(self, oid: bytes) -> bytes: ...


class State:
    """One state on its way out of a store; no store: what must stand in one piece. logical, nodes: for its figures."""

    def __init__(self, store: Objects | None) -> None:
        self.store = store
        self.logical = 0
        self.nodes: set[bytes] = set()
        self.trees = 0
        self._aliases: dict[int, Any] = {}
        self._sets = 0  # how many sets are around what is read

    @property
    def _is_plain(self) -> bool:
        return self.store is None or self._sets > 0

    def whole(self, root: bytes, released: list[str]) -> Any:
        tag, fields = self._joined(self._tree(root))
        if tag == MAPPING and released:
            pairs = zip(fields[::2], fields[1::2], strict=True)
            fields = [one for pair in pairs if pair[0] not in released for one in pair]
        return self._made(tag, fields, 0)

    def value(self, item: Any, depth: int) -> Any:
        need(depth <= 100, "nested too deeply")
        return self._made(*self._joined(item), depth)

    def _tree(self, oid: bytes) -> Any:
        need(self.store is not None, "a reference in a value that stands in one piece")
        self.trees += 1
        need(self.trees <= 2**18, "too many tree objects")
        item = unpack(self.store.object("tree", oid))
        need(not (isinstance(item, list) and item[0] == TREE), "a tree object that is a reference")
        return item

    def _joined(self, item: Any) -> tuple[int | None, Any]:
        """The tag and the fields of an item, behind references and with pages joined; no tag: a plain value."""
        if isinstance(item, list) and item[:1] == [TREE]:
            _, oid = item
            item = self._tree(oid)
        if not isinstance(item, list):
            return None, item
        tag, *fields = item
        need(type(tag) is int and tag != PAGE, "no value")
        if tag != PAGED:
            return tag, fields
        tag, pages = fields
        need(tag in (LIST, TUPLE, MAPPING), "pages of something else than a container")
        joined = []
        for oid in pages:
            mark, *items = self._tree(oid)
            need(mark == PAGE and (tag != MAPPING or len(items) % 2 == 0), "no page")
            joined += items
        return tag, joined

    def _made(self, tag: int | None, fields: Any, depth: int) -> Any:
        if tag is None:
            need(not isinstance(fields, dict), "a msgpack map in a tree")
            return extension(fields) if isinstance(fields, msgpack.ExtType) else fields
        if tag in (LIST, TUPLE):
            items = [self.value(item, depth + 1) for item in fields]
            return items if tag == LIST else tuple(items)
        if tag == MAPPING:
            need(len(fields) % 2 == 0, "a key without a value")
            need(len({msgpack.packb(key) for key in fields[::2]}) == len(fields) // 2, "the same key twice")
            keys = [State(None).value(key, depth + 1) for key in fields[::2]]
            return Mapping(list(zip(keys, [self.value(item, depth + 1) for item in fields[1::2]], strict=True)))
        if tag == TYPED:
            name, inner = fields
            need(isinstance(name, str), "a type without a name")
            is_set = name in ("set", "frozenset")
            self._sets += is_set
            made = Typed(name, self.value(inner, depth + 1))
            self._sets -= is_set
            return made
        if tag == TENSOR:
            return self._tensor(*fields)
        if tag == ARRAY:
            dtype, (shape, fortran, scalar, storage) = fields
            dtype = State(None).value(dtype, depth + 1)
            held = self._storage(storage)
            need(type(fortran) is bool and type(scalar) is bool and not (scalar and shape), "no array")
            need(product(extents(shape)) * dtype_bytes(dtype) == len(held), "an array of another size")
            need(not self._is_plain or (scalar and storage == held), "an array in a key or set")
            return Array(dtype, shape, fortran, scalar, held)
        if tag == BLOB:
            text, storage = fields
            need(type(text) is bool and not self._is_plain, "no long string or binary")
            held = self._storage(storage)
            return held.decode("utf-8", "surrogatepass") if text else held
        raise NewerError(f"a value of tag {tag}")

    def _tensor(self, dtype: Any, shape: Any, stride: Any, offset: Any, storage: Any, alias: Any, flags: Any) -> Tensor:
        need(not self._is_plain, "a tensor in a key or set")
        if dtype not in ITEM_BYTES or type(flags) is not int or flags & ~3:
            raise NewerError(f"a tensor of dtype {dtype} with flags {flags}")
        if stride is None:
            stride = [product([size or 1 for size in shape[at + 1 :]]) for at in range(len(shape))]
        need(len(extents(shape)) == len(extents(stride)), "another number of strides than of dimensions")
        extents([offset] if alias is None else [offset, alias])
        if alias is not None and alias in self._aliases:
            named, held = self._aliases[alias]
            need(named == storage, "tensors that share a storage name different ones")
        else:
            held = self._storage(storage)
        if alias is not None:
            self._aliases[alias] = storage, held
        if 0 not in shape:
            reach = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
            need(reach * ITEM_BYTES[dtype] <= len(held), "a tensor that reaches past its storage")
        return Tensor(dtype, shape, stride, offset, held, alias, flags)

    def _storage(self, storage: Any) -> bytes:
        if isinstance(storage, bytes):
            held = storage
        else:
            need(not self._is_plain, "a node in a key or set")
            oid, length = storage
            self.nodes.add(oid)
            held = self.store.storage(oid)
            need(len(held) == length > 0, "a storage of another length than its node's")
        self.logical += 0 if self._is_plain else len(held)
        return held
