"""restore: plain data in place, exact, only what is asked for, and nothing at all where something does not fit."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casckpt.errors import (
    CorruptObjectError,
    PrunedCommitError,
    ReleasedPartError,
    RestoreMismatchError,
    UnsupportedTypeError,
)
from casckpt.history.retention import Keep
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from casckpt.tensors.repository import Repository
from tests.equality import assert_same


@pytest.fixture
def repo() -> Iterator[Repository]:
    with Repository(MemoryStore(chunk_size=1024)) as made:
        yield made


class Thing:
    """A live object with a state of its own."""

    def __init__(self, value: Any, error: Exception | None = None) -> None:
        self.value = value
        self.error = error

    def state_dict(self) -> Any:
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        if self.error is not None:
            raise self.error
        self.value = state["value"]


_DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)
_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.builds(
        lambda size, dtype, seed: torch.randint(0, 2, (size, 3), generator=torch.Generator().manual_seed(seed)).to(
            dtype
        ),
        st.sampled_from((0, 1, 5, 700)),
        st.sampled_from(_DTYPES),
        st.integers(0, 3),
    ),
    st.builds(lambda size: np.arange(size), st.integers(0, 5)),
    st.sets(st.integers(), max_size=3),
)
_states = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=2), st.integers(0, 2)), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), _states), st.dictionaries(st.sampled_from("abc"), _states))
def test_plain_data_becomes_the_saved_state_or_stays_as_it_was(saved: dict[str, Any], live: dict[str, Any]) -> None:
    with Repository(MemoryStore(chunk_size=1024)) as repo:
        repo.commit({"data": saved})
        before = copy.deepcopy(live)
        target = {"data": live}
        try:
            repo.restore(target)
        except RestoreMismatchError:
            assert_same(live, before)
        else:
            assert target["data"] is live
            assert_same(live, saved)


def test_tensors_and_containers_stay_the_objects_that_they_are(repo: Repository) -> None:
    live = {
        "t": torch.arange(1000.0),
        "list": [torch.zeros(3), {"deep": np.zeros(4)}, 1],
        "tuple": (torch.ones(2), 5),
        "set": {1, 2},
    }
    repo.commit({"data": live})
    objects = [live["t"], live["list"], live["list"][0], live["list"][1], live["list"][1]["deep"], live["set"]]
    inner = live["tuple"][0]
    saved = copy.deepcopy(live)
    live["t"].add_(1)
    live["list"][0].add_(1)
    live["list"][1]["deep"] += 1
    live["list"][2] = 9
    inner.add_(1)
    live["tuple"] = (inner, 6)
    live["set"].add(3)
    live["extra"] = 1
    pointers = [live["t"].data_ptr(), inner.data_ptr()]
    assert repo.restore({"data": live})["data"] is live
    assert_same(live, saved)
    now = [live["t"], live["list"], live["list"][0], live["list"][1], live["list"][1]["deep"], live["set"]]
    assert all(one is other for one, other in zip(objects, now, strict=True))
    assert live["tuple"][0] is inner
    assert pointers == [live["t"].data_ptr(), inner.data_ptr()]


def test_only_chunks_that_differ_are_read(repo: Repository) -> None:
    live = torch.arange(10_000, dtype=torch.int32)
    commit = repo.commit({"t": live, "piece": live[10:9000]})
    saved = live.clone()
    live[5000] = -1
    store = repo.store
    assert isinstance(store, MemoryStore)
    chunks = store._contents[Space.CHUNK]
    read: list[bytes] = []

    class Watched(dict[bytes, bytes]):
        def get(self, key: bytes, default: Any = None) -> Any:
            read.append(key)
            return super().get(key, default)

    store._contents[Space.CHUNK] = Watched(chunks)
    repo.restore({"t": live}, commit.id)
    assert torch.equal(live, saved)
    assert len(read) == 1, "one chunk alone differs"
    read.clear()
    live[5000] = -1
    repo.restore({"piece": live[10:9000]}, commit.id)
    assert torch.equal(live, saved)
    assert len(read) == 3, "that one, and those at both ends, of which a part is the tensor's"


def _spans() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name -> what is saved, and what is live, of the same shape and dtype but laid out differently."""
    base = torch.arange(6000.0)
    return {
        "a view of a larger storage": (base[700:1900], torch.zeros(1200)),
        "transposed": (base[:600].view(20, 30).t(), torch.zeros(30, 20)),
        "transposed alike": (base[:600].view(20, 30).t(), torch.zeros(20, 30).t()),
        "strided": (base[:600:2], torch.zeros(300)),
        "into gaps": (base[:300], torch.zeros(600)[::2]),
        "strided alike": (base[:600:2], torch.zeros(600)[::2]),
        "expanded": (base[:7].expand(5, 7), torch.zeros(5, 7)),
        "permuted with ones": (base[:12].view(3, 1, 4), torch.zeros(3, 4, 1).transpose(1, 2)),
        "conjugated": (torch.view_as_complex(base[:8].view(4, 2)), torch.zeros(4, dtype=torch.complex64).conj()),
        "channels last": (base[:240].view(2, 3, 5, 8), torch.zeros(2, 3, 5, 8).to(memory_format=torch.channels_last)),
        "of a subclass": (base[:9], torch.zeros(9).as_subclass(_Subclass)),
    }


