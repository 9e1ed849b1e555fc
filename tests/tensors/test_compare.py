"""A diff with values says what numpy would say in one piece; a diff with a file says what a commit of it would."""

from __future__ import annotations

import math
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from casckpt.errors import RestoreMismatchError
from casckpt.history.diff import Difference
from casckpt.tensors import compare as module
from casckpt.tensors.compare import compare
from casckpt.tensors.repository import Repository
from tests.strategies import DTYPES, states

# not float8_e8m0fnu, which knows no negative numbers
NUMERIC = [name for name in DTYPES if module._NUMERIC.fullmatch(name) and name != "float8_e8m0fnu"]


def expected(old: Any, new: Any) -> dict[str, float]:
    """The figures by the book, in one piece."""
    finite = np.isfinite(old) & np.isfinite(new)
    old, new = old[finite], new[finite]
    delta = new - old
    norm, before, after = (float(np.linalg.norm(x)) for x in (delta, old, new))
    found = {
        "max_abs": float(np.abs(delta).max(initial=0)),
        "mean_abs": float(np.abs(delta).mean()) if delta.size else 0.0,
    }
    if before:
        found["relative"] = norm / before
    if before and after:
        found["cosine"] = 1 - float(np.vdot(old, new).real) / before / after
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NUMERIC), st.integers(0, 9), st.booleans(), st.data())
def test_figures_are_those_of_the_definition(name: str, seed: int, transposed: bool, data: st.DataObject) -> None:
    dtype, draw = DTYPES[name], np.random.default_rng(seed)
    shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    count = int(np.prod(shape))

    def made() -> torch.Tensor:
        if dtype.is_complex:
            raw = torch.complex(torch.from_numpy(draw.normal(size=count)), torch.from_numpy(draw.normal(size=count)))
        else:
            raw = torch.from_numpy(draw.normal(size=count) if dtype.is_floating_point else draw.integers(0, 2, count))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensor = raw.to(dtype).reshape(shape)
        return tensor.transpose(0, -1) if transposed else tensor

    old, new = made(), made()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    a, b = (tensor.to(wide).numpy().reshape(-1) for tensor in (old, new))
    held, module._PIECE = module._PIECE, data.draw(st.sampled_from([1, 2, 7, 1000]))  # type: ignore[misc]
    try:
        found = compare(old, new)
    finally:
        module._PIECE = held  # type: ignore[misc]
    assert found is not None
    assert (found.elements, found.differing) == (count, int((a != b).sum()))
    for figure, value in expected(a, b).items():
        assert getattr(found, figure) == pytest.approx(value, rel=1e-9, abs=1e-12), figure


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    nan, inf = math.nan, math.inf
    old = torch.tensor([1.0, nan, nan, inf, 2.0, 3.0])
    new = torch.tensor([1.0, nan, 5.0, inf, -inf, 4.0])
    found = compare(old, new)
    assert found is not None
    assert (found.old_nan, found.new_nan, found.old_inf, found.new_inf) == (2, 1, 1, 2)
    assert (found.elements, found.differing, found.max_abs, found.mean_abs) == (6, 3, 1.0, 0.5)
    assert found.relative == pytest.approx(1 / math.sqrt(10))


def test_integers_of_64_bits_are_subtracted_before_they_are_rounded() -> None:
    for kind in (torch.int64, np.int64, np.uint64):
        made = (lambda *items, kind=kind: torch.tensor(items, dtype=kind)) if isinstance(kind, torch.dtype) else (
            lambda *items, kind=kind: np.array(items, kind))  # fmt: skip
        found = compare(made(2**62, 5), made(2**62 + 1, 5))
        assert found is not None
        assert (found.differing, found.max_abs) == (1, 1.0)
    extremes = compare(torch.tensor([-(2**63)]), torch.tensor([2**63 - 1]))
    assert extremes is not None
    assert extremes.max_abs == 2.0**64
    high = compare(torch.tensor([2**63 - 1]).view(torch.uint64), torch.tensor([-1]).view(torch.uint64))
    assert high is not None
    assert high.max_abs == 2.0**63


def test_a_small_turn_of_a_vector_is_seen_though_cos_rounds_to_one() -> None:
    turned = compare(torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 1e-9], dtype=torch.float64))
    assert turned is not None
    assert turned.cosine == pytest.approx(5e-19)
    grown = compare(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0]))
    assert grown is not None
    assert (grown.cosine, grown.relative) == (0.0, 1.0)
    opposite = compare(torch.tensor([1.0]), torch.tensor([-1.0]))
    assert opposite is not None
    assert opposite.cosine == 2.0


