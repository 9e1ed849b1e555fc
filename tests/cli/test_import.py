"""`casckpt import`: what it says of a file and of a folder, how it ends, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import casckpt as package
from casckpt.tensors.intake.intake import Intake
from tests.cli.conftest import Casckpt
from tests.equality import assert_same
from tests.tensors.intake.conftest import state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`step_9.pt`, `step_10.pt` and `step_100.pt`."""
    place = tmp_path / "run"
    place.mkdir()
    for step in (100, 9, 10):
        torch.save(state(step), place / f"step_{step}.pt")
    return place


def spoilt(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def test_a_folder_becomes_a_history_in_a_store_that_is_made_and_said_so(casckpt: Casckpt, folder: Path) -> None:
    ran = casckpt("-C", "new", "import", folder)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"{Path.cwd() / 'new'} is a store now"
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["step_9.pt", "9"],
        ["step_10.pt", "10"],
        ["step_100.pt", "100"],
    ]
    assert lines[5].startswith("3 checkpoints taken in: ")
    assert "times less" in lines[5]
    assert lines[6].startswith("the file grew by ") and lines[6].endswith(" in reserve")
    assert max(map(len, lines[1:])) <= 80
    again = casckpt("-C", "new", "import", folder)
    assert again.out == "3 checkpoints passed over: main has them\nno checkpoint was taken in\n"
    assert [found["step"] for found in casckpt("-C", "new", "log", "--json").json] == [100, 10, 9]


def test_programs_read_all_of_it(casckpt: Casckpt, folder: Path) -> None:
    torch.save(state(10), folder / "step_10.ckpt")
    found = casckpt("-C", "new", "import", folder, "--json", "--branch", "old", "--message", "run 7").json
    assert [entry["outcome"] for entry in found["checkpoints"]] == ["taken"] * 3
    assert [entry["commit"]["message"] for entry in found["checkpoints"]] == [
        "run 7: step_9.pt",
        "run 7: step_10.pt",
        "run 7: step_100.pt",
    ]
    assert found["left_out"] == [{"name": "step_10.ckpt", "reason": "the same checkpoint as step_10.pt"}]
    assert (found["branch"], found["taken"], found["store"]) == ("old", 3, str(Path.cwd() / "new"))
    assert found["bytes"] == sum((folder / entry["name"]).stat().st_size for entry in found["checkpoints"])
    assert found["stored"] == sum(entry["stored"] for entry in found["checkpoints"])
    assert found["ratio"] == found["bytes"] / found["stored"]
    assert found["file_after"] > found["file_before"] + found["stored"]
    assert casckpt("-C", "new", "log", "--branch", "old", "--json").json[0]["step"] == 100
    assert [ref["name"] for ref in casckpt("-C", "new", "branch", "--json").json] == ["old"]


def test_a_dry_run_makes_neither_store_nor_branch_nor_commit(casckpt: Casckpt, folder: Path) -> None:
    ran = casckpt("-C", "new", "import", folder, "--dry-run")
    assert ran.code == 0
    assert ran.out.splitlines()[-1].startswith("3 checkpoints would be taken into main, ")
    assert not Path("new").exists()
    casckpt("-C", "new", "import", folder, "--pattern", "*_9.pt")
    ran = casckpt("-C", "new", "import", folder, "--dry-run")
    assert "1 checkpoint passed over: main has them" in ran.out
    assert "2 checkpoints would be taken" in ran.out
    found = casckpt("-C", "new", "import", folder, "--dry-run", "--branch", "other", "--json").json
    assert [entry["outcome"] for entry in found["checkpoints"]] == ["waiting"] * 3
    assert [ref["name"] for ref in casckpt("-C", "new", "branch", "--json").json] == ["main"]


def test_a_single_file_takes_a_step_a_message_and_a_part(casckpt: Casckpt, folder: Path) -> None:
    file = folder / "step_9.pt"
    ran = casckpt("-C", "new", "import", file, "--step", 7, "--message", "the weights", "--part", "model")
    assert ran.code == 0
    with package.open("new") as repo:
        commit = repo.resolve()
        assert (commit.step, commit.message) == (7, "the weights")
        assert_same(repo.load(), {"model": state(9)})
    assert "has them" in casckpt("-C", "new", "import", file, "--part", "model").out


