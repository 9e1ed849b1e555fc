"""The command line as people meet it: `casckpt(...)` runs `main` in this process, `process(...)` in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from casckpt.cli import main
from casckpt.history.repository import History
from tests.cli.stores import commit, make_history
from tests.processes import PATIENCE, ROOT


@dataclass(frozen=True)
class Ran:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def failure(self) -> Any:
        """The error as programs read it."""
        return json.loads(self.err)["error"]


Casckpt = Callable[..., Ran]


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder in no store, and nothing in the environment that says where one is."""
    monkeypatch.delenv("CASCKPT_REPO", raising=False)
    monkeypatch.delenv("CASCKPT_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def casckpt(capsys: pytest.CaptureFixture[str]) -> Casckpt:
    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def process() -> Casckpt:
    def run(*arguments: object, source: str | None = None) -> Ran:
        program = ["-m", "casckpt"] if source is None else ["-c", source]
        ended = subprocess.run(
            [sys.executable, "-W", "error", *program, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    """Six commits on main (steps 0 to 50, the loss falling), and one more on the branch "try/lr" from step 20."""
    with make_history(tmp_path / "store") as made:
        for step in range(0, 60, 10):
            state = {
                "model": bytes([step]) * 4096 + b"the same" * 1024,
                "optimizer": bytes([step + 1]) * 4096 + bytes([step + 2]) * 4096,
            }
            commit(made, state, f"at {step}", step=step, metrics={"loss": 6.0 - step / 10})
        made.branch("try/lr", at="step:20")
        commit(made, {"model": b"other" * 2000}, "on a branch", step=25, metrics={"loss": 9.5}, branch="try/lr")
        made.tag("v1", at="step:30")
        yield made


@pytest.fixture
def at(casckpt: Casckpt, history: History) -> Casckpt:
    """The command line at the store of `history`."""

    def run(*arguments: object) -> Ran:
        return casckpt("-C", history.path, *arguments)

    return run
