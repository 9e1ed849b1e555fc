"""`import casckpt` as a whole process, less the same process without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.goals import Goal, Limit
from benchmarks.measure import SECONDS, Series, Turn, alternate, timed
from benchmarks.outcome import Outcome, Setting
from benchmarks.rows.row import Row

BARE, OURS, OPEN = "python", "import casckpt", "casckpt.open"


def measure(setting: Setting) -> Outcome:
    path = str(setting.folder / "store")
    programs = {
        BARE: "pass",
        OURS: "import casckpt",
        OPEN: f"import casckpt; casckpt.open({path!r}).close()",
    }
    found = alternate({name: _process(source) for name, source in programs.items()}, repeats=4 * setting.repeats)
    more = {
        name: Series(
            SECONDS, tuple(whole - bare for whole, bare in zip(series.values, found[BARE].values, strict=True))
        )
        for name, series in found.items()
        if name != BARE
    }
    return Outcome({"process": found, "more": more})


def _process(source: str) -> Turn:
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}

    def turn() -> float:
        with timed() as watch:
            subprocess.run([sys.executable, "-c", source], env=environment, check=True)
        return watch.seconds

    return turn


STARTUP = Row(
    "start-up",
    "start-up without torch",
    measure,
    (
        Goal(
            "`import casckpt`, beyond a bare interpreter",
            "more",
            OURS,
            None,
            Limit(0, plus=0.060),
            Limit(0, plus=0.030),
        ),
    ),
)
