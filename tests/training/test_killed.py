"""A real training process, killed at any moment, resumes and ends as the one that was never killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import casckpt
from tests.processes import ROOT
from tests.training.child import main

STEPS = 24
PATIENCE = 120


@contextmanager
def started(store: Path, loader: str, every: int = 1) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.training.child", str(store), loader, str(STEPS), str(every)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def listen(process: subprocess.Popen[str]) -> list[Any]:
    assert process.stdout is not None
    found: list[Any] = json.loads(process.stdout.readline())
    return found


def rest(process: subprocess.Popen[str]) -> list[list[Any]]:
    output, _ = process.communicate(timeout=PATIENCE)
    return [json.loads(line) for line in output.splitlines()]


def whole(store: Path, loader: str) -> list[list[Any]]:
    """What a run in this process says, from where the store is to its end."""
    said: list[list[Any]] = []
    main(str(store), loader, STEPS, 1000, said.append)
    return said


@pytest.mark.parametrize("loader", ["persistent-2", pytest.param("global-2", marks=pytest.mark.long)])
def test_a_killed_run_ends_as_the_one_that_was_not(tmp_path: Path, loader: str) -> None:
    chance = random.Random(loader)
    seen: dict[int, list[Any]] = {}
    for _ in range(2):
        with started(tmp_path / "killed", loader) as process:
            _, step = listen(process)
            assert step >= max(seen, default=0) - 1, "at most the step that was being committed is lost"
            for _ in range(chance.randint(3, 9)):
                said = listen(process)
                assert seen.setdefault(said[0], said) == said, "a step that is made again is the same"
            process.kill()  # its commit may have begun, or not
            for said in rest(process):
                seen.setdefault(said[0], said)
            assert process.returncode == -signal.SIGKILL
    (_, step), *steps, weights = whole(tmp_path / "killed", loader)
    assert max(seen) - 1 <= step <= max(seen) < STEPS
    seen |= {said[0]: said for said in steps}
    assert [*seen.values(), weights] == whole(tmp_path / "whole", loader)[1:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_acted_on_after_the_next_commit(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path / "run", "own", every=1000) as process:
        for _ in range(4):
            listen(process)
        process.send_signal(number)
        last, *_ = [3, *(said[0] for said in rest(process))][-1:]
        assert process.returncode == -number, "what it was before takes its course"
    with casckpt.open(tmp_path / "run", create=False) as repo:
        commit = repo.resolve()
        assert commit.step == last < STEPS
        assert commit.message == f"stopped by {number.name}"
    after = whole(tmp_path / "run", "own")
    assert after[0] == ["resumed", last]
    assert after[1:] == whole(tmp_path / "whole", "own")[last + 1 :]