def test_a_file_that_cannot_be_read_ends_it_with_what_was_done_and_its_error(casckpt: Casckpt, folder: Path) -> None:
    bad = spoilt(folder / "step_10.pt")
    ran = casckpt("-C", "new", "import", folder)
    assert ran.code == 8
    assert str(bad) in ran.err
    assert ran.err.count("\n") == 1
    assert "cannot be taken in" in ran.out
    assert "1 checkpoint behind it not come to\n1 checkpoint taken in: " in ran.out
    ran = casckpt("-C", "new", "import", folder, "--skip-bad")
    assert ran.code == 8
    assert str(bad) in ran.err
    assert ran.err.count("\n") == 1
    assert "1 checkpoint passed over" in ran.out
    assert "1 checkpoint taken in: " in ran.out
    ran = casckpt("-C", "new", "import", folder, "--json", "--skip-bad")
    assert ran.code == 8
    failed = next(entry for entry in ran.json["checkpoints"] if entry["outcome"] == "failed")
    assert failed["error"]["kind"] == "bad-import"
    assert casckpt("-C", "new", "import", folder, "--json").failure["kind"] == "bad-import"


def test_a_malicious_pickle_is_not_run(casckpt: Casckpt, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.mkdir, (tmp_path / "evil",)

    torch.save({"w": torch.ones(3), "x": Evil()}, tmp_path / "step_1.pt")
    ran = casckpt("-C", "new", "import", tmp_path / "step_1.pt")
    assert ran.code == 8
    assert "step_1.pt" in ran.err
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["none"], 8, "none"),
        (["empty"], 8, "--pattern"),
        (["run", "--step", "3"], 2, "--step 3"),
        (["run", "--branch", "a b"], 5, "'a b'"),
        (["run", "--pattern", "x*"], 8, "run"),
        ([], 2, "PATH"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_store_is_made(
    arguments: list[str], code: int, named: str, casckpt: Casckpt, folder: Path
) -> None:
    Path("empty").mkdir()
    ran = casckpt("-C", "new", "import", *arguments)
    assert ran.code == code
    assert named in ran.err
    assert ran.out == ""
    assert not Path("new").exists()


def test_an_interrupt_says_how_far_it_came(casckpt: Casckpt, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = Intake.take
    taken: list[object] = []

    def interrupted(self: Intake, *arguments: object, **options: object) -> object:
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(None)
        return really(self, *arguments, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Intake, "take", interrupted)
    ran = casckpt("-C", "new", "import", folder)
    assert ran.code == 130
    assert "2 of 3 checkpoints taken in, the last to be done with was step_10.pt; run it again to go on" in ran.err
    monkeypatch.undo()
    assert casckpt("-C", Path(folder).parent / "new", "import", folder).out.startswith("checkpoint")


def test_names_are_shown_so_that_no_terminal_obeys_them_and_only_a_few_of_what_is_left_out(
    casckpt: Casckpt, folder: Path
) -> None:
    for number in range(9):
        (folder / f"tmp-step_{number}.pt").touch()
    torch.save(state(1), folder / "step_1\x1b[31m.pt")
    out = casckpt("-C", "new", "import", folder).out
    assert "\x1b" not in out
    assert out.count("left out: tmp-step_") == 5
    assert "left out: 4 more" in out


def checkpoint_of_deepspeed(place: Path, *others: str) -> Path:
    """A folder as transformers' Trainer writes it under DeepSpeed, small."""
    (place / "global_step500").mkdir(parents=True)
    (place / "global_step500" / "mp_rank_00_model_states.pt").write_bytes(b"theirs")
    torch.save(state(500)["model"], place / "pytorch_model.bin")
    (place / "trainer_state.json").write_text('{"global_step": 500}')
    for name in others:
        (place / name).write_bytes(b"theirs")
    return place


def test_what_of_a_checkpoint_is_not_taken_in_is_said(casckpt: Casckpt, tmp_path: Path) -> None:
    checkpoint_of_deepspeed(tmp_path / "run" / "checkpoint-500")
    more = [f"pytorch_model-0000{number}-of-00004.bin" for number in range(1, 5)]
    checkpoint_of_deepspeed(tmp_path / "run" / "checkpoint-900", *more)
    ran = casckpt("-C", "new", "import", tmp_path / "run")
    assert ran.code == 0
    assert "left out of checkpoint-500: global_step500\n" in ran.out
    assert f"left out of checkpoint-900: global_step500, {more[0]}, {more[1]} and 2 more\n" in ran.out
    again = casckpt("-C", "new", "import", tmp_path / "run", "--json").json
    assert again["checkpoints"][0]["commit"]["meta"]["left_out"] == ["global_step500"]
    watched = casckpt("-C", "other", "watch", tmp_path / "run", "--once", "--settle", "0")
    assert "left out of checkpoint-500: global_step500\n" in watched.out
