"""load(out=...): memory that fits is used again, nothing else is written to, and what was shared is shared."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from casckpt.tensors.repository import Repository
from tests.equality import assert_same


def _repo(state: Any) -> Repository:
    made = Repository(MemoryStore(chunk_size=1024))
    made.commit(state)
    return made


def _tensors() -> dict[str, Any]:
    return {
        "plain": torch.rand(5000),
        "deep": [{"a.b": torch.rand(50, 60).t()}, (torch.arange(3000),)],
        "ordered": OrderedDict(w=torch.rand(2000)),
        "parameter": torch.nn.Parameter(torch.rand(2000)),
        "wants": torch.rand(2000, dtype=torch.float64).requires_grad_(),
    }


def _leaves(state: Any) -> list[torch.Tensor]:
    return [
        state["plain"],
        state["deep"][0]["a.b"],
        state["deep"][1][0],
        state["ordered"]["w"],
        state["parameter"],
        state["wants"],
    ]


def test_tensors_lie_where_those_of_the_same_path_lay() -> None:
    state = _tensors()
    repo = _repo(state)
    out = repo.load()
    with torch.no_grad():
        for tensor in _leaves(out):
            tensor.zero_()
    places = [tensor.data_ptr() for tensor in _leaves(out)]
    loaded = repo.load(out=out)
    assert_same(loaded, state)
    assert [tensor.data_ptr() for tensor in _leaves(loaded)] == places
    assert all(new is not old for new, old in zip(_leaves(loaded), _leaves(out), strict=True))
    assert loaded["deep"] is not out["deep"]
    assert_same(out, state)


def test_the_storages_of_what_is_loaded_and_restored_can_still_be_resized() -> None:
    repo = _repo({"large": torch.rand(5000), "small": torch.rand(5)})
    loaded = repo.load()
    live = {"large": torch.zeros(5000), "small": torch.zeros(5)}
    repo.restore(live)
    again = repo.load(out=loaded)
    for tensor in (*loaded.values(), *live.values(), *again.values()):
        assert tensor.untyped_storage().resizable()
        tensor.untyped_storage().resize_(0)


def test_what_autograd_kept_of_the_old_tensors_is_not_taken_for_the_same() -> None:
    repo = _repo(_tensors())
    out = repo.load()
    square = (out["wants"] * out["wants"]).sum()
    repo.load(out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()
    loaded = repo.load(out=out)
    (loaded["wants"] * loaded["wants"]).sum().backward()
    assert torch.equal(loaded["wants"].grad, 2 * loaded["wants"].detach())


@pytest.mark.parametrize(
    "other",
    [
        lambda saved: torch.zeros(4999),
        lambda saved: torch.zeros(50, 100),
        lambda saved: torch.zeros(5000, dtype=torch.int32),
        lambda saved: torch.zeros(10_000)[::2],
        lambda saved: torch.zeros(5001)[:5000],
        lambda saved: torch.zeros(5001)[1:],
        lambda saved: torch.zeros(1).expand(5000),
        lambda saved: torch.zeros(5000, device="meta"),
        lambda saved: torch.zeros(5000).to_sparse(),
        lambda saved: torch.zeros(5000, dtype=torch.complex64).conj(),
        lambda saved: np.zeros(5000, np.float32),
        lambda saved: [torch.zeros(5000)],
        lambda saved: None,
    ],
)
def test_what_does_not_fit_exactly_is_left_as_it_is(other: Callable[[torch.Tensor], Any]) -> None:
    saved = {"plain": torch.rand(5000)}
    repo = _repo(saved)
    out = {"plain": other(saved["plain"])}
    whole = out["plain"]._base if isinstance(out["plain"], torch.Tensor) else None
    loaded = repo.load(out=out)
    assert_same(loaded, saved)
    if whole is not None and not whole.is_meta:
        assert not whole.any()
    item = out["plain"]
    if isinstance(item, torch.Tensor) and item.layout is torch.strided and not item.is_meta:
        assert not item.any()


def test_the_gaps_between_what_a_strided_tensor_shows_are_never_written() -> None:
    table = torch.zeros(2000, 8)
    repo = _repo({"w": torch.rand(2000, 8)[:, :5]})
    out = {"w": table[:, :5]}
    loaded = repo.load(out=out)
    assert loaded["w"].data_ptr() != table.data_ptr()
    assert not table.any()


def test_memory_behind_what_a_tensor_shows_is_never_written() -> None:
    weight = torch.rand(8000)
    for saved in ({"head": weight[:4000], "all": weight}, {"head": weight[4000:], "all": weight}):
        whole = torch.zeros(8000)
        loaded = _repo(saved).load(out={"head": whole[:4000] if saved["head"].storage_offset() == 0 else whole[4000:]})
        assert_same(loaded, saved)
        assert not whole.any()
    overlapping = torch.zeros(8000).as_strided((2000, 4), (1, 1))
    assert_same(_repo({"w": weight.view(2000, 4)}).load(out={"w": overlapping}), {"w": weight.view(2000, 4)})
    assert not overlapping.any()


def test_two_saved_storages_never_get_one_memory() -> None:
    saved = {"a": torch.rand(5000), "b": torch.rand(5000)}
    repo = _repo(saved)
    tied = torch.zeros(5000)
    loaded = repo.load(out={"a": tied, "b": tied})
    assert_same(loaded, saved)
    assert loaded["a"].data_ptr() == tied.data_ptr()

    array = np.zeros(7000, np.float32)  # two storages of torch over one memory, the one further on than the other
    for first, second in ((0, 0), (0, 2000), (2000, 0)):
        views = {
            "a": torch.from_numpy(array[first : first + 5000]),
            "b": torch.from_numpy(array[second : second + 5000]),
        }
        assert_same(repo.load(out=views), saved)


def test_tensors_saved_over_one_storage_share_it_again_whatever_they_are_loaded_into() -> None:
    weight = torch.rand(5000)
    saved = {"embed": weight, "head": weight, "row": weight[10:2000]}
    repo = _repo(saved)
    apart = {"embed": torch.zeros(5000), "head": torch.zeros(5000), "row": torch.zeros(1990)}
    loaded = repo.load(out=apart)
    assert_same(loaded, saved)
    assert loaded["head"].data_ptr() == apart["embed"].data_ptr()
    assert not apart["head"].any()
    assert not apart["row"].any()


def test_globs_take_and_write_only_what_they_match() -> None:
    saved = {"a": torch.rand(5000), "b": torch.rand(5000)}
    out = {"a": torch.zeros(5000), "b": torch.zeros(5000)}
    loaded = _repo(saved).load(paths="a", out=out)
    assert_same(loaded, {"a": saved["a"]})
    assert loaded["a"].data_ptr() == out["a"].data_ptr()
    assert not out["b"].any()


def test_on_another_device_nothing_of_it_is_used() -> None:
    out = {"a": torch.zeros(5000)}
    loaded = _repo({"a": torch.rand(5000)}).load(device="meta", out=out)
    assert loaded["a"].is_meta
    assert not out["a"].any()


def test_an_error_leaves_whatever_is_not_given_out_as_it_was() -> None:
    saved = {"a": torch.rand(5000), "b": torch.rand(5000)}
    repo = _repo(saved)
    held = repo.store._contents[Space.NODE]  # type: ignore[attr-defined]
    held[next(iter(held))] = b"damaged"
    out = {"a": torch.zeros(5000), "b": torch.zeros(5000)}
    with pytest.raises(CorruptObjectError):
        repo.load(out=out)
    assert not out["a"].any(), "nodes are looked at before memory is"
    assert not out["b"].any()


_pieces = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sampled_from([20, 21, 60]), st.sampled_from([1, 2])),
    max_size=4,
)


def _of(pieces: list[tuple[str, int, int, int]], base: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors by name, each a copy of its own or a view of the base: in the end two views of one storage."""
    made = {}
    for name, start, size, step in pieces:
        piece = base[start * 100 : (start + size) * 100 : step]
        made[name] = piece.clone() if start % 3 == 0 else base if start % 3 == 1 else piece
    return made


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(_pieces, _pieces)
def test_any_state_into_any_other_is_the_saved_one_and_only_what_it_shows_was_written(
    saved: list[tuple[str, int, int, int]], held: list[tuple[str, int, int, int]]
) -> None:
    state, base = _of(saved, torch.rand(6000)), torch.zeros(6000)
    out = _of(held, base)
    loaded = _repo(state).load(out=out)
    assert_same(loaded, state)
    used = {tensor.untyped_storage().data_ptr() for tensor in loaded.values()}
    for tensor in (*out.values(), base):
        assert not tensor.any() or tensor.untyped_storage().data_ptr() in used
    assert not base.any() or any(
        len(tensor) == len(base) and tensor.data_ptr() == base.data_ptr() for tensor in out.values()
    )
