"""Files of others are read as they are, and ours are read by others without casckpt."""

from __future__ import annotations

import json
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from casckpt import Keep
from casckpt.errors import ImportFormatError, PrunedCommitError, ReleasedPartError
from casckpt.tensors.formats import read_state
from casckpt.tensors.formats.write import write_state
from casckpt.tensors.repository import Repository
from tests.equality import assert_same


def model_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"layers.0.weight": torch.randn(4, 3), "layers.0.bias": torch.randn(4), "count": torch.tensor(3.0)}


# -- safetensors -------------------------------------------------------------------------------------------------------


def test_their_safetensors_file_is_a_flat_dict_with_its_metadata_kept(tmp_path: Path, model_repo: Repository) -> None:
    state = {"b": torch.randn(3).bfloat16(), "a": torch.arange(4), "f": torch.ones(2).to(torch.float8_e4m3fn)}
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    safetensors.torch.save_file(state, theirs, {"author": "ada", "format": "pt"})
    commit = model_repo.import_file(theirs)
    loaded = model_repo.load()
    assert set(loaded) == set(state)
    assert_same({name: loaded[name] for name in state}, state)
    assert commit.meta["file_metadata"] == {"author": "ada"}
    assert (commit.message, commit.step) == ("imported theirs.safetensors", None)
    found = theirs.stat()
    assert commit.meta["source"] == {
        "name": "theirs.safetensors",
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "format": "safetensors",
    }
    model_repo.export("HEAD", ours)
    with safe_open(ours, "pt") as file:
        assert file.metadata() == {"author": "ada", "format": "pt"}
    assert safetensors.torch.load_file(ours).keys() == state.keys()


def test_much_metadata_is_kept_too(tmp_path: Path, model_repo: Repository) -> None:
    log = {"ss_tag_frequency": "a tag, " * 100_000, "author": "ada"}
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "lora.safetensors", log)
    model_repo.import_file(tmp_path / "lora.safetensors")
    model_repo.export("HEAD", tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", **log}


def test_every_dtype_of_theirs_is_read(tmp_path: Path) -> None:
    for code, dtype in safetensors.torch._TYPES.items():
        tensor = torch.arange(16, dtype=torch.uint8).remainder(2).view(dtype)
        state = {"w": tensor, "none": torch.empty(0, 3).to(dtype), "one": tensor[:1].clone().reshape(())}
        safetensors.torch.save_file(state, tmp_path / f"{code}.safetensors")
        assert_same(
            dict(sorted(read_state(tmp_path / f"{code}.safetensors").state.items())), dict(sorted(state.items()))
        )


def test_a_flat_dict_is_written_plain(tmp_path: Path) -> None:
    write_state(model_state(), tmp_path / "w.safetensors", "safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert_same(
        dict(sorted(safetensors.torch.load_file(tmp_path / "w.safetensors").items())),
        dict(sorted(model_state().items())),
    )


def test_every_tensor_lies_at_a_multiple_of_the_size_of_its_elements(tmp_path: Path) -> None:
    state = {"b": torch.ones(3, dtype=torch.uint8), "h": torch.ones(1).bfloat16(), "d": torch.ones(2).double()}
    write_state(state, tmp_path / "w.safetensors", "safetensors")
    raw = (tmp_path / "w.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    for name, tensor in state.items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0, name
    assert_same(read_state(tmp_path / "w.safetensors").state, state)


def test_any_state_is_read_by_their_library_under_readable_names(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {
        "model": {"wte.weight": whole, "head.weight": whole, "bias": whole[1], "t": whole.T},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        "array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "odd": torch.zeros(2, dtype=torch.complex128),
    }
    write_state(state, tmp_path / "s.safetensors", "safetensors")
    theirs = safetensors.torch.load_file(tmp_path / "s.safetensors")
    assert sorted(theirs) == [
        *("a.b", "a.b~2", "array", "model.bias", "model.t", "model.wte.weight", "odd"),
        "optimizer.state.0.exp_avg",
    ]
    assert torch.equal(theirs["model.t"], whole.T)
    assert torch.equal(theirs["model.bias"], whole[1])
    assert np.array_equal(theirs["array"].numpy(), state["array"])  # type: ignore[arg-type]
    assert (theirs["a.b"].item(), theirs["a.b~2"].item()) == (1, 0)
    assert theirs["odd"].shape == (2, 16)
    with safe_open(tmp_path / "s.safetensors", "pt") as file:
        assert file.metadata()["model.head.weight"] == "model.wte.weight"


def test_what_save_model_notes_of_ties_is_tied_again(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.wte.weight

    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "m.safetensors"))
    state = read_state(tmp_path / "m.safetensors").state
    assert set(state) == {"wte.weight", "head.weight"}
    assert state["wte.weight"].untyped_storage()._cdata == state["head.weight"].untyped_storage()._cdata
    write_state(dict(model.state_dict()), tmp_path / "ours.safetensors", "safetensors")
    again = Tied()
    safetensors.torch.load_model(again, tmp_path / "ours.safetensors")
    assert torch.equal(again.head.weight, model.head.weight)


def test_their_shards_and_ours_are_the_same_to_readers(tmp_path: Path, model_repo: Repository) -> None:
    state = {f"layers.{n}.weight": torch.full((100,), float(n)) for n in range(7)}
    model_repo.commit({"model": state, "step": 1})
    report = model_repo.export("HEAD", tmp_path / "w.safetensors", part="model", max_shard_size=1000)
    assert [Path(file).name for file in report.files] == [
        *(f"w-{number:05}-of-00004.safetensors" for number in range(1, 5)),
        "w.safetensors.index.json",
    ]
    assert report.tensors == 7
    assert report.bytes == sum(Path(file).stat().st_size for file in report.files)
    together: dict[str, Any] = {}
    for file in report.files[:-1]:
        together |= safetensors.torch.load_file(file)
    assert_same(together, state)
    assert_same(read_state(tmp_path / "w.safetensors.index.json").state, state)


def test_a_state_of_any_kind_goes_through_shards(tmp_path: Path, model_repo: Repository) -> None:
    whole = torch.arange(1000.0).reshape(10, 100)
    state = {"m": {"a": whole, "tied": whole, "row": whole[3], "t": whole.T}, "lr": 0.1, (1, 2): [np.arange(900)]}
    model_repo.commit(state)
    report = model_repo.export("HEAD", tmp_path / "w.safetensors", max_shard_size=4096)
    assert len(report.files) > 3
    assert_same(read_state(tmp_path / "w.safetensors.index.json").state, state)


# -- torch -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_their_torch_file_is_read_whole(tmp_path: Path, model_repo: Repository, legacy: bool) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loss": np.float64(1.5),
        "rng": np.random.RandomState(3).get_state(),
        "tied": [model.weight, model.weight],
    }
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=not legacy)
    model_repo.import_file(tmp_path / "old.pt", "taken over", step=7, metrics={"loss": 1.5}, part="run")
    assert_same(model_repo.load(), {"run": state})
    commit = model_repo.resolve()
    assert (commit.message, commit.step, commit.metrics) == ("taken over", 7, {"loss": 1.5})
    assert commit.meta["source"]["part"] == "run"  # type: ignore[index]