class _Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("name", _spans())
def test_a_tensor_is_written_whatever_its_layout(repo: Repository, name: str) -> None:
    saved, live = _spans()[name]
    repo.commit({"t": saved, "inside": saved[1:]})
    around = live.untyped_storage().nbytes()
    stride, pointer = live.stride(), live.data_ptr()
    repo.restore({"t": live})
    assert torch.equal(live.as_subclass(torch.Tensor).resolve_conj(), saved.resolve_conj())
    assert (live.stride(), live.data_ptr(), live.untyped_storage().nbytes()) == (stride, pointer, around)


def test_bytes_of_the_storage_that_are_not_the_tensors_own_are_never_written(repo: Repository) -> None:
    whole = torch.arange(4000.0)
    repo.commit({"all": whole, "piece": whole[300:2900], "gaps": whole[1:3001:3]})
    storage = torch.full((5000,), -1.0)
    repo.restore({"piece": storage[100:2700]})
    assert torch.equal(storage[100:2700], whole[300:2900])
    assert (storage[:100] == -1).all()
    assert (storage[2700:] == -1).all()
    storage.fill_(-1)
    repo.restore({"gaps": storage[1:3001:3]})
    assert torch.equal(storage[1:3001:3], whole[1:3001:3])
    storage[1:3001:3] = -1
    assert (storage == -1).all()


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 700), size=st.integers(1, 900), seed=st.integers(0, 5), changes=st.integers(0, 3))
def test_any_piece_of_a_saved_storage_is_written_exactly(start: int, size: int, seed: int, changes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(0, 1 << 30, (1600,), generator=generator, dtype=torch.int32)
    with Repository(MemoryStore(chunk_size=256)) as repo:
        repo.commit({"whole": whole, "piece": whole[start : start + size]})
        storage = torch.full((size + 20,), -7, dtype=torch.int32)
        live = storage[10 : 10 + size]
        live.copy_(whole[start : start + size])
        for place in torch.randint(0, size, (changes,), generator=generator).tolist():
            live[place] = -1
        repo.restore({"piece": live})
        assert torch.equal(live, whole[start : start + size])
        assert (storage[:10] == -7).all()
        assert (storage[10 + size :] == -7).all()


def test_autograd_is_told_that_a_tensor_was_written(repo: Repository) -> None:
    live = torch.arange(2000.0)
    repo.commit({"big": live, "small": live[:3].clone()})
    small = torch.zeros(3)
    versions = live._version, small._version
    repo.restore({"big": live, "small": small})
    assert live._version == versions[0], "nothing differed"
    assert small._version > versions[1]
    live.zero_()
    before = live._version
    repo.restore({"big": live})
    assert live._version > before


def test_tensors_made_for_inference_are_written(repo: Repository) -> None:
    repo.commit({"t": torch.arange(5.0)})
    with torch.inference_mode():
        live = torch.zeros(5)
    repo.restore({"t": live})
    assert torch.equal(live, torch.arange(5.0))


def test_a_mapping_chooses_at_the_root_and_where_live_objects_are(repo: Repository) -> None:
    repo.commit({"a": {"thing": {"value": 1}, "x": 5, "y": 6}, "b": {"k": 1}, "c": [{"value": 7}, 8], "d": 3})
    thing, other = Thing(0), Thing(0)
    target: dict[str, Any] = {"a": {"thing": thing, "x": 0}, "c": [other, 0], "d": 0}
    repo.restore(target)
    assert target == {"a": {"thing": thing, "x": 5}, "c": [other, 8], "d": 3}
    assert (thing.value, other.value) == (1, 7)


def test_live_objects_may_stand_in_a_tuple(repo: Repository) -> None:
    repo.commit({"pair": ({"value": 1}, 5), "list": [({"value": 2}, 6)]})
    first, second = Thing(0), Thing(0)
    target = {"pair": (first, 0), "list": [(second, 6)]}
    repo.restore(target)
    assert (first.value, second.value) == (1, 2)
    assert target == {"pair": (first, 5), "list": [(second, 6)]}
    with pytest.raises(RestoreMismatchError, match="at pair: 1 live objects"):
        repo.restore({"pair": (first,)})


def test_the_whole_state_may_be_one_object(repo: Repository) -> None:
    repo.commit({"value": 4})
    thing = Thing(0)
    assert repo.restore(thing) is thing
    assert thing.value == 4
    repo.commit([torch.ones(3), 5])
    live = [torch.zeros(3), 4]
    repo.restore(live)
    assert live[0].tolist() == [1, 1, 1]  # type: ignore[attr-defined]
    assert live[1] == 5


def test_a_mapping_that_cannot_change_is_written_into(repo: Repository) -> None:
    repo.commit({"t": torch.ones(3), "n": 5})
    live = torch.zeros(3)
    repo.restore(MappingProxyType({"t": live, "n": 5}))
    assert live.tolist() == [1, 1, 1]
    with pytest.raises(RestoreMismatchError, match="at n: the live int cannot be changed in place"):
        repo.restore(MappingProxyType({"t": torch.zeros(3), "n": 6}))


@pytest.mark.parametrize(
    "live",
    [OrderedDict(b=1, a=2), defaultdict(int, {"a": 1}), Counter("aab"), {"b": {}, "a": 1}],
    ids=lambda d: type(d).__name__,
)
def test_mappings_of_every_kind_come_back_in_their_order(repo: Repository, live: dict[str, Any]) -> None:
    saved = copy.deepcopy(live)
    repo.commit({"m": live})
    live["new"] = 1
    first = next(iter(live))
    live[first] = live.pop(first)
    repo.restore({"m": live})
    assert_same(live, saved)


def test_a_choice_is_made_out_of_mappings_of_every_kind(repo: Repository) -> None:
    repo.commit(OrderedDict(a=1, inner=defaultdict(int, thing={"value": 2}, other=3)))
    thing = Thing(0)
    target = {"a": 0, "inner": {"thing": thing}}
    repo.restore(target)
    assert target == {"a": 1, "inner": {"thing": thing}}
    assert thing.value == 2


def test_keys_are_told_apart_by_their_type(repo: Repository) -> None:
    repo.commit({"m": {0: "int", "0": "str", (1, 2): "tuple", torch.float32: "dtype"}})
    live: dict[Any, Any] = {False: "bool"}
    repo.restore({"m": live})
    assert live == {0: "int", "0": "str", (1, 2): "tuple", torch.float32: "dtype"}
    assert type(next(iter(live))) is int


def test_only_what_is_chosen_is_read(repo: Repository) -> None:
    repo.commit({"small": 1, "big": torch.ones(1000)})
    store = repo.store
    assert isinstance(store, MemoryStore)
    store._contents[Space.CHUNK].clear()
    store._contents[Space.NODE].clear()
    target = {"small": 0}
    repo.restore(target)
    assert target == {"small": 1}
    with pytest.raises(CorruptObjectError):
        repo.restore({"big": torch.zeros(1000)})


def test_a_released_part_is_an_error_only_where_it_is_asked_for(repo: Repository) -> None:
    repo.commit({"model": torch.ones(300), "opt": torch.ones(300)})
    repo.commit({"model": torch.zeros(300), "opt": torch.zeros(300)})
    repo.prune(Keep(parts={"opt": Keep(last=1)}))
    repo.gc()
    live = torch.zeros(300)
    repo.restore({"model": live}, "HEAD~1")
    assert live.sum() == 300
    live.zero_()
    with pytest.raises(ReleasedPartError, match="released opt") as caught:
        repo.restore({"model": live, "opt": torch.zeros(300)}, "HEAD~1")
    assert caught.value.parts == ("opt",)
    assert live.sum() == 0
    with pytest.raises(ReleasedPartError):
        repo.restore(Thing(0), "HEAD~1")


def test_a_pruned_commit_is_named(repo: Repository) -> None:
    repo.commit({"n": 1})
    repo.commit({"n": 2})
    repo.prune(Keep(last=1))
    with pytest.raises(PrunedCommitError):
        repo.restore({"n": 0}, "HEAD~1")


_SAVED: dict[str, Any] = {
    "t": torch.ones(4, 5),
    "array": np.ones(3),
    "nested": {"list": [torch.ones(2), 1]},
    "thing": {"value": 3},
    "number": 5,
    "items": [1, 2],
}


@pytest.mark.parametrize(
    ("target", "path", "problem"),
    [
        ({"t": torch.zeros(5, 4)}, "t", r"shape \(4, 5\), the live one \(5, 4\)"),
        ({"t": torch.zeros(4, 5, dtype=torch.float16)}, "t", "dtype float32, the live one float16"),
        ({"t": torch.zeros(4, 5, device="meta")}, "t", "meta device"),
        ({"t": torch.zeros(5).expand(4, 5)}, "t", "expanded"),
        ({"array": np.zeros(4)}, "array", r"shape \(3,\)"),
        ({"array": np.zeros(3, np.float32)}, "array", "dtype float64"),
        ({"nested": {"list": [torch.zeros(3), 1]}}, "nested.list.0", "shape"),
        ({"absent": 1}, "absent", "the commit has nothing there, only t, array, nested"),
        ({"number": {"thing": Thing(0)}}, "number", "a mapping is wanted, and a value of type int was saved"),
        ({"items": [Thing(0)]}, "items", "1 live objects and values stand here, and a list of 2 in the commit"),
        ({"t": [Thing(0)]}, "t", "and a tensor in the commit"),
        ({"array": [Thing(0)]}, "array", "and an array in the commit"),
        ({"nested": [Thing(0)]}, "nested", "and a mapping in the commit"),
    ],
)
def test_nothing_is_written_where_something_does_not_fit(
    repo: Repository, target: dict[str, Any], path: str, problem: str
) -> None:
    repo.commit(_SAVED)
    first = torch.zeros(4, 5)
    array = np.zeros(3)
    thing = Thing(0)
    others = {"t": first} if "t" not in target else {"nested": {"list": [(inner := torch.zeros(2)), 0]}}
    with pytest.raises(RestoreMismatchError, match=problem) as caught:
        repo.restore({**others, "thing": thing, **target})
    assert caught.value.path == path
    with pytest.raises(RestoreMismatchError, match=problem):
        repo.restore({**target, **others, "thing": thing})
    assert first.sum() == 0
    assert array.sum() == 0
    assert thing.value == 0
    if "nested" in others:
        assert inner.sum() == 0


def test_a_storage_that_was_freed_is_not_written(repo: Repository) -> None:
    repo.commit({"t": torch.ones(4)})
    live = torch.zeros(4)
    live.untyped_storage().resize_(0)
    with pytest.raises(RestoreMismatchError, match="at t: the live tensor's storage was freed"):
        repo.restore({"t": live})
    assert live.untyped_storage().nbytes() == 0


def test_tensors_that_share_memory_must_have_been_saved_with_the_same_contents(repo: Repository) -> None:
    tied = torch.ones(2000)
    repo.commit({"a": tied, "b": tied, "c": torch.zeros(2000), "d": torch.cat([tied, tied])[:2000]})
    live = torch.full((2000,), 7.0)
    repo.restore({"a": live, "b": live, "d": live})
    assert live.sum() == 2000
    live.fill_(7)
    with pytest.raises(RestoreMismatchError, match="at c: the live tensor shares its memory"):
        repo.restore({"a": live, "c": live})
    assert live.sum() == 14_000


def test_a_tensor_and_its_conjugate_or_negative_are_not_taken_for_one(repo: Repository) -> None:
    saved = torch.randn(2000, dtype=torch.complex64)
    repo.commit({"a": saved, "b": saved, "c": saved.imag, "d": saved.imag})
    live = torch.zeros(2000, dtype=torch.complex64)
    for target in ({"a": live, "b": live.conj()}, {"c": live.imag, "d": live.conj().imag}):
        with pytest.raises(RestoreMismatchError, match="overlaps with that of"):
            repo.restore(target)
    assert not live.any()


def test_what_cannot_be_replaced_must_be_the_same(repo: Repository) -> None:
    repo.commit((1, torch.ones(3), "text"))
    live = torch.zeros(3)
    repo.restore((1, live, "text"))
    assert live.sum() == 3
    live.zero_()
    with pytest.raises(RestoreMismatchError, match="at 2: the live str cannot be changed in place"):
        repo.restore((1, live, "other"))
    with pytest.raises(RestoreMismatchError, match="at 0: the live float cannot"):
        repo.restore((1.0, live, "text"))
    with pytest.raises(RestoreMismatchError, match="at the root of the state: the live int cannot"):
        repo.restore(5)
    assert live.sum() == 0
    sparse = torch.eye(3).to_sparse()
    repo.commit((sparse,))
    repo.restore((sparse,))
    with pytest.raises(RestoreMismatchError, match="at 0: the live Tensor cannot be changed in place"):
        repo.restore(((2 * torch.eye(3)).to_sparse(),))


def test_what_cannot_be_written_in_place_is_replaced_where_it_stands_in_a_dict(repo: Repository) -> None:
    saved = {"sparse": torch.eye(3).to_sparse(), "array": np.arange(3), "was": torch.ones(2), "none": None}
    repo.commit({"d": saved})
    frozen = np.zeros(3, saved["array"].dtype)
    frozen.setflags(write=False)
    live: dict[str, Any] = {
        "sparse": torch.zeros(3, 3).to_sparse(),
        "array": frozen,
        "was": None,
        "none": torch.ones(9),
    }
    repo.restore({"d": live})
    assert_same(live, saved)
    assert frozen.sum() == 0


def test_what_was_shared_is_shared_again_among_new_objects(repo: Repository) -> None:
    tied = torch.arange(2000.0)
    repo.commit({"d": {"a": tied, "b": tied[5:]}})
    live: dict[str, Any] = {}
    repo.restore({"d": live})
    live["a"][5] = -1
    assert live["b"][0] == -1


def test_a_refusing_load_state_dict_is_named_by_its_path_and_comes_last(repo: Repository) -> None:
    repo.commit({"n": {"thing": {"value": 1}, "t": torch.ones(3)}})
    live = torch.zeros(3)
    problem = ValueError("no")
    with pytest.raises(
        RestoreMismatchError, match=r"at n\.thing: its load_state_dict refused .*ValueError: no"
    ) as caught:
        repo.restore({"n": {"thing": Thing(0, problem), "t": live}})
    assert caught.value.__cause__ is problem
    assert live.sum() == 3, "what does not go through load_state_dict was restored before"


def test_damage_in_what_load_state_dict_gets_is_found_before_anything_is_written(repo: Repository) -> None:
    repo.commit({"t": torch.ones(300), "thing": {"value": torch.arange(2000)}})
    store = repo.store
    assert isinstance(store, MemoryStore)
    frames = store._contents[Space.CHUNK]
    for oid in list(frames):
        frames[oid] = frames[oid][:-1] + bytes([frames[oid][-1] ^ 1])
    live = torch.zeros(300)
    with pytest.raises(CorruptObjectError):
        repo.restore({"t": live, "thing": Thing(0)})
    assert live.sum() == 0


def test_a_type_that_is_not_registered_here_is_named_by_its_path(repo: Repository) -> None:
    from casckpt.tensors import codecs

    class Temporary:
        pass

    codecs.register(Temporary, encode=lambda _: 1, decode=lambda _: Temporary())
    try:
        repo.commit({"a": 1, "d": {"x": [Temporary()]}})
    finally:
        codecs._by_name.pop(codecs._by_type.pop(Temporary).name)
    with pytest.raises(UnsupportedTypeError, match=r"at d\.x\.0: "):
        repo.restore({"a": 0, "d": {"x": []}})
    with pytest.raises(UnsupportedTypeError, match=r"at d\.x\.0: it was saved"):
        repo.restore({"a": 0, "d": Thing(0)})


_FLAT = torch.arange(9.0)


@pytest.mark.parametrize(
    "views",
    [
        lambda flat: (flat.view(3, 3), flat.view(3, 3).t()),
        lambda flat: (flat, flat[2:5]),
        lambda flat: (flat.view(3, 3), flat),
        lambda flat: (flat[2:5], flat[4:8]),
        lambda flat: (flat.numpy()[1:], flat.numpy()[:3]),
        lambda flat: (flat, flat.numpy()[:3]),
        lambda flat: (flat.numpy(), flat.numpy()[:]),
    ],
)
def test_memory_that_overlaps_is_written_only_if_it_was_saved_so(repo: Repository, views: Any) -> None:
    one, other = views(_FLAT.clone())
    repo.commit({"one": copy.deepcopy(one) + 1, "other": copy.deepcopy(other) + 2})
    live = torch.zeros(9)
    first, second = views(live)
    with pytest.raises(RestoreMismatchError, match="other") as caught:
        repo.restore({"one": first, "other": second})
    assert "one" in str(caught.value)
    assert not live.any()


@pytest.mark.parametrize(
    "views",
    [
        lambda flat: (flat.view(3, 3), flat.view(3, 3).t()),
        lambda flat: (flat, flat[2:5]),
        lambda flat: (flat.view(3, 3), flat),
        lambda flat: (flat[2:5], flat[4:8]),
        lambda flat: (flat.view(3, 3)[:, 0], flat.view(3, 3)[:, 1]),
        lambda flat: (flat.numpy(), flat.numpy()[:]),
        lambda flat: (flat.numpy()[:4], flat.numpy()[4:]),
        lambda flat: (flat.numpy().reshape(3, 3).T, flat.numpy().reshape(3, 3).T),
        lambda flat: (flat[:0], flat.numpy()[:0]),
    ],
)
def test_memory_that_overlaps_as_it_was_saved_is_written(repo: Repository, views: Any) -> None:
    one, other = views(_FLAT.clone())
    repo.commit({"one": one, "other": other})
    target = dict(zip(("one", "other"), views(torch.zeros(9)), strict=True))
    repo.restore(target)
    assert np.array_equal(target["one"], one)
    assert np.array_equal(target["other"], other)


@pytest.mark.parametrize("make", [lambda n: {"v": n}, lambda n: [n], lambda n: {n}, lambda n: Thing(n)])
def test_one_object_in_two_places_must_have_been_saved_with_the_same_contents(repo: Repository, make: Any) -> None:
    def saved(number: Any) -> Any:
        made = make(number)
        return made.state_dict() if isinstance(made, Thing) else made

    live = make(0)
    repo.commit({"x": saved(1), "y": saved(True)})
    with pytest.raises(RestoreMismatchError, match="x"):
        repo.restore({"x": live, "y": live})
    assert_same(saved(0), live.state_dict() if isinstance(live, Thing) else live)
    repo.commit({"x": saved(1), "y": saved(1)})
    repo.restore({"x": live, "y": live})
    assert_same(saved(1), live.state_dict() if isinstance(live, Thing) else live)


def _ordered(metadata: Any = None, **items: Any) -> OrderedDict[str, Any]:
    made = OrderedDict(items)
    if metadata is not None:
        made._metadata = metadata  # type: ignore[attr-defined]
    return made


_MAPPINGS = (
    {"t": 1},
    _ordered(t=1),
    _ordered({"": {"version": 2}}, t=1),
    _ordered({"": {"version": 3}}, t=1),
    Counter(t=1),
    defaultdict(list, t=1),
    defaultdict(None, t=1),
)


class _Sub(dict[str, int]):
    pass


@pytest.mark.parametrize("saved", _MAPPINGS)
def test_a_mapping_gets_the_type_the_factory_and_the_metadata_that_were_saved(repo: Repository, saved: Any) -> None:
    repo.commit({"m": saved})
    for one in (*_MAPPINGS, _Sub(t=1)):
        live = copy.deepcopy(one)
        live["t"] = 7
        target = {"m": live, "list": [live]}
        repo.commit({"m": saved, "list": [saved]})
        repo.restore(target)
        for got in (target["m"], target["list"][0]):
            assert type(got) is type(saved)
            assert dict(got) == dict(saved)
            assert vars(got) == vars(saved) if isinstance(saved, OrderedDict) else True
            assert getattr(got, "default_factory", 0) is getattr(saved, "default_factory", 0)
            assert (got is live) == (type(live) is type(saved))


def test_tensors_in_a_mapping_of_another_type_are_written_in_place(repo: Repository) -> None:
    repo.commit({"m": {"t": torch.ones(3), "n": 1}})
    tensor = torch.zeros(3)
    target: Any = {"m": OrderedDict(t=tensor, n=0)}
    repo.restore(target)
    assert target["m"]["t"] is tensor
    assert_same(target, {"m": {"t": torch.ones(3), "n": 1}})


def test_a_mapping_of_another_type_that_cannot_be_replaced_is_refused(repo: Repository) -> None:
    repo.commit({"m": OrderedDict(n=1)})
    live = {"n": 0}
    with pytest.raises(
        RestoreMismatchError, match="at m: a dict stands here and cannot be replaced, and a OrderedDict"
    ):
        repo.restore(MappingProxyType({"m": live}))
    assert live == {"n": 0}
