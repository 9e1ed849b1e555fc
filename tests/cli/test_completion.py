"""`casckpt completion`: real shells complete commands, revisions and folders, and never hear of what went wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from casckpt.cli import completion
from casckpt.cli.app import app
from casckpt.cli.completion import SHELLS
from casckpt.cli.session import Session
from casckpt.history.repository import History
from tests.cli.conftest import Casckpt
from tests.processes import PATIENCE, ROOT

Ask = Callable[..., list[str]]


# The program, which is not silent where a machine is slow.
_PATIENT = f"""
import sys
from casckpt.cli import completion, main
completion._PATIENCE = {PATIENCE}
sys.exit(main())
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `casckpt` is a program."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "casckpt"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -W error -c '{_PATIENT}' \"$@\"\n")
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CASCKPT", "BASH"))}
    return {**kept, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def ask(environment: dict[str, str], tmp_path: Path) -> Ask:
    """What bash offers for a line, as its replies are when the function has run."""
    script = subprocess.run(
        ["casckpt", "completion", "bash"], env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    (tmp_path / "completion.bash").write_text(script)

    def offered(line: str, folder: Path | None = None) -> list[str]:
        asking = (
            f'source "{tmp_path}/completion.bash"; COMP_LINE="$1"; COMP_POINT=${{#1}}; '
            'compopt() { echo "compopt $*"; }; _casckpt_completion casckpt; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        ran = subprocess.run(
            ["bash", "--norc", "-c", asking, "bash", line],
            env=environment, cwd=folder or tmp_path, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout.split()

    return offered


def test_bash_completes_commands_options_and_folders(ask: Ask) -> None:
    assert ask("casckpt sh") == ["show"]
    assert "rollback" in ask("casckpt ")
    assert ask("casckpt log --al") == ["--all"]
    assert ask("casckpt prune --keep-b") == ["--keep-best", "--keep-branch"]
    assert ask("casckpt -C sto") == ["compopt", "-o", "dirnames"]
    assert ask("casckpt completion ") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize(
    "command",
    ["show", "log", "rollback", "restore", "ls", "diff", "diff main", "branch x --at", "tag x --at"],
)
def test_bash_completes_revisions_wherever_one_is_taken(ask: Ask, history: History, command: str) -> None:
    found = ask(f"casckpt -C {history.path} {command} ")
    assert {"HEAD", "main", "try/lr", "v1", "step:50", "step:0"} <= set(found)
    name, _, rest = command.partition(" ")
    assert ask(f"casckpt {name} -C {history.path} {rest} tr") == ["try/lr"]


def test_words_that_bash_breaks_at_colons_are_completed_behind_them(ask: Ask, history: History) -> None:
    assert ask(f"casckpt -C {history.path} show step:") == ["50", "40", "30", "20", "10", "0"]
    assert ask(f"casckpt -C {history.path} show step:4") == ["40"]
    assert ask(f"casckpt -C {history.path} show st") == [f"step:{step}" for step in (50, 40, 30, 20, 10, 0)]


def test_bash_completes_the_names_of_branches_and_tags(ask: Ask, history: History) -> None:
    assert ask(f"casckpt -C {history.path} switch ") == ["main", "try/lr"]
    assert ask(f"casckpt -C {history.path} log --branch m") == ["main"]
    assert ask(f"casckpt -C {history.path} branch --delete t") == ["try/lr"]
    assert ask(f"casckpt -C {history.path} tag --delete ") == ["v1"]
    assert ask(f"casckpt -C {history.path} reflog ") == ["main", "try/lr"]


def test_where_nothing_can_be_offered_nothing_is_said_or_made(ask: Ask, history: History, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert ask("casckpt show ") == []
    assert ask(f"casckpt -C {tmp_path}/none show ") == []
    assert ask("casckpt nope ") == []
    assert ask("casckpt show 'unclosed ") == []
    assert ask(f"casckpt -C {history.path} show zzz") == []
    assert ask("casckpt --version ") != []
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "data.mdb").write_bytes(b"no database")
    (damaged / "gate").touch()
    assert ask(f"casckpt -C {damaged} show ") == []
    assert [path for path in sorted(tmp_path.rglob("*")) if "damaged" not in str(path)] == before


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])
def test_the_script_is_one_that_its_shell_can_read(shell: str, environment: dict[str, str]) -> None:
    script = subprocess.run(["casckpt", "completion", shell], env=environment, capture_output=True, timeout=PATIENCE)
    assert (script.returncode, script.stderr) == (0, b"")
    read = subprocess.run([shell, "-n"], input=script.stdout, capture_output=True, timeout=PATIENCE)
    assert (read.returncode, read.stderr) == (0, b"")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_is_answered(shell: str, casckpt: Casckpt, environment: dict[str, str], history: History) -> None:
    script = casckpt("completion", shell)
    assert script.code == 0
    assert f"_CASCKPT_COMPLETE={shell}_complete" in script.out
    assert casckpt("completion", shell, "--json").json == {"shell": shell, "script": script.out[:-1]}
    words = f"casckpt -C {history.path} show step:1"
    asked = {"_CASCKPT_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": "4"}
    if shell == "fish":
        asked["COMP_CWORD"] = "step:1"
    ran = subprocess.run(["casckpt"], env={**environment, **asked}, capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.search(r"step\\?:10\b", ran.stdout)
    assert "step:20" not in ran.stdout.replace("\\", "")


def test_what_no_shell_asks_is_answered_by_silence(environment: dict[str, str]) -> None:
    for asked in ("bash_source", "tcsh_complete", "bash_complete"):
        ran = subprocess.run(
            ["casckpt", "log"], env={**environment, "_CASCKPT_COMPLETE": asked}, capture_output=True, timeout=PATIENCE
        )
        assert (ran.stdout.strip(), ran.stderr) == (b"", b"")


def test_nobody_is_kept_waiting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def stuck(session: Session) -> None:
        asked.append(session)
        signal.pause()  # until the alarm

    monkeypatch.setattr(Session, "history", stuck)
    monkeypatch.setattr(completion, "_PATIENCE", 0.01)
    monkeypatch.setenv("COMP_WORDS", "casckpt -C somewhere show ")
    before = signal.getsignal(signal.SIGALRM)
    assert completion.answer(app, "bash_complete") == 0
    assert asked
    assert not capsys.readouterr().out.strip()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