def test_what_the_program_allowed_torch_to_read_changes_nothing_and_stays(tmp_path: Path) -> None:
    state = {"loss": np.float64(1.5), "a": np.arange(3.0)}
    torch.save(state, tmp_path / "a.pt")
    core = np._core.multiarray
    allowed = [core._reconstruct, core.scalar, np.ndarray, np.dtype, type(np.dtype("f8")), Path]
    with torch.serialization.safe_globals(allowed):
        for _ in range(3):
            assert_same(read_state(tmp_path / "a.pt").state, state)
        assert set(torch.serialization.get_safe_globals()) >= set(allowed)
        assert_same(torch.load(tmp_path / "a.pt", weights_only=True), state)
    before = set(torch.serialization.get_safe_globals())
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:200])
    with pytest.raises(ImportFormatError):
        read_state(tmp_path / "b.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_another_threads_own_load_is_never_given_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": np.arange(3.0)}, tmp_path / "a.pt")
    core = np._core.multiarray
    really = torch.load
    told: list[Any] = []

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        def load() -> None:
            try:
                told.append(really(tmp_path / "a.pt", weights_only=True))
            except RuntimeError as error:
                told.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
        return really(*arguments, **named)

    with torch.serialization.safe_globals([core._reconstruct, np.ndarray, np.dtype, type(np.dtype("f8"))]):
        with monkeypatch.context() as patched:
            patched.setattr(torch, "load", meanwhile)
            assert_same(read_state(tmp_path / "a.pt").state, {"a": np.arange(3.0)})
        (error,) = told
        assert isinstance(error, RuntimeError), error
        assert "in another thread" in str(error)
        assert_same(torch.load(tmp_path / "a.pt", weights_only=True), {"a": np.arange(3.0)})


