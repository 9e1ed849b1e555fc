"""flatten and inflate are inverses: every leaf that can be saved comes back equal, with type."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tests.equality import assert_same
from tests.strategies import arrays, states, tensors
from tests.tensors.dict_store import DictStore, round_trip

relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=200)


@relaxed
@given(states())
def test_every_state_comes_back_the_same(state: object) -> None:
    assert_same(state, round_trip(state))


@relaxed
@given(tensors())
def test_every_tensor_comes_back_the_same(tensor: object) -> None:
    assert_same([tensor], round_trip([tensor]))


@relaxed
@given(arrays())
def test_every_array_comes_back_the_same(array: object) -> None:
    assert_same(array, round_trip(array))


@relaxed
@given(states())
def test_what_comes_back_is_stored_under_the_same_id(state: object) -> None:
    store = DictStore()
    root = store.save(state)
    assert store.save(store.load(root)) == root
