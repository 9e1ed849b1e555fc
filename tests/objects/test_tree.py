"""Trees: encode and expand are inverses, equal values have equal bytes, and nothing read is taken on trust."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import struct
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError, MissingObjectError, NewerFormatError
from casckpt.limits import MAX_DEPTH, MAX_DIMENSIONS, SPILL_TREE, TREE_PAGE
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import (
    ARRAY,
    BLOB,
    LIST,
    MAP,
    PAGED,
    TENSOR,
    TREE,
    TYPED,
    canonical,
    decode_tree,
    expand,
    references,
    shallow,
    write_tree,
)
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Paged, TensorRecord, TreeRef, Typed, Value

ID = bytes(range(16))


class Trees:
    """Tree objects in a dict."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    def emit(self, raw: bytes) -> bytes:
        oid = XXH3_128.digest(Kind.TREE, raw)
        self.held[oid] = raw
        return oid

    def fetch(self, oid: bytes) -> Value:
        if oid not in self.held:
            raise MissingObjectError(oid.hex())
        return decode_tree(self.held[oid], 16)

    def write(self, value: Value, storages: Any = ()) -> bytes:
        return write_tree(value, storages, self.emit)

    def read(self, root: bytes) -> Value:
        return expand(self.fetch(root), self.fetch)


def _bits(value: Value) -> Value:
    """The value with its floats as their bytes, so that nan equals nan and 0.0 is not -0.0, nor True 1."""
    if isinstance(value, (bool, float)):
        return Typed(type(value).__name__, struct.pack("<d", value))
    if isinstance(value, list):
        return [_bits(item) for item in value]
    if isinstance(value, tuple):
        return tuple([_bits(item) for item in value])
    if isinstance(value, Map):
        return Map(tuple([(_bits(key), _bits(item)) for key, item in value.entries]))
    return Typed(value.name, _bits(value.value)) if isinstance(value, Typed) else value


def _storages() -> st.SearchStrategy[bytes | NodeRef]:
    return st.just(bytes(64)) | st.builds(NodeRef, st.binary(min_size=16, max_size=16), st.integers(64, 2**40))


def _plain() -> st.SearchStrategy[Any]:
    floats = st.binary(min_size=8, max_size=8).map(lambda raw: struct.unpack("<d", raw)[0])
    texts = st.text(st.characters() | st.sampled_from("\ud800\udfff"), max_size=5)
    integers = st.integers() | st.integers(-(2**200), 2**200)
    return st.one_of(st.none(), st.booleans(), integers, floats, texts, st.binary(max_size=5))


@st.composite
def _records(draw: st.DrawFn) -> Value:
    storage = draw(_storages())
    flags, alias = draw(st.integers(0, 3)), draw(st.none() | st.integers(0, 9))
    return draw(
        st.sampled_from(
            [
                TensorRecord("float32", (2, 3), None, 1, storage, alias, flags),
                TensorRecord("uint8", (2, 3), (1, 2), 0, storage, alias, flags),
                TensorRecord("complex128", (), None, 3, storage, None, 0),
                TensorRecord("bool", (0, 9), None, 0, b"", None, 0),
                ArrayRecord("<f4", (2, 2), True, False, storage),
                ArrayRecord([("a", "<i4", (2,))], (), False, True, storage),
                BlobRecord(draw(st.booleans()), storage),
            ]
        )
    )


@st.composite
def _maps(draw: st.DrawFn, inner: st.SearchStrategy[Value]) -> Map:
    keys = draw(st.lists(_plain() | st.tuples(_plain()), max_size=5, unique_by=canonical))
    return Map(tuple((key, draw(inner)) for key in keys))


def values() -> st.SearchStrategy[Any]:
    long = st.integers(SPILL_TREE, 3 * SPILL_TREE).map(lambda size: "x" * size)
    return st.recursive(
        _plain() | _records() | long,
        lambda inner: st.one_of(
            st.lists(inner, max_size=5),
            st.lists(inner, max_size=5).map(tuple),
            _maps(inner),
            st.builds(Typed, st.sampled_from(["set", "user:x"]), inner),
        ),
        max_leaves=20,
    )


relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))


@relaxed
@given(values())
def test_a_value_is_read_as_it_was_written(value: Value) -> None:
    trees = Trees()
    assert _bits(trees.read(trees.write(value))) == _bits(value)


@relaxed
@given(values())
def test_the_bytes_of_what_was_read_are_the_bytes_that_were_written(value: Value) -> None:
    trees = Trees()
    root = trees.write(value)
    assert Trees().write(trees.read(root)) == root
    assert trees.write(value) == root


@relaxed
@given(values(), values())
def test_different_values_have_different_bytes(first: Value, second: Value) -> None:
    assert (canonical(first) == canonical(second)) == (_bits(first) == _bits(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (0, "0"),
        (1, True),
        (0, False),
        (0, 0.0),
        (0.0, -0.0),
        ("a", b"a"),
        ([1], (1,)),
        (None, False),
        (2**64, 2.0**64),
        ((), []),
    ],
)
def test_keys_that_python_may_take_for_equal_are_different_keys(first: Any, second: Any) -> None:
    assert canonical(first) != canonical(second)
    value = Map(((first, 1), (second, 2)))
    trees = Trees()
    assert _bits(trees.read(trees.write(value))) == _bits(value)


@pytest.mark.parametrize("value", [TreeRef(ID), Paged(LIST, (ID, ID)), [TreeRef(ID)], list(range(70_000))])
def test_references_and_long_containers_in_one_piece_are_read_as_they_were_written(value: Value) -> None:
    assert decode_tree(canonical(value), 16) == value


def test_numbered_storages_are_replaced_by_what_they_stand_for() -> None:
    value = [
        BlobRecord(False, 1),
        ArrayRecord("|u1", (3,), False, False, 0),
        TensorRecord("int8", (1,), None, 0, 1, None, 0),
    ]
    trees = Trees()
    node = NodeRef(ID, 9)
    read = trees.read(trees.write(value, [b"abc", node]))
    assert [item.storage for item in read] == [node, b"abc", node]  # type: ignore[union-attr]


# -- spilling and paging -----------------------------------------------------------------------------------------------


def test_a_container_is_an_object_of_its_own_only_when_it_is_long() -> None:
    trees = Trees()
    trees.write({"small": 1} and Map((("small", [1] * 10),)))
    assert len(trees.held) == 1
    trees.write(Map((("large", ["x" * 100] * 40),)))
    assert len(trees.held) == 3


def test_equal_containers_are_stored_once() -> None:
    trees = Trees()
    inner: Value = ["x" * 100] * 40
    trees.write(Map((("a", inner), ("b", inner))))
    assert len(trees.held) == 2


def _big(changed: int | None = None) -> Map:
    return Map(
        tuple(
            (f"layer.{i}", Map((("x", i), ("y", "new" if i == changed else "old"), ("z", "." * 80))))
            for i in range(9000)
        )
    )


def test_a_change_in_a_large_container_writes_one_page_and_the_path_to_it() -> None:
    trees = Trees()
    root = trees.write(_big())
    assert max(map(len, trees.held.values())) < 1.1 * TREE_PAGE
    before = set(trees.held)
    changed = trees.write(_big(4321))
    assert len(set(trees.held) - before) == 2
    assert trees.read(root) == _big()
    assert trees.read(changed) == _big(4321)


@pytest.mark.parametrize("make", [list, tuple])
def test_long_lists_and_tuples_come_back_from_their_pages(make: Any) -> None:
    value = make(range(100_000))
    trees = Trees()
    root = trees.write([value, 1])
    assert len(trees.held) > 5
    assert trees.read(root) == [value, 1]
    assert isinstance(shallow(trees.fetch(root)[0], trees.fetch), make)  # type: ignore[index]