def test_our_torch_file_is_read_by_torch_alone(tmp_path: Path) -> None:
    state = {"model": model_state(), "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "lr": [0.1, None]}}
    write_state(state, tmp_path / "s.pt", "torch")
    assert_same(torch.load(tmp_path / "s.pt", weights_only=True), state)


def test_a_torch_file_is_known_by_its_contents(tmp_path: Path) -> None:
    for name in ("checkpoint", "model.safetensors", "weights.npz"):
        torch.save(model_state(), tmp_path / name)
        assert read_state(tmp_path / name).format == "torch"
        assert_same(read_state(tmp_path / name).state, model_state())
    safetensors.torch.save_file(model_state(), tmp_path / "m.pt")
    assert read_state(tmp_path / "m.pt").format == "safetensors"


# -- npz ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_their_npz_is_a_flat_dict_of_tensors_where_torch_has_the_dtype(tmp_path: Path, save: Any) -> None:
    arrays = {
        "w": np.arange(6.0).reshape(2, 3),
        "layers/0": np.asfortranarray(np.arange(6, dtype="<i4").reshape(2, 3)),
        "mask": np.array([True, False]),
        "scalar": np.float32(2.5),
        "none": np.empty((0, 3)),
        "text": np.array(["a", "bc"]),
        "swapped": np.arange(3, dtype=">f4"),
        "fields": np.zeros(2, [("é", "f4"), ("b", "i8")]),
        "wide": np.zeros(2, [("中", "f4")]),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Stored array in format 3.0")
        save(tmp_path / "a.npz", **arrays)
    state = read_state(tmp_path / "a.npz").state
    assert list(state) == list(arrays)
    for name, array in arrays.items():
        torchy = name not in ("text", "swapped", "fields", "wide")
        assert isinstance(state[name], torch.Tensor if torchy else np.ndarray), name
        got = state[name].numpy() if torchy else state[name]
        assert (got.dtype, got.shape) == (np.asarray(array).dtype, np.shape(array)), name
        assert np.array_equal(got, array), name


def test_our_npz_is_read_by_numpy_alone(tmp_path: Path) -> None:
    write_state({"model": model_state(), "lr": 0.1}, tmp_path / "s.npz", "npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert set(file) == {f"model.{name}" for name in model_state()} | {"__casckpt__"}
        assert np.array_equal(file["model.layers.0.weight"], model_state()["layers.0.weight"].numpy())
    write_state(model_state(), tmp_path / "flat.npz", "npz")
    with np.load(tmp_path / "flat.npz", allow_pickle=False) as file:
        assert set(file) == set(model_state())


# -- what is exported --------------------------------------------------------------------------------------------------


def test_a_part_keeps_its_own_names_and_globs_choose_among_them(tmp_path: Path, model_repo: Repository) -> None:
    state = {"model": model_state(), "opt.x": {"m": torch.ones(1)}}
    model_repo.commit(state)
    model_repo.export("HEAD", tmp_path / "m.safetensors", part="model")
    assert set(safetensors.torch.load_file(tmp_path / "m.safetensors")) == set(model_state())
    model_repo.export("HEAD", tmp_path / "b.safetensors", part="model", paths="*.bias")
    assert set(safetensors.torch.load_file(tmp_path / "b.safetensors")) == {"layers.0.bias"}
    model_repo.export("HEAD", tmp_path / "o.safetensors", paths=["model.*.weight"])
    assert set(safetensors.torch.load_file(tmp_path / "o.safetensors")) == {"model.layers.0.weight"}
    for part in ("opt.x", r"opt\.x"):
        model_repo.export("HEAD", tmp_path / "x.safetensors", part=part, overwrite=True)
        assert set(safetensors.torch.load_file(tmp_path / "x.safetensors")) == {"m"}


def test_what_retention_gave_up_is_told_and_what_is_left_goes_out(tmp_path: Path, model_repo: Repository) -> None:
    for step in range(3):
        model_repo.commit({"model": model_state(), "optimizer": {"m": torch.ones(1)}}, step=step)
    model_repo.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    target = tmp_path / "w.safetensors"
    with pytest.raises(PrunedCommitError):
        model_repo.export("main~2", target)
    for options in ({}, {"part": "optimizer"}, {"paths": ["optimizer.*", "model.*"]}):
        with pytest.raises(ReleasedPartError, match="optimizer"):
            model_repo.export("main~1", target, **options)
    assert not target.exists()
    model_repo.export("main~1", target, part="model")
    assert set(safetensors.torch.load_file(target)) == set(model_state())
    model_repo.export("main~1", tmp_path / "folder")
    assert_same(read_state(tmp_path / "folder").state["model"], model_state())


def test_what_is_read_lies_in_a_map_of_the_file_and_does_not_change_it(tmp_path: Path) -> None:
    for name, format in (("a.safetensors", "safetensors"), ("a.pt", "torch"), ("a.npz", "npz")):
        write_state({"w": torch.ones(1 << 20), "v": torch.ones(3)}, tmp_path / name, format)
        before = (tmp_path / name).read_bytes()
        state = read_state(tmp_path / name).state
        state["w"].zero_()
        assert str(tmp_path / name) in Path("/proc/self/maps").read_text()
        assert (tmp_path / name).read_bytes() == before
        del state
