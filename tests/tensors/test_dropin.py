"""casckpt.save and casckpt.load: as torch.save and torch.load, but that a target names a store and a place in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import casckpt
from casckpt.errors import InvalidRefNameError, StoreNotFoundError, UnknownRevisionError
from casckpt.tensors.dropin import split
from tests.equality import assert_same


def state(number: float) -> dict[str, object]:
    weight = torch.full((2000,), float(number))
    return {"model": {"wte": weight, "head": weight}, "step": int(number)}


def test_what_was_saved_is_loaded_by_the_same_words(tmp_path: Path) -> None:
    target = f"{tmp_path}/run@main"
    first = casckpt.save(state(1), target, "first", step=1, metrics={"loss": 2.0}, meta={"git": "a1"})
    casckpt.save(state(2), target)
    assert (first.message, first.step, first.metrics, first.meta) == ("first", 1, {"loss": 2.0}, {"git": "a1"})
    assert_same(casckpt.load(target), state(2))
    assert_same(casckpt.load(f"{tmp_path}/run@main~1"), state(1))
    assert_same(casckpt.load(f"{tmp_path}/run@main@{{1}}"), state(1))
    assert_same(casckpt.load(f"{tmp_path}/run@{first.id[:8]}", paths="model.wte"), {"model": {"wte": torch.ones(2000)}})


def test_without_a_branch_it_is_the_current_one(tmp_path: Path) -> None:
    casckpt.save(state(1), tmp_path / "run")
    with casckpt.open(tmp_path / "run") as repo:
        repo.switch("try", create=True)
    casckpt.save(state(2), tmp_path / "run")
    assert_same(casckpt.load(tmp_path / "run"), state(2))
    assert_same(casckpt.load(tmp_path / "run@main"), state(1))


def test_a_branch_that_is_not_there_begins_with_what_is_saved(tmp_path: Path) -> None:
    casckpt.save(state(1), tmp_path / "run")
    commit = casckpt.save(state(2), tmp_path / "run@ema")
    assert (commit.branch, commit.parents) == ("ema", ())
    assert_same(casckpt.load(tmp_path / "run@ema"), state(2))
    assert_same(casckpt.load(tmp_path / "run"), state(1))


def test_load_makes_no_store_and_save_makes_none_for_a_bad_name(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        casckpt.load(tmp_path / "run@main")
    for name in ("main~2", "", "a b", "step:3"):
        with pytest.raises(InvalidRefNameError):
            casckpt.save(state(1), f"{tmp_path}/run@{name}")
    assert not list(tmp_path.iterdir())
    casckpt.save(state(1), tmp_path / "run")
    with pytest.raises(UnknownRevisionError, match="nope"):
        casckpt.load(tmp_path / "run@nope")


@pytest.mark.parametrize("place", ["cpu", "meta", torch.device("meta")])
def test_all_tensors_go_to_the_device_and_stay_tied(tmp_path: Path, place: object) -> None:
    casckpt.save({**state(1), "list": [torch.ones(2), torch.arange(6.0).view(2, 3).T]}, tmp_path / "run")
    loaded = casckpt.load(tmp_path / "run", place)
    wte, head = loaded["model"]["wte"], loaded["model"]["head"]
    assert {tensor.device for tensor in (wte, head, *loaded["list"])} == {torch.device(place)}  # type: ignore[arg-type]
    assert wte.untyped_storage()._cdata == head.untyped_storage()._cdata
    assert (loaded["list"][1].shape, loaded["list"][1].stride()) == ((3, 2), (1, 3))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_tensors_go_to_a_device_without_memory_too(tmp_path: Path, layout: torch.layout) -> None:
    casckpt.save({"s": torch.eye(3).to_sparse(layout=layout)}, tmp_path / "run")
    loaded = casckpt.load(tmp_path / "run", "meta")["s"]
    assert (loaded.device.type, loaded.layout, loaded.shape) == ("meta", layout, (3, 3))


def test_a_device_that_is_none_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    casckpt.save(state(1), tmp_path / "run")
    with pytest.raises(RuntimeError, match="nowhere"):
        casckpt.load(tmp_path / "run", "nowhere")


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("runs/gpt", ("runs/gpt", None)),
        ("runs/gpt@main", ("runs/gpt", "main")),
        ("me@host/gpt@main~2", ("me@host/gpt", "main~2")),
        ("runs/gpt@main@{1}", ("runs/gpt", "main@{1}")),
        (Path("runs/gpt@try/lr"), ("runs/gpt", "try/lr")),
        ("runs/gpt@best:loss:min", ("runs/gpt", "best:loss:min")),
        ("runs/gpt@", ("runs/gpt", "")),
    ],
)
def test_a_target_is_split_at_the_last_sign_that_names_a_place(target: object, parts: tuple[str, str | None]) -> None:
    assert split(target) == parts  # type: ignore[arg-type]


def test_a_folder_with_the_sign_in_its_name_is_no_store_with_a_branch(tmp_path: Path) -> None:
    place = tmp_path / "me@host"
    place.mkdir()
    casckpt.save(state(1), place / "runs")
    casckpt.save(state(2), f"{place}/runs@try/lr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["me@host"]
    assert_same(casckpt.load(place / "runs"), state(1))
    assert_same(casckpt.load(f"{place}/runs@try/lr"), state(2))