@pytest.mark.parametrize("scale", [1e-200, 1e200, 1e300])
def test_numbers_whose_squares_float64_cannot_hold(scale: float) -> None:
    old = torch.tensor([3.0, 4.0], dtype=torch.float64) * scale
    found = compare(old, old + torch.tensor([0.0, 5.0], dtype=torch.float64) * scale)
    assert found is not None
    assert found.relative == pytest.approx(1.0)
    assert found.max_abs == pytest.approx(5 * scale)


def test_nothing_but_zeros_has_no_direction() -> None:
    zeros, ones = torch.zeros(3), torch.ones(3)
    found = compare(zeros, ones)
    assert found is not None
    assert (found.relative, math.isnan(found.cosine)) == (math.inf, True)
    same = compare(zeros, zeros)
    assert same == Difference(3, 0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0)


def test_what_cannot_be_compared_is_not() -> None:
    assert compare(torch.zeros(2), torch.zeros(3)) is None
    assert compare(torch.zeros(2, dtype=torch.uint8).view(torch.bits8), torch.zeros(2)) is None
    assert compare(np.array(["a"]), np.array(["b"])) is None
    assert compare("a", torch.zeros(1)) is None
    with_other = compare(torch.ones(2), torch.full((2,), 2, dtype=torch.int64))
    assert with_other is not None
    assert with_other.max_abs == 1.0


# -- between commits ---------------------------------------------------------------------------------------------------


def test_diff_with_values_between_commits(repo: Repository) -> None:
    frozen = torch.arange(3000.0)
    flat = torch.zeros(100)
    repo.commit({"m": {"w": torch.ones(1000), "frozen": frozen, "a": flat[:50], "b": flat[50:]}, "lr": 0.1})
    flat[70] = 2.0
    repo.commit({"m": {"w": torch.full((1000,), 1.5), "frozen": frozen, "a": flat[:50], "b": flat[50:]}, "lr": 0.2})
    seen: list[tuple[str, int, int]] = []
    told = {c.path: c for c in repo.diff("HEAD~1", values=True, progress=lambda *stage: seen.append(stage))}
    assert set(told) == {"m.w", "m.a", "m.b", "lr"}  # a and b share the storage that changed
    values = told["m.w"].values
    assert values is not None
    assert (values.max_abs, values.mean_abs, values.relative) == (0.5, 0.5, 0.5)
    b, a = told["m.b"].values, told["m.a"].values
    assert a is not None
    assert b is not None
    assert (a.differing, b.differing, b.max_abs) == (0, 1, 2.0)
    assert told["m.b"].shares == "m.a"
    assert told["lr"].values is None
    assert (told["lr"].old, told["lr"].new) == ("0.1", "0.2")
    assert seen[-1][1] == seen[-1][2] > 0
    assert [c.path for c in repo.diff("HEAD~1", values=True, paths="m.w")] == ["m.w"]
    assert [c.path for c in repo.diff("HEAD~1", paths=["l?", "m.b"])] == ["m.b", "lr"]


