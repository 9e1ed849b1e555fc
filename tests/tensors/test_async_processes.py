"""commit_async in real processes: exits wait for it, kills lose no acknowledged commit, interrupts do no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import casckpt
from tests.equality import assert_same
from tests.processes import ROOT, Program, run
from tests.tensors.async_interrupts import PROGRAMS

START = """
    import atexit, os, sys, threading
    import torch, casckpt
    repo = casckpt.open(sys.argv[1], chunk_size=4096)
    state = {"w": torch.full((2_000_000,), 1.0)}
"""
ENDINGS = {
    "at the end of the program": "repo.commit_async(state, step=1); state['w'].zero_()",
    "by sys.exit": "repo.commit_async(state, step=1); state['w'].zero_(); sys.exit(0)",
    "with several": """
    for n in range(3):
        repo.commit_async(state, step=n, in_flight=3)
    state['w'].zero_()
    repo.commit_async({"w": torch.full((2_000_000,), 1.0)}, step=1, in_flight=4)
    """,
    "from atexit": "atexit.register(lambda: repo.commit_async(state, step=1))",
    "from atexit, beside another": """
    repo.commit_async(state, step=0)
    atexit.register(lambda: repo.commit_async(state, step=1))
    """,
    "from atexit, with a callback": """
    def last():
        first = repo.commit_async(state, step=0)
        first.add_done_callback(lambda _: repo.commit_async(state, step=1))
    atexit.register(last)
    """,
    "from a thread that outlives the main one": """
    threading.Thread(target=lambda: (threading.main_thread().join(), repo.commit_async(state, step=1))).start()
    """,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_s_exit_waits_for_what_is_in_flight(tmp_path, ending) -> None:
    run(START + "    " + ENDINGS[ending].strip() + "\n", tmp_path / "store")
    with casckpt.open(tmp_path / "store") as repo:
        assert repo.resolve().step == 1
        assert_same({"w": torch.full((2_000_000,), 1.0)}, repo.load())
        assert repo.fsck(read_data=True).ok


def test_an_exception_that_ends_the_program_waits_too(tmp_path) -> None:
    with Program(START + "    repo.commit_async(state, step=1); 1 / 0\n", tmp_path / "store") as program:
        _, errors = program.process.communicate(timeout=60)
    assert program.process.returncode == 1 and "ZeroDivisionError" in errors
    with casckpt.open(tmp_path / "store") as repo:
        assert repo.resolve().step == 1


def test_what_failed_and_nobody_asked_for_is_told_at_the_exit(tmp_path) -> None:
    source = (
        START
        + """
    from casckpt.store import filesystem
    filesystem.free_bytes = lambda path: 0
    repo.commit_async(state)
    """
    )
    with Program(source, tmp_path / "store") as program:
        _, errors = program.process.communicate(timeout=60)
    assert program.process.returncode == 0
    assert "nobody was told" in errors and "StoreFullError" in errors and str(tmp_path / "store") in errors


def test_a_child_that_exits_while_commits_are_in_flight_neither_waits_nor_writes(tmp_path) -> None:
    said = run(
        START
        + """
    import warnings
    warnings.simplefilter("ignore")
    for n in range(10):
        pending = repo.commit_async(state, step=n, in_flight=2)
        state["w"] += 1
        child = os.fork()
        if child == 0:
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    repo.close()
    print("went on")
    """,
        tmp_path / "store",
    )
    assert said == "went on\n"
    with casckpt.open(tmp_path / "store") as repo:
        assert [c.step for c in repo.log()] == list(range(9, -1, -1))
        assert (repo.load()["w"] == 10).all()


ENDLESS = """
    import sys, torch, casckpt
    with casckpt.open(sys.argv[1], chunk_size=4096) as repo:
        tip = repo.resolve().step if repo.refs() else 0
        state = {"w": torch.zeros(50_000)}
        before = None
        for n in range(tip + 1, 100_000):
            state["w"][:] = n
            pending = repo.commit_async(state, step=n, in_flight=2)
            state["w"][:] = -1
            if before is not None:
                print(before.result().step, flush=True)
            before = pending
"""


def test_what_was_acknowledged_survives_kill_minus_nine(tmp_path) -> None:
    path = tmp_path / "store"
    for round_number in (0, 2, 4, 7):  # the trials kill by the hundred
        with Program(ENDLESS, path) as program:
            for _ in range(1 + 7 * round_number):
                acknowledged = int(program.line())
            os.kill(program.process.pid, signal.SIGKILL)
            assert program.process.stdout is not None
            for line in program.process.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)
        with casckpt.open(path) as repo:
            tip = repo.resolve().step
            assert tip is not None and acknowledged <= tip <= acknowledged + 2  # two were in flight
            for commit in repo.log(limit=3):
                assert (repo.load(commit.id)["w"] == commit.step).all()
            assert repo.fsck(read_data=True).ok


MEASURED = """
    import sys, threading
    import torch, casckpt

    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10

    state = {str(n): torch.rand(1 << 21) for n in range(36)}  # 288 MiB
    repo = casckpt.open(sys.argv[1])
    repo.commit({"n": 0})
    if sys.argv[2] == "nothing":
        repo.commit(state)
        repo._pool.give_up()
    before, peak, stop = anonymous(), [0], threading.Event()

    def look():
        while not stop.is_set():
            peak[0] = max(peak[0], anonymous())
            stop.wait(0.002)

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(2):
        if sys.argv[2] == "all":
            for tensor in state.values():
                tensor += 1
        repo.commit_async(state).result()
    stop.set()
    looking.join()
    repo.close()
    print(peak[0] - before)
"""


@pytest.mark.parametrize(("changed", "states", "more"), [("all", 1.15, 200_000_000), ("nothing", 0, 100_000_000)])
def test_no_more_memory_is_taken_than_for_what_changed(tmp_path, changed, states, more) -> None:
    assert int(run(MEASURED, tmp_path / "store", changed)) <= states * (288 << 20) + more


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_interrupt_at_any_moment_does_no_harm(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-X",
            "faulthandler",
            "-m",
            "tests.tensors.async_interrupts",
            name,
            tmp_path / "s",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with casckpt.open(tmp_path / "s") as repo:
        assert repo.fsck(read_data=True).ok