def test_references_name_everything_that_a_tree_needs() -> None:
    trees = Trees()
    node = NodeRef(ID, 100)
    record = TensorRecord("uint8", (100,), None, 0, node, None, 0)
    inline = BlobRecord(True, b"x")
    root = trees.write(
        Map((("deep", ["x" * 3000, record]), ("t", Typed("sparse", (record, inline))), ("long", list(range(50_000)))))
    )
    seen: set[bytes] = set()
    nodes = 0
    queue = [root]
    while queue:
        oid = queue.pop()
        seen.add(oid)
        for found in references(trees.fetch(oid)):
            nodes += isinstance(found, NodeRef)
            queue += [found.id] if isinstance(found, TreeRef) else []
    assert seen == set(trees.held)
    assert nodes == 2


# -- what is read is not trusted ---------------------------------------------------------------------------------------


@relaxed
@given(values(), st.data())
def test_a_damaged_byte_gives_a_value_or_a_typed_error(value: Value, data: st.DataObject) -> None:
    trees = Trees()
    root = trees.write(value)
    victim = data.draw(st.sampled_from(sorted(trees.held)))
    raw = bytearray(trees.held[victim])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    trees.held[victim] = bytes(raw)
    with contextlib.suppress(CorruptObjectError, NewerFormatError):
        trees.read(root)


def test_every_byte_of_a_tree_changed_to_every_value_gives_a_value_or_a_typed_error() -> None:
    value = Map(
        (("w", TensorRecord("float32", (2, 3), (3, 1), 0, NodeRef(ID, 24), 1, 3)), (("k", 1), [2**70, "\ud800", 0.5]))
    )
    raw = canonical(Typed("t", [value, ArrayRecord("<f4", (1,), False, False, b"abcd"), BlobRecord(True, b"x")]))
    for at in range(len(raw)):
        for byte in range(256):
            with contextlib.suppress(CorruptObjectError, NewerFormatError):
                decode_tree(raw[:at] + bytes([byte]) + raw[at + 1 :], 16)
    for at in range(len(raw)):
        with pytest.raises(CorruptObjectError):
            decode_tree(raw[:at], 16)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_typed_error(raw: bytes) -> None:
    with contextlib.suppress(CorruptObjectError, NewerFormatError):
        decode_tree(raw, 16)


def _raw(item: object) -> bytes:
    return msgspec.msgpack.encode(item)


_TENSOR = [TENSOR, "float32", [2], None, 0, bytes(8), None, 0]
_SURROGATE = msgspec.msgpack.Ext(2, b"\xed\xa0\x80")


def _with(at: int, item: object) -> list[Any]:
    return [*_TENSOR[:at], item, *_TENSOR[at + 1 :]]


