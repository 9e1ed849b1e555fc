"""Leaves and containers one by one, where a generated state would not meet them."""

from __future__ import annotations

import argparse
import pathlib
import struct
import types
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from casckpt.errors import StateError, UnsupportedTypeError
from casckpt.limits import MAX_DEPTH
from casckpt.objects.paths import Globs, leaves, select
from casckpt.tensors.flatten import flatten, flatten_plain
from casckpt.tensors.inflate import inflate_plain
from tests.equality import assert_same
from tests.tensors.dict_store import DictStore, round_trip

NAN = struct.unpack("<d", bytes.fromhex("efbeaddeadbef47f"))[0]


class Moments(NamedTuple):
    mean: Any
    spread: Any = 0


@pytest.mark.parametrize(
    "leaf",
    [
        *(0, -1, 2**63, 2**64, -(2**63) - 1, 10**4000, True, False, None),
        *(0.0, -0.0, float("inf"), NAN, 5e-324, complex(-0.0, NAN)),
        *("", "a.b\\", "\ud800", "\x00", b"", bytes(range(256)), bytearray(b"ab"), bytearray(5000)),
        *("x" * 5000, "é" * 5000, "\udfff" * 5000, b"x" * 5000, "é" * 1500),
        *((), [], {}, set(), frozenset(), OrderedDict(), Counter(), deque(), deque([1], 4)),
        *(datetime(1, 1, 1), datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=timezone(timedelta(hours=1), "CET"))),
        *(time(3, tzinfo=UTC), time(4, fold=1), timedelta.min, UTC),
        *(Decimal("NaN123"), Decimal("-0"), Decimal("1E+999999"), Fraction(-7, 3)),
        *(Path("a/b"), pathlib.PurePosixPath("/x"), pathlib.PureWindowsPath(r"c:\x"), Path("\udcff")),
        *(
            torch.Size([2, 3]),
            torch.bfloat16,
            torch.qint8,
            torch.device("cuda:3"),
            torch.sparse_csr,
            torch.channels_last,
        ),
        *(argparse.Namespace(lr=0.1, w=[torch.ones(1)]), types.SimpleNamespace(a=1)),
        *(defaultdict(None, {1: 2}), defaultdict(list, a=[1]), defaultdict(Counter)),
        *(
            np.float64(NAN),
            np.float32(1),
            np.bool_(True),
            np.int8(-3),
            np.longlong(3),
            np.ulonglong(3),
            np.longdouble(0.1),
        ),
        *(
            np.str_("a\0"),
            np.bytes_(b"a\0"),
            np.datetime64("NaT"),
            np.datetime64("2024-01-01", "D"),
            np.timedelta64(3, "us"),
        ),
        *(np.clongdouble(1j), np.void(b"abc"), np.float16(1), np.complex64(1j)),
        {1: "int", "1": "text", 1.5: "float", None: 0, (1, "a"): 1, frozenset({2}): 2, b"1": 3, 2**70: 4},
        {np.int64(7): 1, torch.float32: 2, Path("x"): 3, np.datetime64("2024-01-01"): 4, "\ud800": 5, "x" * 5000: 6},
        {1, "1", (2, 3), None, np.float32(0.5), frozenset({frozenset()})},
    ],
    # sets are in another order in each process, and all processes of a test run must have the same tests
    ids=lambda leaf: f"{type(leaf).__name__}-{len(leaf) if isinstance(leaf, (set, frozenset)) else str(leaf)[:20]!r}",
)
def test_the_leaf_comes_back_with_its_type(leaf: object) -> None:
    assert_same({"leaf": leaf}, round_trip({"leaf": leaf}))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4)[::-1, ::2],
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.array(5),
        np.zeros((3, 0), "U5"),
        np.array(["a", "bcd", "é\ud800"]),
        np.array([b"a", b"\0b"]),
        np.array(["2024-01-01", "NaT"], "M8[ns]"),
        np.array([(1, b"x", [1.5, 2.5])], [("a", ">i4"), ("b", "S3"), ("c", "<f2", (2,))]),
        np.zeros(2, np.dtype([("a", "u1"), ("b", "f8")], align=True)),
        np.zeros(2, [(("a title", "a"), "i4"), ("nested", [("g", "<f16")])]),
        np.arange(4, dtype=">f4"),
        np.arange(4, dtype=np.longlong),
        np.arange(4, dtype=np.dtype("Q").newbyteorder()),
        np.arange(4, dtype=np.longdouble),
        np.arange(24, dtype=np.clongdouble).reshape(2, 3, 4).transpose(1, 0, 2)[::-1],
        np.zeros(0, np.longdouble),
        np.ndarray(3, "S0"),
        np.zeros(3, "V0"),
        np.broadcast_to(np.arange(3), (2, 3)),
        np.arange(2000.0),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_the_array_comes_back_with_its_dtype_and_order(array: np.ndarray[Any, Any]) -> None:
    loaded: Any = round_trip([array])[0]  # type: ignore[index]
    assert_same(array, loaded)
    assert loaded.dtype.char == array.dtype.char
    assert loaded.flags.writeable


