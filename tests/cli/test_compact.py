"""`casckpt compact`: what was given back, who is in the way, and what an interrupt leaves."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from casckpt.history.repository import History
from casckpt.limits import MIB
from casckpt.store import filesystem
from tests.cli.conftest import Casckpt
from tests.processes import PATIENCE, ROOT, Program
from tests.store.wasteful import KEPT, check, make, open_history

HOLD = """
import sys
from casckpt.store.lmdb_store import open_store
store = open_store(sys.argv[1])
print("holds it", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make(tmp_path / "runs")
    return tmp_path / "runs"


def test_it_says_what_was_given_back_and_everything_is_there(casckpt: Casckpt, store: Path) -> None:
    before = filesystem.disk_bytes(store / "data.mdb")
    would = casckpt("-C", store, "compact", "--dry-run")
    assert would.code == 0 and would.out.startswith("compact would give back ") and would.out.count("\n") == 2
    assert casckpt("-C", store, "compact", "--dry-run", "--json").json["dry_run"] is True
    assert filesystem.disk_bytes(store / "data.mdb") == before
    ran = casckpt("-C", store, "compact")
    assert ran.code == 0 and ran.err == ""
    assert ran.out.startswith("compact gave back ") and "on the disk before" in ran.out
    assert " of that are a reserve" in ran.out and max(map(len, ran.out.splitlines())) <= 80
    after = filesystem.disk_bytes(store / "data.mdb")
    assert after < 0.7 * before
    report = casckpt("-C", store, "compact", "--json").json
    assert set(report) == {"dry_run", "before", "after", "reserve", "holders", "seconds", "given_back"}
    assert 2 * MIB <= report["reserve"] <= 4 * MIB + 65536  # and what a file system adds to be even
    assert report["before"] == after and report["given_back"] == max(0, after - report["after"])
    with open_history(store) as history:
        check(history)


def test_who_has_it_open_is_named_with_the_way_out(casckpt: Casckpt, store: Path) -> None:
    with Program(HOLD, store) as other:
        assert other.line() == "holds it"
        who = f"process {other.process.pid} on "
        would = casckpt("-C", store, "compact", "--dry-run")
        assert would.code == 0
        assert [line.startswith(f"in the way: {who}") for line in would.out.splitlines()] == [False, False, True]
        (holder,) = casckpt("-C", store, "compact", "--dry-run", "--json").json["holders"]
        assert holder.startswith(who)
        ran = casckpt("-C", store, "compact")
        assert (ran.code, ran.out) == (25, "")
        assert str(store) in ran.err and holder in ran.err and "end those first" in ran.err
        assert casckpt("-C", store, "compact", "--json").failure["kind"] == "store-busy"
        other.end()
    assert casckpt("-C", store, "compact").code == 0


def test_an_interrupt_never_says_that_the_file_is_as_it_was_when_it_may_be_another(
    casckpt: Casckpt, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = History.compact
    for at in ("waiting for what is under way", "copying what is in use", "exchanging the file"):

        def compact(self: History, *, dry_run: bool, progress: Any, at: str = at) -> Any:
            def interrupt(stage: str, done: int, total: int) -> None:
                if stage == at:
                    raise KeyboardInterrupt
                progress(stage, done, total)

            return real(self, dry_run=dry_run, progress=interrupt)

        monkeypatch.setattr(History, "compact", compact)
        ran = casckpt("-C", store, "compact")
        assert ran.code == 130 and "the file was rewritten, or is as it was" in ran.err
    with open_history(store) as history:
        check(history)


def test_neither_it_nor_backup_imports_torch_or_numpy(process: Casckpt, store: Path, tmp_path: Path) -> None:
    source = (
        "import sys; from casckpt.cli import main; "
        "codes = [main(['-C', sys.argv[1], 'compact']), main(['-C', sys.argv[1], 'backup', sys.argv[2]])]; "
        "print(codes, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    ran = process(store, tmp_path / "copy", source=source)
    assert ran.out.splitlines()[-1] == "[0, 0] False False", ran.err


# -- backup --------------------------------------------------------------------------------------------------------


def test_backup_says_how_much_was_copied_where_and_the_copy_can_be_looked_at(
    casckpt: Casckpt, store: Path, tmp_path: Path
) -> None:
    ran = casckpt("-C", store, "backup", "friday")
    assert ran.code == 0 and ran.err == ""
    assert ran.out.startswith("copied ") and f" to {tmp_path / 'friday'} (" in ran.out
    assert len(casckpt("-C", "friday", "log", "--json").json) == KEPT
    report = casckpt("-C", store, "backup", tmp_path / "saturday", "--json").json
    assert set(report) == {"path", "bytes", "seconds"}
    assert report["path"] == str(tmp_path / "saturday")
    assert report["bytes"] == (tmp_path / "saturday/data.mdb").stat().st_size
    again = casckpt("-C", store, "backup", "friday")
    assert again.code == 22 and "friday" in again.err and "give a new folder" in again.err
    assert casckpt("-C", store, "backup").code == 2


def test_an_interrupted_backup_says_how_to_tell_what_is_there(
    casckpt: Casckpt, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = History.backup
    for at in ("copying", "waiting for the disk"):

        def backup(self: History, destination: str, *, progress: Any, at: str = at) -> Any:
            def interrupt(stage: str, done: int, total: int) -> None:
                if stage == at:
                    raise KeyboardInterrupt
                progress(stage, done, total)

            return real(self, destination, progress=interrupt)

        monkeypatch.setattr(History, "backup", backup)
        ran = casckpt("-C", store, "backup", tmp_path / at)
        assert ran.code == 130 and "is whole if it has a data.mdb" in ran.err
        if (tmp_path / at / "data.mdb").exists():
            with open_history(tmp_path / at) as copy:
                check(copy)


@pytest.mark.parametrize("command", ["compact", "backup"])
def test_sigint_in_the_midst_of_it_ends_it_with_130_and_leaves_everything_whole(tmp_path: Path, command: str) -> None:
    make(tmp_path / "store", 65536, size=12_000_000)
    place = tmp_path / "copy"
    begun = {"compact": "store/compacting/data.mdb", "backup": "copy/backing-up-*/data.mdb"}[command]
    arguments = [command] if command == "compact" else [command, str(place)]
    for _ in range(20):  # until one of them is met in the midst of it
        shutil.rmtree(place, ignore_errors=True)
        running = subprocess.Popen(
            [sys.executable, "-m", "casckpt", "-C", tmp_path / "store", *arguments], cwd=ROOT, stderr=subprocess.PIPE
        )
        while not list(tmp_path.glob(begun)) and running.poll() is None:
            pass
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=PATIENCE)
        if running.returncode:
            break
    assert running.returncode == 130
    assert err.startswith(b"casckpt: interrupted; ") and err.count(b"\n") == 1
    with open_history(tmp_path / "store") as history:
        assert not (tmp_path / "store/compacting").exists()
        check(history, size=12_000_000)
    assert not list(place.glob("backing-up-*"))
