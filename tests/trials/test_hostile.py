"""Every parser refuses what is hostile as it says it does: without code, files, hangs, or memory beyond bounds."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from casckpt.errors import CorruptObjectError
from tests.trials.hostile import child, covered, fuzz, strategies
from tests.trials.hostile.target import Target
from tests.trials.recipe import tried

ROUNDS = 3


def test_parsers_refuse_what_is_nearly_right(tmp_path: Path) -> None:
    seeds = range(ROUNDS * len(fuzz.TARGETS))
    found = tried(fuzz.MUTATIONS, seeds, tmp_path)
    assert sum(found.values()) == sum(ROUNDS * fuzz.batch_of(target) for _, target in fuzz.TARGETS) >= 10_000
    for group in fuzz.GROUPS:
        assert found[f"{group}: refused"] > 100 and found[f"{group}: taken"] > 100


def test_parsers_refuse_what_is_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "EXAMPLES", 20)
    found = tried(strategies.MADE_UP, range(len(strategies.STRATEGIES)), tmp_path)
    assert sum(found.values()) >= 5 * len(strategies.STRATEGIES)  # hypothesis may find fewer that are different


def test_parsers_refuse_what_coverage_leads_to(tmp_path: Path) -> None:
    if find_spec("atheris") is None:
        assert tried(covered.COVERED, range(3), tmp_path) == {covered.WITHOUT: 3}
        pytest.skip(covered.WITHOUT)
    found = tried(covered.COVERED, (3, 10, 14), tmp_path)
    assert found == {"objects: inputs": covered.RUNS, "records: inputs": covered.RUNS, "texts: inputs": covered.RUNS}


def test_what_coverage_finds_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("atheris") is None:
        pytest.skip(covered.WITHOUT)
    (tmp_path / "harmed.py").write_text(
        "from tests.trials.hostile import records\nfrom tests.trials.hostile.covered import main\nimport sys\n"
        "records.TARGETS = [__import__('dataclasses').replace(one, allowed=(OSError,)) for one in records.TARGETS]\n"
        "main(*sys.argv[1:])\n"
    )
    monkeypatch.setattr(covered, "PROGRAM", (str(tmp_path / "harmed.py"),))
    with pytest.raises(AssertionError, match=r"(?s)target figures, seed 1: 77.*CorruptObjectError"):
        covered.run("records", "figures", 1, tmp_path)


def test_a_run_that_hangs_is_seen_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covered, "PROGRAM", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(covered, "_PATIENCE", 1)
    with pytest.raises(AssertionError, match="target figures, seed 7: hangs"):
        covered.run("records", "figures", 7, tmp_path)
    assert not (tmp_path / "work").exists()


def test_a_batch_is_the_same_for_the_same_seed() -> None:
    for _, target in fuzz.TARGETS:
        assert list(fuzz.cases(target, 7)) == list(fuzz.cases(target, 7)), target.name


def _hang(data: bytes) -> None:
    time.sleep(60)


def _take_all(data: bytes) -> None:
    bytes(child.MEMORY * 2)


def _write_elsewhere(data: bytes) -> None:
    Path("../elsewhere").write_bytes(data)


def _connect(data: bytes) -> None:
    socket.socket()


def _run_code(data: bytes) -> None:
    eval("len('code')")


def _run_program(data: bytes) -> None:
    subprocess.run(["true"], check=True)


def _die(data: bytes) -> None:
    os.kill(os.getpid(), 11)


def _swallow(data: bytes) -> None:
    """What a broad handler would hide."""
    try:
        _run_code(data)
    except Exception:
        raise CorruptObjectError("refused") from None


@pytest.mark.parametrize(
    "harm", [_hang, _take_all, _write_elsewhere, _connect, _run_code, _run_program, _die, _swallow, len, int]
)
def test_harm_is_seen(tmp_path: Path, harm: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "CASE", 0.5)
    target = Target("harm", lambda: [b"x"], harm)
    if harm is len:  # the one that does none
        assert fuzz.outcome("objects", target, 0, tmp_path) == {"objects: taken": fuzz.batch_of(target)}
        return
    with pytest.raises(AssertionError, match="target harm, seed 0, case 0"):
        fuzz.outcome("objects", target, 0, tmp_path)
    assert not (tmp_path.parent / "elsewhere").exists()
