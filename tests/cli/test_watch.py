"""`casckpt watch` as a process: it takes in what a writer finishes, and ends well when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import torch

import casckpt as package
from tests.cli.conftest import Casckpt
from tests.equality import assert_same
from tests.processes import PATIENCE, ROOT, Program
from tests.tensors.intake.conftest import state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    place.mkdir()
    return place


@contextmanager
def watching(store: Path, folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A watch under way, and what it prints; killed if it is still there."""
    command = [sys.executable, "-W", "error", "-m", "casckpt", "-C", str(store), "watch", str(folder), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout
        finally:
            process.kill()


def write(folder: Path, step: int) -> Path:
    path = folder / f"step_{step}.pt"
    torch.save(state(step), folder / "tmp")
    return (folder / "tmp").rename(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_takes_in_what_is_written_until_a_signal_ends_it_well(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    with watching(tmp_path / "store", folder, "--interval", "0.05", "--settle", "0.1") as (process, out):
        assert out.readline() == f"{tmp_path / 'store'} is a store now\n"
        assert out.readline() == f"watching {folder} for {tmp_path / 'store'} on main; Ctrl-C ends it\n"
        for step in (1, 2):
            write(folder, step)
            line = out.readline()
            assert f"step_{step}.pt, step {step}, " in line
            with package.open(tmp_path / "store", create=False) as repo:  # it is durable when its line is there
                assert line.split()[2] == repo.resolve(f"step:{step}").id[:8]
                assert_same(repo.load(f"step:{step}"), state(step))
        (folder / "step_3.pt").write_bytes(b"PK, but no more")
        assert process.stderr is not None
        assert "step_3.pt: its end is missing" in process.stderr.readline()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")
        assert rest.startswith("2 checkpoints taken in: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_harms_nothing(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    path = write(folder, 1)
    store = tmp_path / "store"
    # the first commit is never done with, so that only the second signal can end it
    program = f"""
        import signal, sys, time
        from threading import Event
        from casckpt.__main__ import main
        from casckpt.tensors.repository import Repository

        def commit(*given, **named):
            print("committing", flush=True)
            while signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
                time.sleep(0.01)
            print("told once", flush=True)
            Event().wait()

        Repository.commit = commit
        sys.argv = ["casckpt", "-C", {str(store)!r}, "watch", {str(folder)!r}, "--interval", "0.05", "--settle", "0.1"]
        main()
    """
    with Program(program) as running:
        while running.line() != "committing":
            pass
        running.process.send_signal(number)
        assert running.line() == "told once"
        running.process.send_signal(number)
        assert running.process.wait(PATIENCE) == -number
    with package.open(store, create=False) as repo:
        assert list(repo.log()) == []
        assert repo.import_file(path).step is None
        assert repo.fsck(read_data=True).findings == ()


def test_what_is_not_finished_when_it_ends_is_named(folder: Path, tmp_path: Path) -> None:
    with (folder / "step_7.pt").open("wb") as held:
        held.write(b"half")
        held.flush()
        with watching(tmp_path / "store", folder, "--interval", "0.05", "--settle", "0.1") as (process, out):
            write(folder, 8)
            while "step_8.pt" not in out.readline():
                pass
            process.send_signal(signal.SIGTERM)
            rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert rest.startswith("left alone: step_7.pt (it is open for writing)\n1 checkpoint taken in: ")


def test_programs_read_a_list_of_a_line_for_each_as_it_comes(folder: Path, tmp_path: Path) -> None:
    with watching(tmp_path / "store", folder, "--interval", "0.05", "--settle", "0.1", "--json") as (process, out):
        lines = []
        for step in (1, 2):
            write(folder, step)
            while "step_" not in (line := out.readline()):
                lines.append(line)
            lines.append(line)
            assert json.loads(line.lstrip(","))["step"] == step
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    found = json.loads("".join(lines) + rest)
    assert [(entry["name"], entry["outcome"]) for entry in found] == [("step_1.pt", "taken"), ("step_2.pt", "taken")]


def test_once_takes_in_what_is_finished_and_says_by_its_code_what_was_not_read(casckpt: Casckpt, folder: Path) -> None:
    for step in (2, 1):
        write(folder, step)
    once = ("-C", "new", "watch", folder, "--once", "--settle", 0)
    ran = casckpt(*once, "--branch", "old", "--part", "model", "--pattern", "step_*")
    assert (ran.code, ran.err) == (0, "")
    with package.open("new", branch="old") as repo:
        assert [commit.step for commit in repo.log()] == [2, 1]
        assert_same(repo.load(), {"model": state(2)})
    (folder / "step_3.pt").write_bytes(b"PK, but no more")
    ran = casckpt(*once)
    assert ran.code == 8
    assert "step_3.pt" in ran.err
    assert "2 checkpoints taken in" in ran.out
    assert casckpt(*once, "--json").json[0]["error"]["kind"] == "bad-import"


def test_handlers_are_as_before_when_it_ends(casckpt: Casckpt, folder: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    casckpt("-C", "new", "watch", folder, "--once", "--settle", 0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["none"], 8, "none"),
        (["run", "--interval", "0"], 2, "--interval"),
        (["run", "--settle", "-1"], 2, "--settle"),
        (["run", "--branch", "a b"], 5, "'a b'"),
    ],
)
def test_what_cannot_be_watched_is_said(
    options: list[str], code: int, named: str, casckpt: Casckpt, folder: Path
) -> None:
    ran = casckpt("-C", "new", "watch", *options)
    assert ran.code == code
    assert named in ran.err
    assert "Traceback" not in ran.err
    assert not Path("new").exists()