BAD = {
    "no value": {},
    "empty": [],
    "a tag of text": ["x"],
    "a tag that is a bool": [True, 1],
    "the same key twice": [MAP, "a", 1, "a", 2],
    "the same odd key twice": [MAP, [LIST, 1], 1, [LIST, 1], 2],
    "a key without a value": [MAP, "a"],
    "a name that is no text": [TYPED, 1, 2],
    "a typed value of two": [TYPED, "x", 1, 2],
    "an id too short": [TREE, bytes(15)],
    "an id of text": [TREE, "0" * 16],
    "two ids": [TREE, ID, ID],
    "pages of a tensor": [PAGED, TENSOR, [ID]],
    "pages of no list": [PAGED, LIST, ID],
    "a page id too short": [PAGED, LIST, [b""]],
    "text that is no flag": [BLOB, 1, b""],
    "a storage of no length": [BLOB, True, [ID, 0]],
    "a storage of a negative length": [BLOB, True, [ID, -1]],
    "a storage of a huge length": [BLOB, True, [ID, 1 << 62]],
    "a storage of half a length": [BLOB, True, [ID, 1.5]],
    "a storage of text": [BLOB, True, "x"],
    "a storage of a number": [BLOB, True, 3],
    "an array of no shape": [ARRAY, "<f4", [1, False, False, b""]],
    "an array without flags": [ARRAY, "<f4", [[1], 0, 0, b""]],
    "an array of three": [ARRAY, "<f4", [[1], False, False]],
    "a tensor cut short": _TENSOR[:-1],
    "a tensor too long": [*_TENSOR, 0],
    "a dtype of bytes": _with(1, b"float32"),
    "a shape of a number": _with(2, 2),
    "a negative size": _with(2, [-1]),
    "a size that is a bool": _with(2, [True]),
    "a huge size": _with(2, [1 << 62]),
    "too many dimensions": _with(2, [1] * (MAX_DIMENSIONS + 1)),
    "too few strides": _with(3, []),
    "a negative stride": _with(3, [-1]),
    "a negative offset": _with(4, -1),
    "a whole number as a float": _with(4, 0.0),
    "a size as a float": _with(2, [2.0]),
    "a size of text": _with(2, ["2"]),
    "a huge size of nothing": [TENSOR, "float32", [0, 1 << 62], None, 0, b"", None, 0],
    "a huge alias": _with(6, 1 << 62),
    "an offset beyond 64 bits": _with(4, msgspec.msgpack.Ext(1, (1 << 70).to_bytes(9, "big"))),
    "a tensor of a storage that is not saved yet": _with(5, 0),
    "a tensor of no storage": _with(5, None),
    "a tensor of text for bytes": _with(5, base64.b64encode(bytes(8)).decode()),
    "a tensor of a node with an id of text": _with(5, [base64.b64encode(ID).decode(), 8]),
    "a shape of text with a lone surrogate": _with(2, _SURROGATE),
    "a storage of text with a lone surrogate": _with(5, _SURROGATE),
    "a tensor of a node without a length": _with(5, [ID]),
    "a tensor of a node of too many fields": _with(5, [ID, 8, 8]),
    "a tensor of a node of no length": _with(5, [ID, 0]),
    "a tensor of a node of a huge length": _with(5, [ID, 1 << 62]),
    "a tensor of a node with an id too short": _with(5, [ID[1:], 8]),
    "a negative alias": _with(6, -1),
    "flags of text": _with(7, "x"),
    "reaches past": _with(2, [3]),
    "reaches past by its offset": _with(4, 1),
    "reaches past by its stride": _with(3, [2]),
    "reaches past a node": [TENSOR, "float32", [3], None, 0, [ID, 8], None, 0],
    "reaches past by far": [TENSOR, "float32", [1 << 61, 1 << 61], None, 0, [ID, 1 << 61], None, 0],
}


@pytest.mark.parametrize("what", BAD)
def test_a_tree_that_says_impossible_things_is_refused(what: str) -> None:
    for item in (BAD[what], [LIST, BAD[what]], [MAP, "k", BAD[what]]):
        with pytest.raises(CorruptObjectError):
            decode_tree(_raw(item), 16)


def test_the_record_that_the_bad_ones_are_made_of_is_sound() -> None:
    assert decode_tree(_raw(_TENSOR), 16)


def test_an_empty_tensor_reaches_nowhere_whatever_its_strides() -> None:
    for strides in ([1 << 60, 1], None):
        assert decode_tree(_raw([TENSOR, "float32", [0, 1 << 60], strides, 1 << 60, b"", None, 0]), 16)


@pytest.mark.parametrize("item", [[99], _with(1, "float3")])
def test_what_a_later_release_may_write_is_told_as_such(item: object) -> None:
    with pytest.raises(NewerFormatError, match="later casckpt"):
        decode_tree(_raw(item), 16)


def test_an_unknown_extension_is_damage() -> None:
    with pytest.raises(CorruptObjectError, match="extension type 9"):
        decode_tree(_raw(msgspec.msgpack.Ext(9, b"x")), 16)
    with pytest.raises(CorruptObjectError):
        decode_tree(_raw(msgspec.msgpack.Ext(2, b"\xff")), 16)


