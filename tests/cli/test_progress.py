"""The progress display: there for whatever takes a while, silent for what does not or where nobody looks."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from casckpt.cli import progress
from casckpt.cli.progress import Watch


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "_PATIENCE", 0.05)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich draws as if stderr were a terminal
    yield


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
