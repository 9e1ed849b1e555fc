"""An interrupt by a real signal, at any moment, leaves a store whole, free and in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.store.interrupts import PROGRAMS
from tests.store.wasteful import make, open_history, sound


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_interrupt_at_any_moment_does_no_harm(name: str, tmp_path: Path) -> None:
    make(tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.store.interrupts", name, str(tmp_path / "store")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    with open_history(tmp_path / "store") as history:
        assert sound(history)
