"""Every way in which a command ends: codes by kind of error, messages that name what is at fault, no traceback."""

from __future__ import annotations

import array
import fcntl
import inspect
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from casckpt import errors
from casckpt.cli import failures
from casckpt.cli.session import Session
from casckpt.errors import CasckptError
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.store.lmdb_store import LmdbStore, open_store
from tests.cli.conftest import Casckpt
from tests.cli.stores import commit, long_history, make_history
from tests.processes import PATIENCE, ROOT

ERRORS = sorted(
    (
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, CasckptError) and found.__module__ == errors.__name__
    ),
    key=lambda found: found.__name__,
)


def made(error: type[CasckptError]) -> CasckptError:
    wanted: dict[str, Any] = {"path": "model.w", "revision": "REV", "ref": "REF", "parts": ("PART",)}
    named = inspect.signature(error).parameters
    return error("PROBLEM", remedy="REMEDY", **{name: wanted[name] for name in wanted if name in named})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.kind)
def test_an_error_ends_with_the_code_of_its_class_and_one_line(
    error: type[CasckptError], casckpt: Casckpt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Session, branch: str | None = None) -> None:
        raise made(error)

    monkeypatch.setattr(Session, "history", fails)
    ran = casckpt("log")
    assert ran.code == error.exit_code != 0
    assert ran.out == ""
    assert ran.err == f"casckpt: {made(error)}\n"
    assert "PROBLEM" in ran.err
    assert "REMEDY" in ran.err
    assert casckpt("log", "--json").failure == {
        "kind": error.kind,
        "message": str(made(error)),
        "exit_code": error.exit_code,
    }


def test_no_error_shares_the_code_of_a_signal_or_of_a_fault_of_our_own() -> None:
    assert {error.exit_code for error in ERRORS}.isdisjoint({0, 70, *range(128, 256)})


