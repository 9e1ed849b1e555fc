"""Folders of transformers: what from_pretrained and Trainer wrote goes in, and comes out as they read it again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from casckpt.errors import ExportError, ImportFormatError
from casckpt.tensors.formats import read_state
from casckpt.tensors.repository import Repository
from tests.equality import assert_same


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked for but in the folder that is named."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def tiny(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=99, n_positions=16)
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        hidden_size=32,
        intermediate_size=48,
        vocab_size=99,
        max_position_embeddings=16,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(12).reshape(1, 12)).logits
    return found


def assert_same_model(first: Any, second: Any) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert torch.equal(logits(first), logits(second))


@pytest.mark.parametrize("shards", [None, 20_000])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_model_comes_back_by_from_pretrained_with_its_logits(
    tmp_path: Path, model_repo: Repository, kind: str, shards: int | None
) -> None:
    model = tiny(kind)
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_bytes(b'{"not": "read"}\n')
    commit = model_repo.import_file(tmp_path / "theirs")
    assert commit.meta["source"]["format"] == "pretrained"  # type: ignore[index]
    state = model_repo.load()
    assert set(state) == {"model", "files"}
    assert state["files"]["config.json"] == (tmp_path / "theirs" / "config.json").read_bytes()
    report = model_repo.export("HEAD", tmp_path / "ours", max_shard_size=shards)
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert names == {Path(file).name for file in report.files}
    assert ("model.safetensors" in names) == (shards is None)
    assert ("model.safetensors.index.json" in names) == (shards is not None)
    assert (tmp_path / "ours" / "tokenizer.json").read_bytes() == b'{"not": "read"}\n'
    assert not report.notes
    assert_same_model(model, type(model).from_pretrained(tmp_path / "ours"))
    again = model_repo.import_file(tmp_path / "ours")
    assert_same(model_repo.load(again.id), state)


@pytest.mark.parametrize("shards", [None, 20_000])
def test_a_state_dict_with_tied_weights_is_read_by_from_pretrained(
    tmp_path: Path, model_repo: Repository, shards: int | None
) -> None:
    model = tiny("gpt2")
    state = {"model": model.state_dict(), "files": {"config.json": model.config.to_json_string().encode()}, "step": 3}
    model_repo.commit(state)
    model_repo.export("HEAD", tmp_path / "out", max_shard_size=shards)
    assert_same_model(model, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    back = read_state(tmp_path / "out").state
    assert_same(back["model"], state["model"])
    head, wte = back["model"]["lm_head.weight"], back["model"]["transformer.wte.weight"]
    assert head.untyped_storage()._cdata == wte.untyped_storage()._cdata


@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_their_shards_are_read_and_joined(tmp_path: Path, model_repo: Repository, size: str) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    model_repo.import_file(tmp_path / "theirs")
    loaded = model_repo.load()["model"]
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    indexes = list((tmp_path / "theirs").glob("*.index.json"))
    assert bool(indexes) == (size == "20KB")
    for index in indexes:
        assert_same(read_state(index).state, loaded)


def test_bin_files_are_read_whole_or_in_shards(tmp_path: Path) -> None:
    state = {"a": torch.ones(3), "b": torch.zeros(2)}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    torch.save(state, whole / "pytorch_model.bin")
    (whole / "config.json").write_bytes(b"{}")
    assert_same(read_state(whole).state, {"model": state, "files": {"config.json": b"{}"}})
    places = {}
    for number, name in enumerate(state, 1):
        places[name] = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name]}, cut / places[name])
    (cut / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert_same(read_state(cut).state, {"model": state, "files": {}})
    assert_same(read_state(cut / "pytorch_model.bin.index.json").state, state)


def test_a_state_without_a_config_goes_out_as_weights_and_says_so(tmp_path: Path, model_repo: Repository) -> None:
    model_repo.commit({"w": torch.ones(2)})
    report = model_repo.export("HEAD", tmp_path / "out")
    assert [Path(file).name for file in report.files] == ["model.safetensors"]
    assert "config.json" in report.notes[0]
    assert_same(read_state(tmp_path / "out").state, {"model": {"w": torch.ones(2)}, "files": {}})


def test_a_folder_says_that_its_weights_are_torchs_whoever_wrote_them_first(
    tmp_path: Path, model_repo: Repository
) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors", {"format": "np", "author": "ada"})
    model_repo.import_file(tmp_path / "w.safetensors")
    model_repo.export("HEAD", tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "author": "ada"}


def test_of_a_training_state_only_the_model_and_its_files_go_out(tmp_path: Path, model_repo: Repository) -> None:
    model_repo.commit({"model": {"w": torch.ones(2)}, "files": {"config.json": b"{}"}, "optimizer": {0: torch.ones(2)}})
    model_repo.export("HEAD", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", "..", "", "a\0b", "\ud800", 3, "model.safetensors"])
def test_file_names_that_lead_elsewhere_are_refused(tmp_path: Path, model_repo: Repository, name: object) -> None:
    model_repo.commit({"model": {"w": torch.ones(2)}, "files": {name: b"hostile"}})
    (tmp_path / "deep").mkdir()
    with pytest.raises(ExportError, match="files"):
        model_repo.export("HEAD", tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]


def test_a_folder_that_is_there_is_replaced_only_when_asked_and_only_if_it_is_weights(
    tmp_path: Path, model_repo: Repository
) -> None:
    model_repo.commit({"model": {"w": torch.ones(2)}, "files": {"config.json": b"new"}})
    out = tmp_path / "out"
    out.mkdir()
    model_repo.export("HEAD", out)  # an empty one is as good as none
    (out / "config.json").write_bytes(b"old")
    (out / "stale.txt").write_bytes(b"")
    with pytest.raises(ExportError, match="there already"):
        model_repo.export("HEAD", out)
    assert (out / "config.json").read_bytes() == b"old"
    model_repo.export("HEAD", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert (out / "config.json").read_bytes() == b"new"
    (out / "sub").mkdir()
    with pytest.raises(ExportError, match="not replaced"):
        model_repo.export("HEAD", out, overwrite=True)
    home = tmp_path / "home"
    home.mkdir()
    (home / "diary.txt").write_text("dear diary")
    with pytest.raises(ExportError, match="not replaced"):
        model_repo.export("HEAD", home, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_what_is_not_taken_in_is_told(tmp_path: Path, model_repo: Repository) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"lora": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    for name in ("pytorch_model.bin", "tf_model.h5", "notes.bin"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "global_step10").mkdir()
    commit = model_repo.import_file(tmp_path)
    assert commit.meta["left_out"] == ["global_step10", "pytorch_model.bin", "tf_model.h5"]
    assert set(model_repo.load()["files"]) == {"adapter_model.safetensors", "notes.bin"}


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        ({"config.json": b"{}"}, "model.safetensors"),
        ({"adapter_config.json": b"{}"}, "adapter_model.safetensors"),
        ({"config.json": b'{"_diffusers_version": "0.30"}'}, "diffusion_pytorch_model.safetensors"),
    ],
)
def test_weights_are_called_as_the_library_calls_them_that_wrote_the_config(
    tmp_path: Path, model_repo: Repository, files: dict[str, bytes], weights: str
) -> None:
    model_repo.commit({"model": {"w": torch.ones(2)}, "files": files})
    report = model_repo.export("HEAD", tmp_path / "out")
    assert {Path(file).name for file in report.files} == {weights, *files}
    assert not report.notes
    assert_same(read_state(tmp_path / "out").state, {"model": {"w": torch.ones(2)}, "files": files})


# -- checkpoints of Trainer --------------------------------------------------------------------------------------------


def made_up(folder: Path) -> Path:
    """A checkpoint as Trainer lays it out, with what it puts there."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    save_file(dict(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    rng = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    torch.save(rng, folder / "rng_state.pth")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1234, "epoch": 0.5}))
    (folder / "config.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"\x80\x02cos\nsystem\n(S'touch /tmp/never'\ntR.")
    return folder


def test_a_trainers_checkpoint_comes_in_whole_with_its_step(tmp_path: Path, model_repo: Repository) -> None:
    folder = made_up(tmp_path)
    commit = model_repo.import_file(folder)
    assert commit.step == 1234
    state = model_repo.load()
    assert list(state) == ["model", "optimizer", "scheduler", "rng", "files"]
    assert set(state["files"]) == {"config.json", "trainer_state.json", "training_args.bin"}
    assert state["files"]["training_args.bin"].startswith(b"\x80\x02cos")
    assert_same(state["optimizer"], torch.load(folder / "optimizer.pt", weights_only=True))
    assert_same(state["rng"], torch.load(folder / "rng_state.pth", weights_only=False))


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "model.safetensors"])
def test_a_broken_file_of_a_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    folder = made_up(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(ImportFormatError, match=name):
        read_state(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ImportFormatError, match="without weights"):
        read_state(tmp_path)
