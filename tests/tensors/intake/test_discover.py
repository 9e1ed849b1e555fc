"""Which entries of a folder are checkpoints, in which order, and which number each name has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.tensors.intake.discover import discover, is_checkpoint_folder, number_in


@pytest.mark.parametrize(
    ("name", "number", "says_step"),
    [
        ("step_10.pt", 10, True),
        ("step10.safetensors", 10, True),
        ("global_step1200", 1200, True),
        ("iter_0001000.pth", 1000, True),
        ("steps-5.pt", 5, True),
        ("epoch=3-step=1200.ckpt", 1200, True),
        ("epoch=3-step=1200-v1.ckpt", 1200, True),
        ("run_2026-01-01T12:30:05_step_7.pt", 7, True),
        ("step_100.final.pt", 100, True),
        ("step_20000100.pt", 20000100, True),
        ("checkpoint-500", 500, False),
        ("ckpt7.pt", 7, False),
        ("model3.pt", 3, False),
        ("epoch=02-val_loss=0.32.ckpt", 2, False),
        ("llama-7b-100.pt", 100, False),
        ("gpt2_100.pt", 100, False),
        ("100.pt", 100, False),
        ("2_of_3.pt", 3, False),
        ("gpt2_best.pt", None, False),
        ("resnet50.pth", None, False),
        ("best.pt", None, False),
        ("step-1.5.pt", None, False),
        ("model_2026-01-01_12-30-05.pt", None, False),
        ("20260101-123005.pt", None, False),
        (f"step_{1 << 63}.pt", None, False),
        ("", None, False),
    ],
)
def test_the_number_of_a_name_is_the_one_that_people_mean(name: str, number: int | None, says_step: bool) -> None:
    assert number_in(name) == (number, says_step)


@given(st.text(max_size=60))
def test_any_name_has_a_number_that_can_be_a_step_or_none(name: str) -> None:
    number, says_step = number_in(name)
    assert number is None or 0 <= number < 1 << 63
    assert number is not None or not says_step


@given(st.integers(0, (1 << 63) - 1), st.sampled_from(["step_", "step", "global_step", "x/iter-", "a_b_step="]))
def test_a_number_that_is_called_a_step_is_read_whatever_its_padding(number: int, before: str) -> None:
    assert number_in(f"{before}{number:08}.pt") == (number, True)


def files(folder: Path, *names: str) -> Path:
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(name.encode())
    return folder


def found(folder: Path, pattern: str | None = None) -> list[str]:
    return [one.name for one in discover(folder, pattern).checkpoints]


def left_out(folder: Path, pattern: str | None = None) -> dict[str, str]:
    return {one.name: one.reason for one in discover(folder, pattern).left_out}


def test_checkpoints_come_by_number_and_those_without_one_behind_them_by_age(tmp_path: Path) -> None:
    files(tmp_path, "step_10.pt", "step_9.pt", "step_0100.pt", "old.pt", "new.pt", "also_new.pt")
    for name, age in (("old.pt", 3), ("new.pt", 1), ("also_new.pt", 1), ("step_9.pt", 0), ("step_0100.pt", 5)):
        os.utime(tmp_path / name, ns=(0, 10**18 - age * 10**9))
    assert found(tmp_path) == ["step_9.pt", "step_10.pt", "step_0100.pt", "old.pt", "also_new.pt", "new.pt"]


def test_equal_numbers_come_in_the_natural_order_of_their_names(tmp_path: Path) -> None:
    files(tmp_path, "b10_step_5.pt", "b9_step_5.pt", "a_step_5.pt")
    assert found(tmp_path) == ["a_step_5.pt", "b9_step_5.pt", "b10_step_5.pt"]


def test_files_are_known_by_suffix_and_folders_by_weights(tmp_path: Path) -> None:
    taken = ["s_1.pt", "s_2.pth", "s_3.BIN", "s_4.ckpt", "s_5.safetensors", "checkpoint-6"]
    files(tmp_path, *taken, "log_1.json", "events.1", "readme", "data_1.npz", "checkpoint-9.json")
    files(tmp_path, "checkpoint-7/model.safetensors", "checkpoint-8/pytorch_model.bin.index.json", "logs/events_1.pt")
    files(tmp_path, "checkpoint-10/.metadata", "runs/notes.txt")
    os.mkfifo(tmp_path / "step_99.pt")
    assert found(tmp_path) == [*taken, "checkpoint-7", "checkpoint-8"]
    assert left_out(tmp_path) == {
        "checkpoint-10": "a folder without weights by a name that is known",
        "step_99.pt": "neither a file nor a folder",
    }


def test_temporary_names_links_within_the_folder_and_shards_are_left_out_with_a_reason(tmp_path: Path) -> None:
    files(tmp_path, "step_1.pt", "tmp-step_2.pt", "step_3.tmp.pt", ".step_4.pt", "step_5.partial.ckpt", "step_6.pt.tmp")
    files(tmp_path, "model-00001-of-00002.safetensors", "tmp-checkpoint-7/model.safetensors", "elsewhere/step_8.pt")
    (tmp_path / "latest.pt").symlink_to("step_1.pt")
    (tmp_path / "step_8.pt").symlink_to(tmp_path / "elsewhere" / "step_8.pt")
    (tmp_path / "step_9.pt").symlink_to(tmp_path / "elsewhere" / "step_9.pt")
    assert found(tmp_path) == ["step_1.pt", "step_8.pt"]
    assert left_out(tmp_path) == {
        "tmp-step_2.pt": "a temporary name",
        "step_3.tmp.pt": "a temporary name",
        ".step_4.pt": "a temporary name",
        "step_5.partial.ckpt": "a temporary name",
        "tmp-checkpoint-7": "a temporary name",
        "latest.pt": "points to step_1.pt",
        "step_9.pt": "a link that leads nowhere",
        "model-00001-of-00002.safetensors": "a shard: it is imported with its whole folder",
    }


def test_of_one_checkpoint_in_two_forms_the_one_that_holds_more_is_taken(tmp_path: Path) -> None:
    files(tmp_path, "step_100.safetensors", "step_100.pt", "step_200.safetensors", "step_300/model.safetensors")
    files(tmp_path, "step_300.pt")
    assert found(tmp_path) == ["step_100.pt", "step_200.safetensors", "step_300"]
    assert left_out(tmp_path) == {
        "step_100.safetensors": "the same checkpoint as step_100.pt",
        "step_300.pt": "the same checkpoint as step_300",
    }
    assert found(tmp_path, "*.safetensors") == ["step_100.safetensors", "step_200.safetensors"]


def test_a_pattern_takes_what_is_so_called_whatever_its_suffix_but_no_temporary_file(tmp_path: Path) -> None:
    files(tmp_path, "w_2.dat", "w_1.dat", "step_1.pt", "w_3.dat.tmp", "optimizer.pt", "config.json")
    assert found(tmp_path, "w_*") == ["w_1.dat", "w_2.dat"]
    assert found(tmp_path, "optimizer.pt") == ["optimizer.pt"]
    assert found(tmp_path) == ["step_1.pt"]


def test_what_the_trainer_writes_beside_its_checkpoints_is_none(tmp_path: Path) -> None:
    files(
        tmp_path, *(f"checkpoint-{step}/{name}" for step in (9, 10) for name in ("model.safetensors", "optimizer.pt"))
    )
    files(tmp_path, "config.json", "model.safetensors", "training_args.bin", "rng_state.pth", "rng_state_0.pth")
    assert found(tmp_path) == ["checkpoint-9", "checkpoint-10", "model.safetensors"]
    assert set(left_out(tmp_path)) == {"training_args.bin", "rng_state.pth", "rng_state_0.pth"}
    assert not is_checkpoint_folder(tmp_path)


def test_links_that_lead_round_in_circles_are_not_followed(tmp_path: Path) -> None:
    files(tmp_path, "latest/model.safetensors")
    for name in ("a", "b"):
        (tmp_path / "latest" / name).symlink_to(".")
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        (["config.json", "model.safetensors"], True),
        (["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"], True),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            True,
        ),
        (["adapter_model.safetensors", "adapter_config.json"], True),
        (["trainer_state.json"], True),
        (["step_1.safetensors", "step_2.safetensors"], False),
        (["model.safetensors", "step_1.pt"], False),
        (["config.json"], False),
        ([], False),
        (["model.safetensors", "runs/events", "global_step500/mp_rank_00_model_states.pt"], True),
        (["model.safetensors", "checkpoint-500/model.safetensors"], False),
        (["model.safetensors", "best/model-00001-of-00002.safetensors"], False),
    ],
)
def test_a_folder_is_one_checkpoint_or_holds_several(names: list[str], is_one: bool, tmp_path: Path) -> None:
    assert is_checkpoint_folder(files(tmp_path, *names)) == is_one
