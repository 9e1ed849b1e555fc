"""casckpt export as people meet it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import casckpt as package
from casckpt.tensors.repository import Repository
from tests.cli.conftest import Casckpt
from tests.equality import assert_same


def state(number: float) -> dict[str, Any]:
    return {"model": {"w.x": torch.full((3, 2), number)}, "optimizer": {"state": {0: torch.ones(2)}, "lr": 0.1}}


@pytest.fixture
def export(tmp_path: Path, casckpt: Casckpt) -> Casckpt:
    """`casckpt export` at a store of two commits, steps 1 and 2."""
    package.save(state(1.0), tmp_path / "run", step=1, metrics={"loss": 1.0})
    package.save(state(2.0), tmp_path / "run", step=2, metrics={"loss": 2.0})
    return lambda *arguments: casckpt("-C", tmp_path / "run", "export", *arguments)


def test_the_newest_state_or_another_is_written_whole(tmp_path: Path, export: Casckpt) -> None:
    ran = export("all.pt")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("all.pt has 2 tensors of ")
    assert "(step 2): " in ran.out
    assert_same(torch.load(tmp_path / "all.pt", weights_only=True), state(2.0))
    assert export("best:loss:min", "best.pt").code == 0
    assert_same(torch.load(tmp_path / "best.pt", weights_only=True), state(1.0))


def test_a_part_or_what_globs_choose_is_written(tmp_path: Path, export: Casckpt) -> None:
    assert export("step:1", "w.safetensors", "--part", "model").code == 0
    assert_same(safetensors.torch.load_file(tmp_path / "w.safetensors"), state(1.0)["model"])
    assert export("o.safetensors", "--path", "optimizer.*").code == 0
    assert set(safetensors.torch.load_file(tmp_path / "o.safetensors")) == {"optimizer.state.0"}


def test_programs_read_what_was_written(tmp_path: Path, export: Casckpt) -> None:
    ran = export("out", "--json", "--max-shard-size", "1K")
    assert ran.json["files"] == [str(tmp_path / "out" / "model.safetensors")]
    assert ran.json["bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert (ran.json["tensors"], ran.json["commit"]["step"]) == (1, 2)
    assert "config.json" in ran.json["notes"][0]


def test_what_is_missing_for_from_pretrained_is_said_beside_the_result(export: Casckpt) -> None:
    ran = export("out")
    assert ran.code == 0
    assert "config.json" in ran.err
    assert "config.json" not in ran.out


def test_shards_are_counted(tmp_path: Path, export: Casckpt) -> None:
    assert "in 3 files" in export("w.safetensors", "--max-shard-size", "20").out
    assert (tmp_path / "w.safetensors.index.json").is_file()


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path: Path, export: Casckpt) -> None:
    (tmp_path / "w.pt").write_bytes(b"mine")
    ran = export("w.pt")
    assert (ran.code, ran.out) == (9, "")
    assert "w.pt: is there already" in ran.err
    assert "--overwrite" in ran.err
    assert (tmp_path / "w.pt").read_bytes() == b"mine"
    assert export("w.pt", "--overwrite").code == 0
    assert_same(torch.load(tmp_path / "w.pt", weights_only=True), state(2.0))


def test_what_cannot_be_is_one_line_with_a_code(export: Casckpt) -> None:
    for arguments, code, named in (
        (["w.foo"], 9, ".foo"),
        (["none/w.pt"], 9, "none"),
        (["w.pt", "--part", "nope"], 9, "'nope'"),
        (["nope", "w.pt"], 4, "'nope'"),
        (["w.pt", "--max-shard-size", "5G"], 9, "safetensors"),
    ):
        ran = export(*arguments)
        assert ran.code == code, arguments
        assert named in ran.err
        assert ran.err.startswith("casckpt: ")
        assert ran.err.count("\n") == 1
        assert ran.out == ""
    for wrong in (["a", "b", "c"], [], ["w.pt", "--format", "gguf"], ["w.pt", "--max-shard-size", "big"]):
        assert export(*wrong).code == 2


def test_a_leaf_that_the_format_does_not_hold_is_named(tmp_path: Path, casckpt: Casckpt) -> None:
    package.save({"model": {"w": torch.ones(2).bfloat16()}}, tmp_path / "run")
    ran = casckpt("-C", tmp_path / "run", "export", "w.npz")
    assert ran.code == 3
    assert "at model.w: numpy has no bfloat16" in ran.err
    assert not (tmp_path / "w.npz").exists()


def test_an_interrupt_says_that_the_file_is_whole_or_as_it_was(
    export: Casckpt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*arguments: object, progress: Any, **options: object) -> None:
        progress("writing w.pt", 1, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Repository, "export", interrupt)
    ran = export("w.pt")
    assert ran.code == 130
    assert "w.pt is whole, or as it was" in ran.err