def test_there_is_a_code_for_each_thing_that_can_be_wrong_with_what_was_asked(at: Casckpt, history: History) -> None:
    """What people ask for and cannot have: the code, and the name of what is at fault in the message."""
    history.prune(Keep(last=3))
    prunes = history.resolve("main~5").id
    for arguments, code, named in (
        (["show", "nope"], 4, "'nope'"),
        (["show", "abc"], 4, "'abc'"),
        (["show", "main~100"], 4, "'main~100'"),
        (["rollback", "step:7"], 4, "step 7"),
        (["rollback", "best:loss"], 4, "'best:loss'"),
        (["rollback", prunes], 6, prunes[:12]),
        (["rollback", prunes, "--dry-run"], 6, prunes[:12]),
        (["tag", "old", "--at", prunes], 6, prunes[:12]),
        (["branch", "a b"], 5, "'a b'"),
        (["branch", "../../etc/passwd"], 5, "'../../etc/passwd'"),
        (["branch", "main"], 5, "'main'"),
        (["branch", "--delete", "main"], 5, "'main'"),
        (["branch", "--delete", "nope"], 5, "'nope'"),
        (["branch", "--delete", "nope", "--dry-run"], 5, "'nope'"),
        (["tag", "--delete", "nope"], 5, "'nope'"),
        (["tag", "v1"], 5, "'v1'"),
        (["switch", "nope"], 5, "'nope'"),
        (["switch", "-c", "main"], 5, "'main'"),
        (["log", "--branch", "nope"], 5, "'nope'"),
        (["reflog", "nope"], 5, "'nope'"),
        (["repack", "nope"], 4, "'nope'"),
        (["repack", "main~1..nope"], 4, "'nope'"),
        (["prune"], 2, "--keep-last"),
        (["prune", "--keep-best", "loss"], 2, "'loss'"),
        (["prune", "--part", "optimizer"], 2, "'optimizer'"),
    ):
        ran = at(*arguments)
        assert ran.code == code, arguments
        assert named in ran.err, arguments
        assert ran.out == ""
        assert ran.err.startswith("casckpt: ")
        assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["lgo"], "did you mean 'log'?"),
        (["zzzzzz"], "'zzzzzz'"),
        (["log", "--nope"], "--nope"),
        (["log", "-n", "x"], "'x'"),
        (["log", "-n", "-1"], "-1"),
        (["log", "a", "b"], "b"),
        (["rollback"], "REV"),
        (["switch"], "NAME"),
        (["prune", "--keep-every", "soon"], "'soon'"),
        (["reflog", "--older-than", "30d"], "--expire"),
        (["reflog", "--dry-run"], "--expire"),
        (["reflog", "--expire", "--older-than", "x"], "'x'"),
        (["branch", "--dry-run"], "--delete"),
        (["branch", "--at", "main"], "NAME"),
        (["branch", "x", "--delete", "y"], "--delete"),
        (["init", "--chunk-size", "big"], "'big'"),
        (["init", "--codec", "best"], "'best'"),
        (["repack", "--codec", "best"], "'best'"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(casckpt: Casckpt, arguments: list[str], named: str) -> None:
    ran = casckpt(*arguments)
    assert ran.code == 2
    assert named in ran.err
    assert "Usage: casckpt" in ran.err
    assert "Traceback" not in ran.err
    if len(arguments) > 1:
        failure = casckpt(*arguments, "--json")
        assert failure.code == 2


def test_wrong_usage_is_json_too_where_programs_read(casckpt: Casckpt) -> None:
    ran = casckpt("log", "--json", "--all", "main")
    assert (ran.failure["kind"], ran.failure["exit_code"]) == ("usage", 2)


def test_no_command_shows_the_help(casckpt: Casckpt) -> None:
    ran = casckpt()
    assert ran.code == 2
    assert "Commands:" in ran.err


def test_a_store_that_is_not_there_is_named(casckpt: Casckpt, tmp_path: Path) -> None:
    for code, path, ran in (
        (21, tmp_path, casckpt("log")),
        (21, tmp_path / "none", casckpt("-C", tmp_path / "none", "log")),
        (21, tmp_path / "none", casckpt("log", "-C", tmp_path / "none")),
    ):
        assert ran.code == code
        assert str(path) in ran.err
        assert not (tmp_path / "none").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.pt").write_bytes(b"a checkpoint")
    for arguments in (["-C", foreign, "log"], ["init", foreign]):
        ran = casckpt(*arguments)
        assert ran.code == 22
        assert str(foreign) in ran.err
    assert [file.name for file in foreign.iterdir()] == ["model.pt"]


def test_a_fault_of_our_own_is_one_line_with_a_hint(at: Casckpt, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: History) -> None:
        raise ZeroDivisionError("by\nnought")

    monkeypatch.setattr(History, "stats", fails)
    ran = at("stats")
    assert ran.code == 70
    assert ran.err == "casckpt: ZeroDivisionError: by nought (set CASCKPT_DEBUG=1 to see where)\n"
    assert at("stats", "--json").failure["kind"] == "unexpected"
    monkeypatch.setenv("CASCKPT_DEBUG", "1")
    ran = at("stats")
    assert ran.code == 70
    assert "Traceback" in ran.err
    assert "CASCKPT_DEBUG" not in ran.err
    assert "Traceback" in at("show", "nope").err


def test_an_interrupt_says_what_was_done(at: Casckpt, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **options: Any) -> None:
        if "progress" in options:
            options["progress"]("deleting what is not", 64, 100)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LmdbStore, "close", interrupt)
        assert f"main was moved to {history.resolve('main~1').id}" in at("rollback", "main~1").err
    for method, command, said in (
        ("resolve", ["show"], "nothing was changed"),
        ("rollback", ["rollback", "main~1"], "the move of main may have happened or not"),
        ("branch", ["branch", "new"], "making the branch new may have happened or not"),
        ("delete_tag", ["tag", "--delete", "v1"], "taking the tag v1 away may have happened or not"),
        ("switch", ["switch", "try/lr"], "the switch to try/lr may have happened or not"),
        ("expire_reflog", ["reflog", "--expire"], "the expiry of the reflog may have happened or not"),
        ("expire_reflog", ["reflog", "--expire", "--dry-run"], "nothing was changed"),
        ("prune", ["prune", "--keep-last", "9", "--dry-run"], "nothing was changed"),
        ("rollback", ["rollback", "main~1", "--dry-run"], "nothing was changed"),
        ("prune", ["prune", "--keep-last", "9"], "the pruning may have happened or not"),
        ("gc", ["gc"], "gc had come to: deleting what is not (64 of 100)"),
        ("repack", ["repack"], "repack had come to: deleting what is not (64 B of 100 B)"),
        ("repack", ["repack", "--dry-run"], "nothing was changed"),
        ("gc", ["prune", "--keep-last", "1", "--gc"], "3 commits pruned, nothing collected yet; gc had come to"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(History, method, interrupt)
            ran = at(*command)
        assert ran.code == 130
        assert ran.err.startswith("casckpt: interrupted; ")
        assert said in ran.err


def in_pipe(descriptor: int) -> int:
    """Bytes that wait to be read."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def test_an_interrupted_process_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    long_history(tmp_path / "s", 2000)
    running = subprocess.Popen(
        [sys.executable, "-m", "casckpt", "-C", tmp_path / "s", "log", "-n", "0", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdout is not None
    before = -1
    while (waiting := in_pipe(running.stdout.fileno())) == 0 or waiting != before:
        before = waiting
        time.sleep(0.2)  # nobody reads: the pipe fills up, and it waits
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=PATIENCE) == 130  # and still nobody reads
    _, err = running.communicate()
    assert b"interrupted; nothing was changed" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize("options", ["", "--json"])
def test_a_reader_that_goes_away_is_met_with_silence(tmp_path: Path, options: str) -> None:
    long_history(tmp_path / "s", 2000)
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m casckpt -C {tmp_path / 's'} log -n 0 {options} | head -1; "
         "echo ${PIPESTATUS[0]}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1] == "141"


def test_a_full_disk_behind_stdout_is_one_line(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m casckpt -C {tmp_path / 's'} log > /dev/full"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 70
    assert ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr


def test_an_output_that_knows_no_such_letter_still_shows_the_rest(tmp_path: Path) -> None:
    with make_history(tmp_path / "s") as history:
        commit(history, {"m": b"x"}, "warm-up \u2192 done")
    ended = subprocess.run(
        [sys.executable, "-m", "casckpt", "-C", tmp_path / "s", "log"],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "warm-up ? done" in ended.stdout


def test_an_interrupt_before_anything_began_is_130(casckpt: Casckpt, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(failures, "run", interrupt)
    assert casckpt("log").code == 130


def test_the_module_and_the_version(process: Casckpt, casckpt: Casckpt, tmp_path: Path) -> None:
    import casckpt as package

    assert casckpt("--version").out == f"casckpt {package.__version__}\n"
    ran = process("--version")
    assert (ran.code, ran.out) == (0, f"casckpt {package.__version__}\n")
    ran = process("-C", tmp_path / "none", "log")
    assert ran.code == 21
    assert "Traceback" not in ran.err