def test_nesting_beyond_the_limit_is_damage_and_no_recursion_error() -> None:
    for levels in (MAX_DEPTH + 2, 100_000):
        with pytest.raises(CorruptObjectError):
            decode_tree(b"\x92\x01" * levels + b"\x01", 16)
    assert decode_tree(b"\x92\x01" * MAX_DEPTH + b"\x01", 16)


@pytest.mark.parametrize("leaf", [1, "x", TensorRecord("int8", (1,), None, 0, b"x", None, 0), BlobRecord(True, b"")])
@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: Map((("k", inner),))])
def test_a_leaf_can_be_expanded_down_to_the_limit_and_no_deeper(leaf: Value, wrap: Any) -> None:
    value = leaf
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    trees = Trees()
    assert expand(value, trees.fetch) == value
    with pytest.raises(CorruptObjectError, match="deeper"):
        expand(wrap(value), trees.fetch)


def test_a_key_stands_where_it_is_however_long() -> None:
    value = Map((((("x" * SPILL_TREE, 1), [2]), 3),))
    trees = Trees()
    assert trees.read(trees.write(value)) == value
    assert len(trees.held) == 1


def test_references_that_go_round_are_damage() -> None:
    trees = Trees()
    for raw in (_raw([TREE, ID]), _raw([LIST, [TREE, ID]]), _raw([PAGED, LIST, [ID]]), _raw([TYPED, "x", [TREE, ID]])):
        trees.held[ID] = raw
        with pytest.raises(CorruptObjectError):
            trees.read(ID)


def test_a_page_that_is_none_is_damage() -> None:
    trees = Trees()
    trees.held[ID] = _raw("text")
    with pytest.raises(CorruptObjectError, match="is not a page"):
        shallow(Paged(LIST, (ID,)), trees.fetch)


def test_pages_that_repeat_a_key_are_damage() -> None:
    trees = Trees()
    page = trees.emit(_raw([10, "a", 1]))
    with pytest.raises(CorruptObjectError, match="same key twice"):
        shallow(Paged(MAP, (page, page)), trees.fetch)


# -- the same in every process -----------------------------------------------------------------------------------------

PROGRAM = """if True:
    import random
    from tests.objects.test_tree import Trees, sample
    print(Trees().write(sample(random.Random(7))).hex())
"""


def sample(source: random.Random, depth: int = 0) -> Value:
    """A value with a bit of everything, made from `source` alone."""
    kind = source.randrange(8 if depth < 4 else 4)
    if kind < 4:
        return [source.getrandbits(80), source.random(), str(source.random()), source.randbytes(source.randrange(900))][
            kind
        ]
    inner = [sample(source, depth + 1) for _ in range(source.randrange(12))]
    if kind == 4:
        return inner
    if kind == 5:
        return tuple(inner)
    return Map(tuple(enumerate(inner))) if kind == 6 else Typed("set", sorted(inner, key=canonical))


def test_the_bytes_of_a_tree_are_the_same_in_every_process() -> None:
    roots = set()
    for seed in ("0", "1", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        made = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        roots.add(made.stdout.strip())
    assert roots == {Trees().write(sample(random.Random(7))).hex()}


def test_the_bytes_of_a_tree_never_change_from_release_to_release() -> None:
    value = Map(
        (
            ("w", TensorRecord("bfloat16", (2, 3), None, 0, NodeRef(ID, 12), None, 3)),
            (0, [None, True, -1, 2**70, 1.5, "é", "\ud800", b"\0", ()]),
            (("k",), Typed("set", [1])),
        )
    )
    assert canonical(value).hex() == PINNED


PINNED = (
    "9703a1779805a862666c6f61743136920203c00092c410000102030405060708090a0b0c0d0e0f0cc003"
    "009a01c0c3ffc70901400000000000000000cb3ff8000000000000a2c3a9c70302eda080c4010091029202a16b9304a3736574920101"
)
