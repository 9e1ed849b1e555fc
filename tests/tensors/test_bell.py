"""Waits that an interrupt may fall into, and the interpreter's exit."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import casckpt
from casckpt.tensors import threads
from casckpt.tensors.bell import Bell
from tests.processes import run


def test_no_ring_is_missed() -> None:
    bell, rounds = Bell(), 3000
    said = [0, 0]

    def answer() -> None:
        for number in range(1, rounds + 1):
            bell.wait_for(lambda number=number: said[0] == number)
            said[1] = number
            bell.ring()

    thread = threading.Thread(target=answer)
    thread.start()
    for number in range(1, rounds + 1):
        said[0] = number
        bell.ring()
        bell.wait_for(lambda number=number: said[1] == number)
    thread.join(30)
    assert said == [rounds, rounds]
    assert bell._waiting == set()


def test_all_who_wait_are_woken() -> None:
    bell, gate = Bell(), threading.Event()
    waiting = [threading.Thread(target=bell.wait_for, args=(gate.is_set,)) for _ in range(8)]
    for thread in waiting:
        thread.start()
    while len(bell._waiting) < len(waiting):
        time.sleep(0.001)
    gate.set()
    bell.ring()
    for thread in waiting:
        thread.join(30)
    assert not any(thread.is_alive() for thread in waiting)


_INTERRUPTED = """
    import signal, sys, threading, time
    from casckpt.tensors.bell import Bell
    from tests.store.interrupts import interrupt_in, raise_interrupt

    signal.signal(signal.SIGALRM, raise_interrupt)
    sys.setswitchinterval(1e-5)
    bell, ending, said = Bell(), [], [0]

    def ring():
        while not ending:
            said[0] += 1
            bell.ring()

    thread = threading.Thread(target=ring)
    thread.start()
    came = 0
    for number in range(2000):
        try:
            interrupt_in(1e-5 + number % 100 * 3e-6)
            for _ in range(100):
                before = said[0]
                bell.wait_for(lambda: said[0] > before)
            interrupt_in(0)
        except KeyboardInterrupt:
            came += 1
    ending.append(True)
    thread.join(30)
    print(came > 200, thread.is_alive())
"""


def test_an_interrupt_anywhere_in_a_wait_harms_nobody() -> None:
    assert run(_INTERRUPTED) == "True False\n"


def _commit_behind(path: str) -> None:
    # No tensor: torch's own threads, where the parent has used them, hang in a forked child.
    casckpt.open(path).commit_async({"w": np.ones(2_000_000)}, step=1)


def test_the_end_of_a_child_of_multiprocessing_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    for kind in ("fork", "spawn"):
        child = multiprocessing.get_context(kind).Process(target=_commit_behind, args=(str(tmp_path / kind),))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        with casckpt.open(tmp_path / kind) as repo:
            assert [commit.step for commit in repo.log()] == [1]


def test_one_that_cannot_be_finished_keeps_nobody_from_being_waited_for(monkeypatch, caplog) -> None:
    class One:
        def __init__(self, fails: bool) -> None:
            self.fails, self.is_finished = fails, False

        def finish(self) -> None:
            if self.fails:
                raise OSError("no more")
            self.is_finished = True

    monkeypatch.setattr(threads, "_waited", weakref.WeakValueDictionary())
    monkeypatch.setattr(threads, "_exiting", False)
    ones = [One(number % 2 == 0) for number in range(4)]
    for one in ones:
        threads.wait_at_exit(one)
    threads._finish()
    assert [one.is_finished for one in ones] == [False, True, False, True]
    assert caplog.text.count("was not waited for") == 2
    assert not threads.begin(lambda: None)


def test_who_waits_for_a_commit_does_not_wait_for_its_callbacks(tmp_path: Path) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        go_on, asked = threading.Event(), threading.Event()
        pending = repo.commit_async({"w": torch.ones(3_000_000)})
        pending.add_done_callback(lambda _: (asked.set(), go_on.wait(30)))
        assert pending.result().id
        assert asked.wait(30) and not go_on.is_set()
        go_on.set()


def test_an_interrupt_as_the_writers_thread_is_begun_leaves_nobody_waiting(tmp_path: Path, monkeypatch) -> None:
    real = threads.begin

    def interrupted(work: Callable[[], object]) -> bool:
        monkeypatch.undo()
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return real(work)

    for number in range(20):
        with casckpt.open(tmp_path / f"{number}", chunk_size=2048, codec="none") as repo:
            monkeypatch.setattr("casckpt.tensors.staging.SLAB", 16_384)
            monkeypatch.setattr("casckpt.tensors.save._ALONE", 0)
            monkeypatch.setattr("casckpt.tensors.save._RUN", 4096)
            monkeypatch.setattr("casckpt.tensors.committing.SAVE_MEMORY", 40_000)
            monkeypatch.setattr("casckpt.tensors.writer.begin", interrupted)
            with contextlib.suppress(KeyboardInterrupt):
                repo.commit({"w": torch.arange(100_000)})
            monkeypatch.undo()
            repo.commit({"w": torch.arange(100_000)})
            assert torch.equal(repo.load()["w"], torch.arange(100_000))


_AT_THE_END = """
    import atexit, sys, torch

    def late():
        import casckpt
        repo = casckpt.open(sys.argv[1])
        repo.commit_async({"w": torch.ones(2_000_000)}, step=1)

    atexit.register(late)
"""


def test_a_commit_of_what_is_imported_only_at_the_end_is_made(tmp_path: Path) -> None:
    run(_AT_THE_END, tmp_path / "store")
    with casckpt.open(tmp_path / "store") as repo:
        assert [commit.step for commit in repo.log()] == [1]