def test_equal_long_doubles_are_stored_as_equal_bytes() -> None:
    made = [np.frombuffer(bytes([fill]) * 64, np.longdouble).copy() for fill in (0, 255)]
    for array in made:
        array[:] = [0.1, 1, 2, 3]
    stores = [DictStore() for _ in made]
    assert len({store.save([array, array.T[::2], array[1]]) for store, array in zip(stores, made, strict=True)}) == 1


def test_a_mapped_array_comes_back_as_an_array(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "m", np.int32, "w+", shape=(3,))
    mapped[:] = [1, 2, 3]
    assert_same(np.array([1, 2, 3], np.int32), round_trip(mapped))


def test_a_state_dict_keeps_the_versions_of_its_modules() -> None:
    saved = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).state_dict()
    loaded: Any = round_trip({"model": saved})
    assert_same(saved, loaded["model"])
    assert loaded["model"]._metadata["1"] == {"version": 2}


def test_a_part_of_a_state_dict_keeps_the_versions_too() -> None:
    store = DictStore()
    root = store.save({"model": torch.nn.BatchNorm1d(2).state_dict()})
    chosen = select(store.fetch(root), Globs(["model.weight"]), store.fetch)
    loaded: Any = store.inflate(chosen)
    assert list(loaded["model"]) == ["weight"]
    assert loaded["model"]._metadata[""] == {"version": 2}
    assert list(leaves(store.value(root)))  # and nobody who walks the value stumbles over them


def test_a_container_that_is_there_twice_comes_back_as_two_equal_ones() -> None:
    inner = [1]
    loaded: Any = round_trip({"a": inner, "b": inner})
    assert loaded == {"a": [1], "b": [1]}
    assert loaded["a"] is not loaded["b"]


def test_a_state_at_the_limit_of_nesting_comes_back_and_one_beyond_is_refused() -> None:
    def nested(levels: int) -> object:
        state: object = 1
        for level in range(levels):
            state = OrderedDict(a=state) if level % 2 else (state,)
        return state

    # each OrderedDict is two levels of the tree
    deep = nested(MAX_DEPTH * 2 // 3)
    assert_same(deep, round_trip(deep))
    with pytest.raises(StateError, match="nested deeper"):
        flatten(nested(MAX_DEPTH))


@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"k": inner}])
def test_the_deepest_state_passes_from_deep_in_a_program(make: Any) -> None:
    state: Any = 1
    for _ in range(MAX_DEPTH):
        state = make(state)

    def called_from(frames: int) -> object:
        return called_from(frames - 1) if frames else round_trip(state)

    assert_same(state, called_from(400))
    with pytest.raises(StateError, match="nested deeper"):
        flatten(make(state))


def test_a_deep_structured_dtype_is_refused_where_it_could_not_be_read_again() -> None:
    for levels in range(MAX_DEPTH - 5, MAX_DEPTH + 1):
        state: Any = np.zeros(1, [("a", [("b", "f4")])])
        for _ in range(levels):
            state = [state]
        try:
            flatten(state)
        except StateError:
            continue
        assert_same(state, round_trip(state))


@pytest.mark.parametrize("wrap", [list, lambda s: {"again": s}, lambda s: OrderedDict(again=s), lambda s: deque([s])])
def test_a_state_that_contains_itself_is_refused_by_path(wrap: Any) -> None:
    state: dict[str, Any] = {"a": {}}
    state["a"]["b"] = wrap([state["a"]])
    with pytest.raises(StateError, match=r"^at a\.b\..*contains itself"):
        flatten(state)


def test_two_nans_as_keys_are_refused() -> None:
    with pytest.raises(StateError, match=r"^at d: .*same once stored"):
        flatten({"d": {float("nan"): 1, float("nan"): 2}})
    assert_same({"d": {NAN: 1}}, round_trip({"d": {NAN: 1}}))


# -- what stands in a commit, in a key or in a set ---------------------------------------------------------------------


def test_plain_values_stand_whole_in_what_they_are_flattened_to() -> None:
    plain = {"text": "x" * 9000, "raw": b"y" * 9000, "when": datetime(2024, 1, 1), "loss": np.float32(0.25), "s": {1}}
    assert_same(plain, inflate_plain(flatten_plain(plain)))


