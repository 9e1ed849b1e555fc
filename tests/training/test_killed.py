"""A real training process, killed at any moment, resumes and ends as the one that was never killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import casckpt
from tests.processes import ROOT
from tests.training.child import main

STEPS = 24
PATIENCE = 120


class Training:
    """The training script as a process. It writes to a file: its workers, which outlive it, would keep a pipe open."""

    def __init__(self, store: Path, loader: str, every: int) -> None:
        said = store.with_suffix(".said")
        command = [sys.executable, "-m", "tests.training.child", str(store), loader, str(STEPS), str(every)]
        with said.open("w") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out)
        self._lines = said.open()

    def listen(self) -> list[Any]:
        """The next thing that it says."""
        line = self._lines.readline()
        while not line.endswith("\n"):
            assert self.process.poll() is None, "it ended"
            time.sleep(0.002)
            line += self._lines.readline()
        found: list[Any] = json.loads(line)
        return found

    def rest(self) -> list[list[Any]]:
        """What it says until it ends."""
        self.process.wait(PATIENCE)
        lines = self._lines.read().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may have been cut short

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._lines.close()


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
        with Training(tmp_path / "killed", loader, 1) as training:
            _, step = training.listen()
            assert step >= max(seen, default=0) - 2, "at most the commit in flight and the step after it are lost"
            for _ in range(chance.randint(3, 9)):
                said = training.listen()
                assert seen.setdefault(said[0], said) == said, "a step that is made again is the same"
            training.process.kill()  # its commit may have begun, or not
            for said in training.rest():
                seen.setdefault(said[0], said)
            assert training.process.returncode == -signal.SIGKILL
    (_, step), *steps, weights = whole(tmp_path / "killed", loader)
    assert max(seen) - 2 <= step <= max(seen) < STEPS
    seen |= {said[0]: said for said in steps}
    assert [*seen.values(), weights] == whole(tmp_path / "whole", loader)[1:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_acted_on_after_the_next_commit(tmp_path: Path, number: signal.Signals) -> None:
    with Training(tmp_path / "run", "own", 1000) as training:
        for _ in range(4):
            training.listen()
        training.process.send_signal(number)
        last, *_ = [3, *(said[0] for said in training.rest())][-1:]
        assert training.process.returncode == -number, "what it was before takes its course"
    with casckpt.open(tmp_path / "run", create=False) as repo:
        commit = repo.resolve()
        assert commit.step == last < STEPS
        assert commit.message == f"stopped by {number.name}"
    after = whole(tmp_path / "run", "own")
    assert after[0] == ["resumed", last]
    assert after[1:] == whole(tmp_path / "whole", "own")[last + 1 :]
