"""`casckpt diff`: by part, by tensor, plain values; between commits and files; which of the two a word means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import casckpt as package
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.tensors.repository import Repository
from tests.cli.conftest import Casckpt, Ran


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    """Two commits: of five tensors one is gone, one came, one has another shape, two have other elements."""
    with package.open(tmp_path / "store", chunk_size=4096) as opened:
        first = {"w": torch.ones(3000), "b": torch.ones(10), "gone": torch.ones(2), "shape": torch.ones(4)}
        opened.commit({"model": first, "optimizer": {"lr": 0.1, "name": "adam"}}, step=1)
        weight = torch.ones(3000)
        weight[2000] = 5.0
        bias = torch.ones(10)
        bias[3], bias[4], bias[5] = 3.0, math.nan, math.inf
        second = {"w": weight, "b": bias, "new": torch.ones(2), "shape": torch.ones(2, 2)}
        opened.commit({"model": second, "optimizer": {"lr": 0.2, "name": "adam"}}, step=2)
        opened.tag("one", at="step:1")
        yield opened


@pytest.fixture
def run(casckpt: Casckpt, repo: Repository) -> Casckpt:
    def with_store(*arguments: object) -> Ran:
        return casckpt("-C", repo.path, *arguments)

    return with_store


def table(out: str, title: str) -> dict[str, str]:
    """The rows of the table whose first column has that title, by their first word."""
    blocks = [block.splitlines() for block in out.split("\n\n")]
    (found,) = [block for block in blocks if block[0].startswith(title)]
    return {line.split()[0]: line.partition(" ")[2].strip() for line in found[1:]}


def test_diff_tells_parts_tensors_and_values(run: Casckpt) -> None:
    out = run("diff", "one").out
    assert out.startswith("one ")
    parts = table(out, "part")
    assert parts["model"].split()[:3] == ["5", "of", "5"]
    assert parts["optimizer"].split()[:3] == ["1", "of", "2"]
    tensors = table(out, "tensor")
    assert next(iter(tensors)) == "model.w"  # most changed bytes first
    assert "1 of 3" in tensors["model.w"]
    assert "float32 [4] → float32 [2, 2]" in tensors["model.shape"]
    assert tensors["model.new"].startswith("added: float32 [2]")
    assert tensors["model.gone"].startswith("removed: float32 [2]")
    assert table(out, "value")["optimizer.lr"].split() == ["0.1", "0.2"]
    assert max(map(len, out.splitlines())) <= 80


def test_diff_with_values_sorts_by_the_relative_difference(run: Casckpt) -> None:
    out = run("diff", "one", "HEAD", "--values").out
    tensors = table(out, "tensor")
    assert list(tensors)[:5] == ["model.gone", "model.new", "model.shape", "model.b", "model.w"]
    assert tensors["model.w"].split()[:3] == ["4.00e+00", "1.33e-03", "7.30e-02"]
    assert "model.b: nan 0 → 1, inf 0 → 1, left out of the figures" in out
    assert tensors["model.shape"] == "reshaped"
    assert max(map(len, out.splitlines())) <= 80
    found = {change["path"]: change for change in run("diff", "one", "--values", "--json").json["changes"]}
    assert found["model.b"]["values"]["differing"] == 3
    assert found["model.w"]["values"]["relative"] == pytest.approx(4 / math.sqrt(3000))
    assert found["model.shape"]["values"] is None


def test_globs_parts_and_limits(run: Casckpt) -> None:
    def paths(*arguments: object) -> set[str]:
        return {change["path"] for change in run("diff", *arguments, "--json").json["changes"]}

    assert paths("one", "*.[bw]") == {"model.b", "model.w"}
    assert paths("one", "HEAD", "model.w", "optimizer") == {"model.w", "optimizer.lr"}
    assert paths("one", "--part", "optimizer") == {"optimizer.lr"}
    assert paths("HEAD", "HEAD") == set()
    assert run("diff", "HEAD").out.endswith("nothing differs\n")
    assert run("diff", "one", "*typo*").out.endswith("nothing that fits differs\n")
    assert "(1 of 5 tensors shown; -n 0 shows all)" in run("diff", "one", "-n", 1).out
    assert run("diff", "one", "--part", "ema").code == 7
    assert run("diff", "model.*").code == 2
    assert run("diff").code == 2
    assert run("diff", "nope").code == 4


def test_a_diff_of_commits_needs_no_torch(repo: Repository, process: Casckpt) -> None:
    source = """if True:
        import sys
        from casckpt.cli import main
        code = main(sys.argv[1:])
        assert "torch" not in sys.modules and "numpy" not in sys.modules
        sys.exit(code)
    """
    for command in (["diff", "one"], ["ls"], ["status"], ["config"], ["restore", "one", "--part", "model"]):
        ran = process("-C", repo.path, *command, source=source)
        assert (ran.code, ran.err) == (0, ""), command


def test_released_parts_are_said_to_be_left_out(at: Casckpt, history: History) -> None:
    history.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    ran = at("diff", "main~1")
    assert "left out, since it was released: optimizer" in ran.out
    assert at("diff", "main~1", "--json").json["released"] == ["optimizer"]
    assert at("diff", "main~5").code == 6


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "npz"])
def test_a_file_of_weights_is_compared_with_the_part_that_fits(
    run: Casckpt, repo: Repository, tmp_path: Path, suffix: str
) -> None:
    weights = repo.load("one")["model"]
    weights["b"] = weights["b"] * 2
    file = tmp_path / f"m.{suffix}"
    if suffix == "pt":
        torch.save(weights, file)
    elif suffix == "npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in weights.items()})
    else:
        save_file(weights, file)
    ran = run("diff", "one", file, "--values", "--json")
    told = ran.json
    assert told["part"] == "model"
    assert (told["old"]["commit"]["step"], told["new"]["file"]) == (1, str(file))
    assert [(change["path"], change["values"]["relative"]) for change in told["changes"]] == [("model.b", 1.0)]
    back = run("diff", file, "one", "--values", "--json").json
    assert [(change["path"], change["values"]["relative"]) for change in back["changes"]] == [("model.b", 0.5)]
    out = run("diff", "one", file).out
    assert "model only" in out.replace("\n", " ")
    assert [part["total_tensors"] for part in told["parts"]] == [4]


def test_two_files_need_no_store(casckpt: Casckpt, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "a.safetensors")
    torch.save({"w": torch.ones(3)}, tmp_path / "b.pt")
    told = casckpt("diff", "a.safetensors", "b.pt", "--json").json
    assert [change["path"] for change in told["changes"]] == ["w"]
    assert casckpt("diff", "-C", tmp_path / "none", "a.safetensors", "b.pt").code == 21
    assert casckpt("diff", "a.safetensors").code == 21


def test_a_revision_wins_over_a_file_of_its_name_unless_it_is_said(run: Casckpt, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "one")
    torch.save({"w": torch.ones(3)}, tmp_path / "other")
    assert run("diff", "one", "--json").json["old"]["file"] is None
    assert run("diff", "file:one", "one", "--json").json["old"]["file"] == "one"
    assert run("diff", "./one", "one", "--json").json["old"]["file"] == "one"
    assert run("diff", "other", "one", "--json").json["old"]["file"] == "other"
    missing = run("diff", "one", "missing.pt")
    assert "missing.pt" in missing.err
    assert missing.code not in (0, 4, 70)


def test_a_file_that_is_none_is_refused(run: Casckpt, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    ran = run("diff", "one", "bad.pt")
    assert "bad.pt" in ran.err
    assert ran.code not in (0, 70)
    assert ran.err.count("\n") == 1