@pytest.mark.parametrize(
    "leaf", [torch.ones(1), np.ones(1), torch.eye(2).to_sparse()], ids=["tensor", "array", "sparse"]
)
def test_tensors_and_arrays_are_refused_as_metadata_as_keys_and_in_sets(leaf: object) -> None:
    with pytest.raises(UnsupportedTypeError, match=r"^at meta\.x: .*cannot stand here; use .*tolist"):
        flatten_plain({"x": leaf}, "meta")
    if isinstance(leaf, torch.Tensor):
        with pytest.raises(UnsupportedTypeError):
            flatten({leaf: 1})
        with pytest.raises(UnsupportedTypeError):
            flatten({"s": {leaf}})


# -- refusals ----------------------------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Odd:
    pass


def _with_attribute(mapping: Any) -> Any:
    mapping.extra = 1
    return mapping


class Loose(Moments):
    pass


@pytest.mark.parametrize(
    ("leaf", "remedy"),
    [
        (lambda: 0, "give it again"),
        (_with_attribute, "give it again"),
        (len, "give it again"),
        (Moments(1)._asdict, "give it again"),
        (Odd, "give it again"),
        (types, "give it again"),
        (torch.Generator(), "get_state"),
        (torch.nn.Linear(1, 1), "state_dict"),
        (torch.optim.SGD([torch.ones(1, requires_grad=True)]), "state_dict"),
        (Odd(), "casckpt.register(Odd, encode=..., decode=...)"),
        (Text("x"), "str(...)"),
        (Whole(3), "int(...)"),
        (types.MappingProxyType({}), "dict(...)"),
        (range(3), "casckpt.register(range"),
        (np.ones(1).view(np.matrix), "numpy.asarray"),
        (np.ma.masked_array([1]), "numpy.asarray"),
        (np.rec.array([(1,)], [("a", "i4")]), "numpy.asarray"),
        (np.array([object()]), "tolist"),
        (np.array([(None,)], [("a", object)]), "tolist"),
        (np.zeros(1, np.dtype("f4", metadata={"a": 1})), "astype"),
        (np.zeros(1, [("a", np.dtype(("f4", (2,)), metadata={"a": 1}))]), "astype"),
        (np.zeros(1, np.dtype({"names": ["a", "b"], "formats": ["u2", "u2"], "offsets": [0, 1]})), "astype"),
        (np.zeros(1, np.dtype((np.record, [("a", "i4")]))), "astype"),
        (defaultdict(lambda: 0), "dict(...)"),
        (_with_attribute(OrderedDict()), "dict(...)"),
        (_with_attribute(Counter()), "dict(...)"),
        (_with_attribute(Loose(1)), "plain dict"),
        (datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), "timezone.utc"),
        (torch.return_types.max((torch.ones(1), torch.ones(1))), "tuple(...)"),
    ],
    ids=lambda case: type(case).__name__ if not isinstance(case, str) else "",
)
def test_what_cannot_be_saved_is_named_by_its_path_with_a_way_out(leaf: object, remedy: str) -> None:
    with pytest.raises(UnsupportedTypeError, match=r"^at trainer\.x\\\.y\.0: ") as caught:
        flatten({"trainer": {"x.y": [leaf]}})
    assert remedy in caught.value.remedy
    assert caught.value.path == "trainer.x\\.y.0"


# -- named tuples ------------------------------------------------------------------------------------------------------


def test_a_named_tuple_comes_back_as_its_own_class() -> None:
    state = {"m": Moments(torch.ones(2), [1])}
    loaded: Any = round_trip(state)
    assert type(loaded["m"]) is Moments
    assert_same(state, loaded)


def test_a_named_tuple_whose_class_is_out_of_reach_comes_back_as_an_equivalent_one() -> None:
    local = namedtuple("local", ["x", "y"])
    local.__qualname__ = "somewhere.local"
    store = DictStore()
    root = store.save([local(1, 2), local(3, 4)])
    loaded: Any = store.load(root)
    assert type(loaded[0]).__name__ == "local" and loaded[0]._asdict() == {"x": 1, "y": 2}
    assert type(loaded[0]) is type(loaded[1])
    assert store.save(loaded) == root


def test_a_named_tuple_whose_class_changed_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    store = DictStore()
    root = store.save(Moments(1, 2))
    monkeypatch.setitem(globals(), "Moments", NamedTuple("Moments", [("mean", int)]))
    loaded: Any = store.load(root)
    assert loaded._asdict() == {"mean": 1, "spread": 2}


def test_a_named_tuple_in_a_set_or_key_comes_back() -> None:
    state = {Moments(1, 2): {Moments(3, 4)}}
    assert_same(state, round_trip(state))
