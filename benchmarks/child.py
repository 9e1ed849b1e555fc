"""One row in a process of its own, so that no row pays for another's memory: `python -m benchmarks.child REQUEST`.

The request is JSON: the row's name, its setting, and the file that the outcome goes to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.disk import fresh, remove
from benchmarks.outcome import Outcome, Setting

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that raised; the last line says what."""

    error: str


def measure_apart(name: str, setting: Setting) -> Outcome | Failed:
    """A row's outcome, measured in a process of its own; its folder is empty before and gone afterwards."""
    fresh(setting.folder)
    answer = setting.folder.with_suffix(".json")
    request = json.dumps({"name": name, "setting": setting.to_dict(), "answer": str(answer)})
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.child", request],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.stderr.write(done.stderr)
            return Failed((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
        return Outcome.from_dict(json.loads(answer.read_text()))
    finally:
        remove(setting.folder)
        remove(answer)


def main(request: dict[str, Any]) -> None:
    import torch

    from benchmarks.rows.all import ROWS
    from benchmarks.rows.workloads import row_of

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    row = ROWS.get(request["name"]) or row_of(request["name"])
    outcome = row.measure(Setting.from_dict(request["setting"]))
    Path(request["answer"]).write_text(json.dumps(outcome.to_dict()))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
