"""How much memory of its own a process takes for `commit_async`, as another one sees it: RssAnon, every millisecond.

`python -m benchmarks.rows.peak` is the process that is looked at. It says when its state is there, and waits for a
line before it begins.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

from benchmarks.disk import check_room, fresh
from benchmarks.goals import Goal, Limit
from benchmarks.measure import BYTES, Series
from benchmarks.memory import anonymous_bytes
from benchmarks.outcome import Outcome, Setting
from benchmarks.rows.row import Row

EVERY = 0.001
COMMITS = 3


def measure(setting: Setting) -> Outcome:
    from benchmarks.states import dense, nbytes

    size = nbytes(dense(setting.size, setting.dtype))
    check_room(setting.folder, 4 * size)
    kinds = {"everything changed": "all", "nothing changed": "nothing"}
    peaks: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(setting.repeats):
        for name, kind in kinds.items():
            peaks[name].append(_peak(setting, kind))
    found = {name: Series(BYTES, tuple(values)) for name, values in peaks.items()}
    found["state"] = Series(BYTES, (float(size),) * setting.repeats)
    note = f"from before the store is opened to behind the last of {COMMITS} commits; a new process for each repeat"
    return Outcome({"peak": found}, note=note)


def _peak(setting: Setting, kind: str) -> float:
    """The most that a process has beyond what it had before it opened the store."""
    folder = fresh(setting.folder / "store")
    request = json.dumps({**setting.to_dict(), "folder": str(folder)})
    command = [sys.executable, "-m", "benchmarks.rows.peak", kind, request]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the process whose memory is measured failed")
        before = most = anonymous_bytes(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(process.stdout.readline()))  # type: ignore[union-attr]  # asserted
        reader.start()
        while reader.is_alive():
            most = max(most, anonymous_bytes(process.pid))
            time.sleep(EVERY)
        if said != ["done\n"]:
            raise RuntimeError("the process whose memory is measured failed")
        process.stdin.write("end\n")
        process.stdin.flush()
    return float(most - before)


def _run(kind: str, setting: Setting) -> None:
    import casckpt
    from benchmarks.states import change_all, dense

    state = dense(setting.size, setting.dtype)
    if kind == "nothing":  # what is there was committed by a process that has ended
        subprocess.run(
            [sys.executable, "-m", "benchmarks.rows.peak", "make", json.dumps(setting.to_dict())], check=True
        )
    import casckpt.tensors.repository

    print("ready", flush=True)
    sys.stdin.readline()
    with casckpt.open(setting.folder / "store") as repo:
        for step in range(COMMITS):
            if kind == "all":
                change_all(state, step)
            made = repo.commit_async(state).result()
            assert (made.figures.new == 0) == (kind == "nothing")
        print("done", flush=True)
        sys.stdin.readline()


def _make(setting: Setting) -> None:
    import casckpt
    from benchmarks.states import dense

    with casckpt.open(setting.folder / "store") as repo:
        repo.commit(dense(setting.size, setting.dtype))


PEAK = Row(
    "memory",
    "peak extra memory of commit_async",
    measure,
    (
        Goal(
            "peak extra anonymous memory of `commit_async`, everything changed, against the state",
            "peak",
            "everything changed",
            "state",
            Limit(1.15, plus=200e6),
            Limit(1.05),
        ),
        Goal(
            "peak extra anonymous memory of `commit_async`, nothing changed",
            "peak",
            "nothing changed",
            None,
            Limit(0, plus=100e6),
            Limit(0, plus=50e6),
        ),
    ),
)

if __name__ == "__main__":
    asked, where = sys.argv[1], Setting.from_dict(json.loads(sys.argv[2]))
    if asked == "make":
        _make(where)
    else:
        _run(asked, where)
