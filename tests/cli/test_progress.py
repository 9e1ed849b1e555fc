"""The progress display: there for whatever takes a while, silent for what does not or where nobody looks."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from casckpt.cli import progress
from casckpt.cli.progress import Watch, amount
from tests.cli.terminal import COLUMNS, Terminal


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "_PATIENCE", 0.05)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich draws as if stderr were a terminal
    yield


pytestmark = pytest.mark.usefixtures("no_patience")


def test_what_takes_a_while_is_shown_with_its_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch("looking", shown=True) as watch:
        time.sleep(0.3)
        watch("deleting", 3, 10)
        time.sleep(0.3)
        assert watch.stage == "deleting (3 of 10)"
    shown = capsys.readouterr()
    assert "looking" in shown.err
    assert "deleting" in shown.err
    assert shown.out == ""


def test_what_is_quick_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch("looking", shown=True) as watch:
        watch("deleting", 3, 10)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch("looking") as watch:
        time.sleep(0.2)
        assert watch.stage == "looking"
    assert capsys.readouterr().err == ""


def test_a_display_that_comes_late_is_not_begun(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch("looking", shown=True) as watch:
        pass
    watch._show()
    assert capsys.readouterr().err == ""


def test_amounts() -> None:
    assert [amount(1 << 20, "bytes"), amount(1200, "chunks"), amount(3, "")] == ["1.00 MiB", "1,200 chunks", "3"]


PROGRAM = """
import sys, time
from casckpt.cli import progress
progress._PATIENCE = 0
unit, *stages = sys.argv[1:]
with progress.Watch("beginning", unit=unit) as watch:
    while watch._bar is None:  # it comes from a thread of its own
        time.sleep(0.01)
    with watch._lock:  # held until it is drawn
        pass
    for stage in stages:
        name, done, total = stage.rsplit(",", 2)
        print("at", name[:9])
        for some in range(int(done) + 1):  # in steps, so that there is a rate
            watch(name, some * 1000, int(total) * 1000)
        input()
print("over")
"""


def displays(tmp_path: Path, unit: str, *stages: str) -> list[str]:
    """The line that stands on a real terminal at each stage, once it is drawn as it stays."""
    found = []
    with Terminal("-c", PROGRAM, unit, *stages, cwd=tmp_path) as terminal:
        for stage in stages:
            _, done, total = stage.rsplit(",", 2)
            count = progress.amount(int(done) * 1000, unit) if unit == "bytes" else f"{int(done) * 1000:,}"
            terminal.wait_for(f"{count} of " if int(total) else count if int(done) else "━ 0:0")
            if int(total):
                terminal.wait_for("left")
            found.append(next(line for line in reversed(terminal.lines) if "━" in line))
            terminal.type("\n")
        assert terminal.end() == 0
        assert max(map(len, terminal.lines)) <= COLUMNS
        assert "━" not in terminal.text  # it leaves nothing behind
        assert "over" in terminal.text
    return found


def test_a_stage_with_an_end_shows_amount_rate_and_time_left(tmp_path: Path) -> None:
    (line,) = displays(tmp_path, "bytes", "copying,30,40")
    assert re.search(r"copying ━+.* 29\.3 KiB of 39\.1 KiB, [\d.]+ [KMG]iB/s, \d:\d\d left$", line)
    (line,) = displays(tmp_path, "chunks", "copying,30,40")
    assert re.search(r"copying ━+.* 30,000 of 40,000 chunks, [\d,]+/s, \d:\d\d left$", line)


def test_a_stage_without_an_end_shows_no_time_left_also_behind_one_that_had_one(tmp_path: Path) -> None:
    with_end, without, counted = displays(tmp_path, "bytes", "copying,30,40", "syncing,0,0", "looking,5,0")
    assert "left" in with_end
    assert re.search(r"syncing ━+ \d:\d\d$", without)
    assert re.search(r"looking ━+ 4\.88 KiB, \d:\d\d$", counted)


def test_a_long_stage_is_cut_and_the_line_stays_one(tmp_path: Path) -> None:
    name = "importing [red]checkpoint-000000001000/model-00001-of-00030.safetensors"
    lines = displays(tmp_path, "bytes", f"{name},30,40", f"{name},0,0")
    assert all(len(line) <= COLUMNS and "importing [red]" in line and "…" in line for line in lines)
    assert "left" in lines[0]
