"""Canonical bytes of values, and their cutting into tree objects.

The encoding is msgpack. Plain values are msgpack's own; everything else is an array that begins with a tag. A
container longer than SPILL_TREE becomes an object of its own, so that equal ones are stored once; one longer than
TREE_PAGE is cut into pages, so that a change writes a page and the path to it. The bytes depend on the value alone.

Decoding takes nothing on trust: every field is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from casckpt.errors import CorruptObjectError, NewerFormatError
from casckpt.limits import MAX_DEPTH, MAX_DIMENSIONS, MAX_EXTENT, SPILL_TREE, TREE_PAGE
from casckpt.objects.bounded import BoundedEmit, bounded
from casckpt.objects.node import NodeRef
from casckpt.objects.values import (
    ITEM_SIZE,
    TENSOR,
    ArrayRecord,
    BlobRecord,
    Map,
    Paged,
    Storage,
    TensorRecord,
    TreeRef,
    Typed,
    Value,
)

LIST, TUPLE, MAP, TYPED = range(1, 5)  # and TENSOR = 5
ARRAY, BLOB, TREE, PAGED, PAGE = range(6, 11)

# msgpack extension types
_EXT_INT: Final = 1  # beyond 64 bits: two's complement, big-endian, as few bytes as hold it
_EXT_STR: Final = 2  # with lone surrogates: UTF-8 in which they are encoded like any other code point

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1

_packer = msgspec.msgpack.Encoder()
_pack: Callable[[object], bytes] = _packer.encode
_Ext = msgspec.msgpack.Ext

Emit = Callable[[bytes], bytes]
"""Takes the canonical bytes of a tree object, and gives its id."""


def _array_head(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def _tagged(tag: int, items: Sequence[bytes]) -> bytes:
    return b"".join((_array_head(1 + len(items)), _pack(tag), *items))


def _pack_int(number: int) -> bytes:
    if _INT_MIN <= number <= _INT_MAX:
        return _pack(number)
    return _pack(_Ext(_EXT_INT, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)))


def _pack_str(text: str) -> bytes:
    try:
        return _pack(text)
    except UnicodeEncodeError:
        return _pack(_Ext(_EXT_STR, text.encode("utf-8", "surrogatepass")))


class _Encoder:
    """One pass over a value. `emit` None: nothing is spilled, the whole stands in one piece."""

    def __init__(self, storages: Sequence[bytes | NodeRef], emit: Emit | None) -> None:
        self._storages = storages
        self._emit = emit

    def encode(self, value: Value) -> bytes:
        if isinstance(value, TensorRecord):
            return self._tensor(value)
        if value is None or isinstance(value, (bool, float, bytes)):
            return _pack(value)
        if isinstance(value, int):
            return _pack_int(value)
        if isinstance(value, str):
            return _pack_str(value)
        if isinstance(value, Map):
            return self._container(MAP, self._entries(value), 2)
        if isinstance(value, list):
            return self._container(LIST, [self._child(item) for item in value], 1)
        if isinstance(value, tuple):
            return self._container(TUPLE, [self._child(item) for item in value], 1)
        if isinstance(value, Typed):
            return _tagged(TYPED, (_pack_str(value.name), self._child(value.value)))
        if isinstance(value, ArrayRecord):
            parts = (
                self.encode(value.dtype),
                _pack([value.shape, value.fortran, value.scalar, self._storage(value.storage)]),
            )
            return _tagged(ARRAY, parts)
        if isinstance(value, BlobRecord):
            return _pack([BLOB, value.text, self._storage(value.storage)])
        if isinstance(value, TreeRef):
            return _pack([TREE, value.id])
        return _pack([PAGED, value.tag, list(value.ids)])

    def _tensor(self, record: TensorRecord) -> bytes:
        storage = record.storage
        if type(storage) is not int:
            return _pack(record)
        storage = self._storages[storage]
        # a state may hold tens of thousands: a list of the fields is made faster than the record that it stands for
        return _pack(
            [TENSOR, record.dtype, record.shape, record.stride, record.offset, storage, record.alias, record.flags]
        )

    def _storage(self, storage: Storage) -> bytes | NodeRef:
        return self._storages[storage] if isinstance(storage, int) else storage

    def _entries(self, value: Map) -> list[bytes]:
        whole = _Encoder(self._storages, None)
        return [
            (_pack_str(key) if type(key) is str else whole.encode(key)) + self._child(item)
            for key, item in value.entries
        ]

    def _child(self, value: Value) -> bytes:
        if type(value) is TensorRecord:
            return self._tensor(value)
        encoded = self.encode(value)
        if self._emit is None or len(encoded) <= SPILL_TREE or not isinstance(value, (list, tuple, Map, Typed)):
            return encoded
        return _pack([TREE, self._emit(encoded)])

    def _container(self, tag: int, items: list[bytes], width: int) -> bytes:
        if self._emit is None or sum(map(len, items)) <= TREE_PAGE or len(items) < 2:
            return _array_head(1 + width * len(items)) + _pack(tag) + b"".join(items)
        pages: list[bytes] = []
        page: list[bytes] = []
        size = 0
        for item in items:
            if page and size + len(item) > TREE_PAGE:
                pages.append(self._page(page, width))
                page, size = [], 0
            page.append(item)
            size += len(item)
        pages.append(self._page(page, width))
        return _pack([PAGED, tag, pages])

    def _page(self, items: list[bytes], width: int) -> bytes:
        assert self._emit is not None
        return self._emit(_array_head(1 + width * len(items)) + _pack(PAGE) + b"".join(items))


def canonical(value: Value, storages: Sequence[bytes | NodeRef] = ()) -> bytes:
    """The bytes of a value in one piece: for keys, for sorting sets, for what stands in a commit or in another file.

    storages: what the records' numbers stand for.
    """
    return _Encoder(storages, None).encode(value)


def write_tree(value: Value, storages: Sequence[bytes | NodeRef], emit: Emit) -> bytes:
    """Hand each tree object of a value to `emit`, leaves first; returns the root's id.

    storages: what the records' numbers stand for.

    Raises:
        StateError: no reader would take so many, or so many times the same.
    """
    counted = BoundedEmit(emit)
    return counted(_Encoder(storages, counted).encode(value))


# -- decoding ----------------------------------------------------------------------------------------------------------


def _ext(code: int, data: memoryview) -> object:
    if code == _EXT_INT:
        return int.from_bytes(data, "big", signed=True)
    if code == _EXT_STR:
        return bytes(data).decode("utf-8", "surrogatepass")
    raise CorruptObjectError(f"a value of unknown extension type {code}")


# What stands for itself, in a tree and outside of it.
_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes))

_unpacker = msgspec.msgpack.Decoder(ext_hook=_ext)
# msgspec looks into a class when it first meets it, and crashes where two threads do so at once: it is met here.
msgspec.msgpack.Decoder(TensorRecord)


def unpack(raw: bytes) -> Any:
    """msgpack to plain Python, with this format's extension types.

    Raises:
        CorruptObjectError
    """
    try:
        return _unpacker.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError, TypeError) as error:
        # TypeError: msgspec 0.19, of a map with a map as a key
        raise CorruptObjectError(f"a tree cannot be read: {error}") from error


def decode_tree(raw: bytes, id_size: int) -> Value:
    """One tree object as a value, its references to other objects as `TreeRef` and `Paged`. A page comes as a list.

    Raises:
        CorruptObjectError: anything in it is not as the format says.
    """
    return _Decoder(id_size).value(unpack(raw), 0)


class _Decoder:
    def __init__(self, id_size: int) -> None:
        self._id_size = id_size

    def value(self, item: Any, depth: int) -> Value:
        if item is None or isinstance(item, (bool, int, float, str, bytes)):
            return item
        if not isinstance(item, list) or not item or type(item[0]) is not int:
            raise CorruptObjectError("a tree holds something that is no value")
        if depth > MAX_DEPTH:
            raise CorruptObjectError(f"a tree is nested deeper than {MAX_DEPTH} levels")
        tag, fields = item[0], item[1:]
        if tag == TENSOR:
            return self._tensor(item)
        if tag in (LIST, PAGE):
            return self._values(fields, depth + 1)
        if tag == TUPLE:
            return tuple(self._values(fields, depth + 1))
        if tag == MAP:
            return Map(pairs(self._values(fields, depth + 1)))
        try:
            if tag == TYPED:
                name, inner = fields
                return Typed(_text(name), self.value(inner, depth + 1))
            if tag == ARRAY:
                dtype, (shape, fortran, scalar, storage) = fields
                return ArrayRecord(
                    self.value(dtype, depth + 1), _extents(shape), _flag(fortran), _flag(scalar), self._storage(storage)
                )
            if tag == BLOB:
                text, storage = fields
                return BlobRecord(_flag(text), self._storage(storage))
            if tag == TREE:
                (oid,) = fields
                return TreeRef(self._id(oid))
            if tag == PAGED:
                inner_tag, ids = fields
                if inner_tag not in (LIST, TUPLE, MAP) or not isinstance(ids, list):
                    raise CorruptObjectError("a paged container of an impossible kind")
                return Paged(inner_tag, tuple([self._id(oid) for oid in ids]))
        except (ValueError, TypeError) as error:
            raise CorruptObjectError(f"a tree holds a value of tag {tag} with the wrong fields") from error
        raise NewerFormatError(f"a tree holds a value of unknown tag {tag}", remedy="open it with a later casckpt")

    def _values(self, fields: list[Any], depth: int) -> list[Value]:
        return [field if type(field) in _PLAIN else self.value(field, depth) for field in fields]

    def _id(self, oid: Any) -> bytes:
        if not isinstance(oid, bytes) or len(oid) != self._id_size:
            raise CorruptObjectError("a tree holds an id of the wrong length")
        return oid

    def _storage(self, storage: Any) -> bytes | NodeRef:
        if isinstance(storage, bytes):
            return storage
        oid, length = storage
        return self._node_ref(NodeRef(oid, length))

    def _node_ref(self, ref: NodeRef) -> NodeRef:
        if type(ref.length) is not int or not 0 < ref.length < MAX_EXTENT:
            raise CorruptObjectError("a tree holds a storage of an impossible length")
        self._id(ref.id)
        return ref

    def _tensor(self, item: list[Any]) -> TensorRecord:
        try:
            record = msgspec.convert(item, TensorRecord, builtin_types=(bytes,))  # else text passes for bytes in base64
        except (msgspec.ValidationError, UnicodeEncodeError) as error:  # of text with lone surrogates
            raise CorruptObjectError("a tree holds a tensor record with the wrong fields") from error
        storage = record.storage
        if type(storage) is bytes:
            length = len(storage)
        elif isinstance(storage, NodeRef):
            length = self._node_ref(storage).length
        else:
            raise CorruptObjectError("a tree holds a tensor record of no storage")
        size = ITEM_SIZE.get(record.dtype)
        if size is None:
            raise NewerFormatError(f"a tensor of unknown dtype {record.dtype!r}", remedy="open it with a later casckpt")
        if record.stride is not None and len(record.stride) != len(record.shape):
            raise CorruptObjectError("a tensor record has another number of strides than of dimensions")
        if record.end * size > length:
            raise CorruptObjectError(f"a tensor of shape {record.shape} reaches past its {length} stored bytes")
        return record


def _text(item: Any) -> str:
    if not isinstance(item, str):
        raise TypeError
    return item


def _flag(item: Any) -> bool:
    if not isinstance(item, bool):
        raise TypeError
    return item


def _extent(item: Any) -> int:
    if type(item) is not int or not 0 <= item < MAX_EXTENT:
        raise CorruptObjectError("a tree holds an impossible extent")
    return item


def _extents(items: Any) -> tuple[int, ...]:
    if not isinstance(items, list) or len(items) > MAX_DIMENSIONS:
        raise TypeError
    return tuple([_extent(item) for item in items])


def pairs(flat: list[Value]) -> tuple[tuple[Value, Value], ...]:
    """Keys and values in turn, as pairs; two equal keys, or one without a value, are damage."""
    if len(flat) % 2:
        raise CorruptObjectError("a tree holds a key without a value")
    keys = {key if isinstance(key, str) else canonical(key) for key in flat[::2]}
    if len(keys) != len(flat) // 2:
        raise CorruptObjectError("a tree holds the same key twice")
    return tuple(zip(flat[::2], flat[1::2], strict=True))


# -- joining -----------------------------------------------------------------------------------------------------------

Fetch = Callable[[bytes], Value]
"""Takes the id of a tree object, and gives it decoded."""


def shallow(value: Value, fetch: Fetch) -> Value:
    """The container that a reference stands for, joined from its pages, its children left as they are."""
    for _ in range(MAX_DEPTH):
        if isinstance(value, TreeRef):
            value = fetch(value.id)
        elif isinstance(value, Paged):
            items: list[Value] = []
            fetch = bounded(fetch)
            for oid in value.ids:
                page = fetch(oid)
                if not isinstance(page, list):
                    raise CorruptObjectError(f"tree {oid.hex()} is not a page")
                items += page
            if value.tag == MAP:
                return Map(pairs(items))
            return items if value.tag == LIST else tuple(items)
        else:
            return value
    raise CorruptObjectError("a chain of references has no end")


# What holds no reference to another tree.
_WHOLE: Final = _PLAIN | {TensorRecord, ArrayRecord, BlobRecord}


def expand(value: Value, fetch: Fetch) -> Value:
    """The whole value, with every reference followed.

    Raises:
        CorruptObjectError: deeper than MAX_DEPTH, as a cycle would be, or more than `Bounded` allows, as a few that
            refer to each other many times would be.
    """
    return _expand(value, bounded(fetch), 0)


def _expand(value: Value, fetch: Fetch, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise CorruptObjectError(f"a tree is nested deeper than {MAX_DEPTH} levels")
    value = shallow(value, fetch)
    whole = _WHOLE if depth < MAX_DEPTH else frozenset()
    if isinstance(value, list):
        return [item if type(item) in whole else _expand(item, fetch, depth + 1) for item in value]
    if isinstance(value, tuple):
        return tuple([item if type(item) in whole else _expand(item, fetch, depth + 1) for item in value])
    if isinstance(value, Map):
        entries = [
            entry if type(entry[1]) in whole else (entry[0], _expand(entry[1], fetch, depth + 1))
            for entry in value.entries
        ]
        return Map(tuple(entries))
    if isinstance(value, Typed):
        return Typed(value.name, _expand(value.value, fetch, depth + 1))
    return value


def references(value: Value) -> Iterator[TreeRef | NodeRef]:
    """What one decoded tree object refers to directly: other trees, and storage nodes."""
    stack: list[Value] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, (TensorRecord, ArrayRecord, BlobRecord)):
            if isinstance(item.storage, NodeRef):
                yield item.storage
        elif isinstance(item, TreeRef):
            yield item
        elif isinstance(item, Paged):
            yield from map(TreeRef, item.ids)
        elif isinstance(item, Map):
            stack.extend([inner for _, inner in item.entries if type(inner) not in _PLAIN])
        elif isinstance(item, (list, tuple)):
            stack.extend([inner for inner in item if type(inner) not in _PLAIN])
        elif isinstance(item, Typed):
            stack.append(item.value)
