"""Values that no flatten made: a typed error, no code run, nothing imported, no byte past what is stored."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError, NewerFormatError, NoMemoryError, UnsupportedTypeError
from casckpt.objects.node import NodeRef
from casckpt.objects.values import METADATA, ArrayRecord, BlobRecord, Map, TensorRecord, TreeRef, Typed, Value
from casckpt.tensors.inflate import inflate, inflate_plain
from casckpt.tensors.memory import Memory
from tests.strategies import states
from tests.tensors.dict_store import DictStore

ID = bytes(16)


def _inflate(value: Value) -> object:
    memory = Memory.for_value(value)
    for target in memory.targets:
        target.out[:] = bytes(len(target.out))
    return inflate(value, memory)


def _tensor(**changed: Any) -> TensorRecord:
    fields = {
        "dtype": "float32",
        "shape": (2,),
        "stride": None,
        "offset": 0,
        "storage": bytes(8),
        "alias": None,
        "flags": 0,
    }
    return TensorRecord(**{**fields, **changed})


def _array(**changed: Any) -> ArrayRecord:
    fields = {"dtype": "<f4", "shape": (2,), "fortran": False, "scalar": False, "storage": bytes(8)}
    return ArrayRecord(**{**fields, **changed})


def test_the_records_that_the_cases_change_are_sound() -> None:
    assert _inflate([_tensor(), _array()]) is not None


BAD: dict[str, Value] = {
    "reaches past": _tensor(shape=(3,)),
    "reaches past by its offset": _tensor(offset=1),
    "reaches past by its stride": _tensor(stride=(2,)),
    "overflows": _tensor(shape=(1 << 61, 1 << 61), stride=(0, 1 << 61)),
    "too many elements": _tensor(shape=(1 << 61, 1 << 61), stride=(0, 0)),
    "requires no gradient": _tensor(dtype="int32", flags=1),
    "flags of no meaning": _tensor(flags=4),
    "never saved": _tensor(storage=0),
    "not expanded": [TreeRef(ID)],
    "one alias, two storages": [_tensor(alias=0), _tensor(alias=0, storage=bytes(12))],
    "too few bytes": _array(shape=(3,)),
    "too many bytes": _array(shape=(1,)),
    "scalar with dimensions": _array(scalar=True),
    "objects": _array(dtype="|O", shape=(1,)),
    "no dtype": _array(dtype="nonsense"),
    "not numpy's own word": _array(dtype="float32"),
    "a dtype of numbers": _array(dtype=[("a", 4)]),
    "a dtype of nothing": _array(dtype=None),
    "a dtype that is no list of fields": _array(dtype=[["a"]]),
    "a dtype as Map": _array(dtype=Map(())),
    "a long long of text": _array(dtype=Typed("long_long", "<f4")),
    "no utf-8": BlobRecord(True, b"\xff" * 4),
    "unhashable key": Map((([], 1),)),
    "equal keys": Map(((1, 1), (True, 2))),
    "a key with a storage": Map(((_tensor(storage=NodeRef(ID, 8)), 1),)),
    "a set of equal elements": Typed("set", [1, True]),
    "a set of lists": Typed("set", [[]]),
    "a set of no list": Typed("set", (1,)),
    "a deque of no list": Typed("deque", (1,)),
    "a deque that overflows": Typed("deque:1", [1, 2]),
    "a deque of no bound": Typed("deque:x", [1, 2]),
    "a defaultdict of an unknown factory": Typed("default_dict:eval", Map(())),
    "a counter of pairs": Typed("counter", [(1, 2)]),
    "an OrderedDict of pairs": Typed("ordered_dict", [(1, 2)]),
    "a namespace of numbers": Typed("namespace", Map(((1, 2),))),
    "complex of texts": Typed("complex", ("1", "2")),
    "complex of three": Typed("complex", (1.0, 2.0, 3.0)),
    "a decimal of nonsense": Typed("decimal", "x"),
    "a fraction over zero": Typed("fraction", (1, 0)),
    "a date of no day": Typed("date", (1, 13, 1)),
    "a timedelta beyond": Typed("timedelta", (10**30, 0, 0)),
    "a datetime without fields": Typed("datetime", ()),
    "a time in a zone of text": Typed("time", (1, 1, 1, 1, 0, "utc")),
    "a timezone of a day": Typed("timezone", (Typed("timedelta", (9, 0, 0)),)),
    "a path of bytes": Typed("path:PurePosixPath", b"x"),
    "a path of a kind unknown": Typed("path:Path", "x"),
    "a path of no kind": Typed("path", "x"),
    "a bytearray of a length": Typed("bytearray", 1 << 60),
    "a dtype of torch's unknown": Typed("torch.dtype", "save"),
    "a function unknown": Typed("torch.function", "save"),
    "a device unknown": Typed("torch.device", "gpu:x"),
    "a size of texts": Typed("torch.size", ["1"]),
    "sparse of nothing": Typed("torch.sparse", ()),
    "sparse of a dense layout": Typed("torch.sparse", ("strided", (2,), False, 0)),
    "sparse of lists": Typed("torch.sparse", ("sparse_coo", (2,), False, 0, [1], [2])),
    "sparse out of bounds": Typed(
        "torch.sparse",
        (
            "sparse_coo",
            (2,),
            False,
            0,
            _tensor(dtype="int64", shape=(1, 1), storage=b"\7" + bytes(7)),
            _tensor(shape=(1,)),
        ),
    ),
    "compressed out of bounds": Typed(
        "torch.sparse",
        (
            "sparse_csr",
            (1, 1),
            False,
            0,
            *[_tensor(dtype="int64", shape=(n,), storage=b"\7" * 16) for n in (2, 1)],
            _tensor(),
        ),
    ),
    "a named tuple of a list": Typed("named_tuple:m:C", [1]),
    "a named tuple with code for fields": Typed("named_tuple:m:C", Map((("x, __import__('os')", 1),))),
    "a named tuple with code for a name": Typed("named_tuple:m:C(x)", Map((("x", 1),))),
    "a named tuple of numbered fields": Typed("named_tuple:m:C", Map(((1, 1),))),
    "metadata of nothing": Map(((METADATA, 1), (METADATA, 2))),
}


@pytest.mark.parametrize("what", BAD)
def test_a_value_that_no_flatten_made_is_damage_named_by_its_path(what: str) -> None:
    with pytest.raises(CorruptObjectError, match=r"a\.0"):
        _inflate(Map((("a", [BAD[what]]),)))


@pytest.mark.parametrize("what", [what for what in BAD if what.startswith("reaches past")])
def test_a_tensor_past_its_storage_is_refused_before_torch_sees_it(what: str) -> None:
    with pytest.raises(CorruptObjectError, match="at w: a tensor reaches past its 8 bytes"):
        _inflate(Map((("w", BAD[what]),)))


def test_types_of_a_later_release_are_told_as_such() -> None:
    for name in ("quaternion", "", "quaternion:x"):
        with pytest.raises(NewerFormatError, match="later casckpt"):
            _inflate(Typed(name, 1))


def test_what_this_machine_has_not_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules["casckpt.tensors.torch_leaves"].DTYPES, "float8_e5m2")
    for value in (
        _tensor(dtype="float8_e5m2"),
        _array(dtype=Typed("long_double:112", "<f16"), shape=(0,), storage=b""),
        Typed("path:WindowsPath", "x"),
    ):
        with pytest.raises(UnsupportedTypeError, match=r"^at a: "):
            _inflate(Map((("a", value),)))


def test_a_size_that_lies_is_an_error_before_anything_is_read() -> None:
    for record in (_tensor(storage=NodeRef(ID, 1 << 61)), _array(storage=NodeRef(ID, 1 << 61))):
        with pytest.raises(NoMemoryError, match="at a: no memory"):
            Memory.for_value(Map((("a", record),)))


def test_plain_values_refer_to_nothing_outside_of_them() -> None:
    with pytest.raises(CorruptObjectError, match="refers to a storage"):
        inflate_plain(BlobRecord(False, NodeRef(ID, 8)))


def test_two_records_of_one_node_have_memory_of_their_own() -> None:
    record = _tensor(storage=NodeRef(ID, 8))
    loaded: Any = _inflate([record, record])
    loaded[0][0] = 1
    assert loaded[1][0] == 0


def test_a_stored_name_imports_no_module_and_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "booby_trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.find_spec("booby_trap")
    assert spec is not None and spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)

    class Trap(tuple):  # type: ignore[type-arg]
        _fields = ("x",)
        ran = False

        def __new__(cls, *_: object) -> Any:
            Trap.ran = True
            raise AssertionError

    Trap.__module__, Trap.__qualname__ = "trapped", "Trap"
    trapped = type(sys)("trapped")
    trapped.Trap = Trap  # type: ignore[attr-defined]
    trapped.__getattr__ = lambda name: pytest.fail("looked up")  # type: ignore[method-assign, assignment]
    monkeypatch.setitem(sys.modules, "booby_trap_lazy", lazy)
    monkeypatch.setitem(sys.modules, "trapped", trapped)
    fields = Map((("x", 1),))
    for where in (
        "booby_trap:C",
        "booby_trap_lazy:C",
        "trapped:Missing",
        "trapped:Trap.Inner",
        "os:system",
        "::",
        ":C",
    ):
        name = f"named_tuple:{where}"
        try:
            loaded: Any = _inflate(Typed(name, fields))
        except CorruptObjectError:
            continue
        assert type(loaded).__mro__[1] is tuple and loaded.x == 1
    assert "booby_trap" not in sys.modules
    assert type(_inflate(Typed("named_tuple:trapped:Trap", fields))) is Trap
    assert not Trap.ran


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)
@given(states(), st.data())
def test_a_damaged_tree_gives_a_state_or_a_typed_error(state: object, data: st.DataObject) -> None:
    store = DictStore()
    root = store.save(state)
    victim = data.draw(st.sampled_from(sorted(store.trees)))
    raw = bytearray(store.trees[victim])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    store.trees[victim] = bytes(raw)
    try:
        memory = Memory.for_value(store.value(root))
        for target in memory.targets:
            target.out[:] = bytes(len(target.out))
        inflate(store.value(root), memory)
    except (CorruptObjectError, NewerFormatError, UnsupportedTypeError, KeyError, NoMemoryError) as error:
        # an id that leads nowhere is the dict's own KeyError
        assert not isinstance(error, KeyError) or isinstance(error.args[0], bytes)
