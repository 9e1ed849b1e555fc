"""A warm process does not outlive whoever had it started, hung though it may be."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.processes import Program

PROGRAM = """
import sys
from pathlib import Path
from tests.trials.warm import warm
for _ in warm("tests.trials.test_warm:told")([0], Path(sys.argv[1])):
    pass
"""


def told(seed: int, folder: Path) -> None:
    """A trial that hangs, when it has said who it is and opened a pipe for as long as it lives."""
    held = os.open(folder / "pipe", os.O_WRONLY)
    os.write(held, b"%d" % os.getpid())
    signal.pause()


def test_a_hung_process_ends_with_whoever_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with Program(PROGRAM, tmp_path) as program, (tmp_path / "pipe").open("rb", buffering=0) as pipe:
        assert int(pipe.read(20))
        program.process.kill()
        assert pipe.read(1) == b"", "it is gone, and has closed its end"