def test_only_one_pair_is_in_memory_at_a_time(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    from casckpt.tensors import compare_files

    alive: list[int] = []
    loaded: list[weakref.ref[Any]] = []
    load = compare_files._Loader.load

    def counted(self: Any, record: Any) -> Any:
        found = load(self, record)
        loaded.append(weakref.ref(found))
        alive.append(sum(ref() is not None for ref in loaded))
        return found

    monkeypatch.setattr(compare_files._Loader, "load", counted)
    repo.commit({str(n): torch.zeros(100) for n in range(5)})
    repo.commit({str(n): torch.ones(100) for n in range(5)})
    repo.diff("HEAD~1", values=True)
    assert alive == [1, 2] * 5


# -- with files --------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(40, 40)
        self.two = torch.nn.Linear(40, 40)
        self.norm = torch.nn.BatchNorm1d(40)


@pytest.fixture
def net(repo: Repository) -> Net:
    torch.manual_seed(0)
    net = Net()
    repo.commit({"model": net.state_dict(), "optimizer": {"lr": 0.1, "m": torch.zeros(500)}}, step=1)
    return net


def test_a_file_of_the_same_weights_does_not_differ(repo: Repository, net: Net, tmp_path: Path) -> None:
    plain = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file(plain, tmp_path / "model.safetensors")
    torch.save(net.state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "model.npz", **{name: tensor.numpy() for name, tensor in plain.items()})
    for file in ("model.safetensors", "model.pt", "model.npz"):
        assert repo.diff_file("HEAD", tmp_path / file) == [], file
        assert repo.diff_file("HEAD", tmp_path / file, part="model") == [], file


def test_a_file_that_differs_says_where_and_by_how_much(repo: Repository, net: Net, tmp_path: Path) -> None:
    changed = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    changed["two.weight"][3, 3] += 1
    del changed["one.bias"]
    save_file(changed, tmp_path / "model.safetensors")
    told = {c.path: c for c in repo.diff_file("HEAD", tmp_path / "model.safetensors", values=True)}
    assert {path: c.change for path, c in told.items()} == {
        "model.two\\.weight": "changed",
        "model.one\\.bias": "removed",
    }
    change = told["model.two\\.weight"]
    assert (change.chunks, change.total_chunks) == (1, 7)
    assert change.values is not None
    assert (change.values.differing, change.values.max_abs) == (1, pytest.approx(1.0))
    back = {c.path: c for c in repo.diff_file("HEAD", tmp_path / "model.safetensors", reverse=True)}
    assert back["model.one\\.bias"].change == "added"
    assert [c.path for c in repo.diff_file("HEAD", tmp_path / "model.safetensors", paths="*.one.*")] == [
        "model.one\\.bias"
    ]


def test_a_layout_that_a_file_cannot_hold_is_no_difference(repo: Repository, tmp_path: Path) -> None:
    flat = torch.arange(2000.0)
    state = {"model": {"t": flat[:1000].view(10, 100).t(), "v": flat[1000:], "p": torch.nn.Parameter(torch.ones(900))}}
    repo.commit(state)
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in state["model"].items()}, tmp_path / "m.safetensors"
    )
    assert repo.diff_file("HEAD", tmp_path / "m.safetensors") == []
    other = {name: tensor.detach().contiguous().clone() for name, tensor in state["model"].items()}
    other["v"][0] = -1
    save_file(other, tmp_path / "m.safetensors")
    (change,) = repo.diff_file("HEAD", tmp_path / "m.safetensors", values=True)
    assert change.path == "model.v"
    assert change.chunks == change.total_chunks
    assert change.values is not None
    assert change.values.differing == 1


def test_which_part_a_flat_file_stands_for_is_found_only_where_it_is_one(repo: Repository, tmp_path: Path) -> None:
    weights = {"w": torch.ones(5), "b": torch.zeros(5)}
    repo.commit({"model": weights, "ema": weights, "lr": 0.1})
    save_file(weights, tmp_path / "m.safetensors")
    with pytest.raises(RestoreMismatchError, match="model, ema"):
        repo.diff_file("HEAD", tmp_path / "m.safetensors")
    assert repo.diff_file("HEAD", tmp_path / "m.safetensors", part="ema") == []
    with pytest.raises(RestoreMismatchError, match="there is model, ema, lr"):
        repo.diff_file("HEAD", tmp_path / "m.safetensors", part="optimizer")
    torch.save({"model": weights, "ema": weights, "lr": 0.2}, tmp_path / "whole.pt")
    assert [c.path for c in repo.diff_file("HEAD", tmp_path / "whole.pt")] == ["lr"]
    assert repo.diff_file("HEAD", tmp_path / "whole.pt", part="model") == []
    save_file({"other": torch.ones(3)}, tmp_path / "other.safetensors")
    assert {c.change for c in repo.diff_file("HEAD", tmp_path / "other.safetensors")} == {"added", "removed"}


@settings(max_examples=50, deadline=None)
@given(states(), states())
def test_a_live_state_as_a_side_gives_the_diff_of_its_commit(old: Any, new: Any) -> None:
    """Hashing a state without keeping it gives the ids that a commit of it has, and so the same diff."""
    from casckpt.history.diff import changes, pairs
    from casckpt.store.memory import MemoryStore
    from casckpt.tensors.compare_files import Choice, diff_sides, side_of_state

    repo = Repository(MemoryStore(chunk_size=256))
    repo.commit(old)
    repo.commit(new)
    sides = [side_of_state(state, repo.scheme, 256) for state in (old, new)]
    assert list(changes(*sides, pairs(*sides))) == repo.diff("HEAD~1")
    with_values = repr(diff_sides(*sides, Choice(values=True)))  # nan is not equal to itself
    assert with_values == repr(repo.diff("HEAD~1", values=True))


def test_integers_with_and_without_a_sign_are_told_apart_beyond_the_digits_of_a_float() -> None:
    old, new = np.array([2**53 + 1, 7]), np.array([2**53, 7], np.uint64)
    found = compare(old, new)
    assert found is not None
    assert (found.differing, found.max_abs) == (1, 1.0)
