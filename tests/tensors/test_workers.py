"""Threads that work on chunks: every item once, and whatever ends the work, nobody is at it any more afterwards."""

from __future__ import annotations

import _thread
import os
import threading
from typing import Any

import pytest

from casckpt.tensors.workers import each, thread_count
from tests.processes import run


@pytest.mark.parametrize("threads", [0, 1, 2, 5, 100])
@pytest.mark.parametrize("items", [0, 1, 3, 500])
def test_every_item_is_worked_on_once_in_order_by_no_more_threads(threads, items) -> None:
    begun: list[int] = []
    seen: set[int] = set()

    def work(item: int) -> None:
        begun.append(item)
        seen.add(threading.get_ident())

    each(work, iter(range(items)), threads=threads)
    assert sorted(begun) == list(range(items))
    assert len(seen) <= max(threads, 1)
    if threads < 2:
        assert begun == sorted(begun)


def test_as_many_are_at_work_at_once_as_were_asked_for() -> None:
    together = threading.Barrier(4)
    each(lambda item: together.wait(60), range(4), threads=4)


def test_no_thread_outlives_the_call() -> None:
    before = _thread._count()
    for _ in range(50):
        each(lambda item: None, range(20), threads=4)
        gone = threading.Event()
        while _thread._count() > before:  # its last microseconds
            gone.wait(0.001)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_ends_the_work_once_what_is_under_way_is_done(threads) -> None:
    ended: list[int] = []
    failed = threading.Event()

    def work(item: int) -> None:
        if item == 5:
            failed.set()
            raise ValueError("five")
        if item > 5:
            failed.wait(60)
        ended.append(item)

    with pytest.raises(ValueError, match="five"):
        each(work, range(1000), threads=threads)
    assert len(ended) < 5 + 2 * threads
    assert set(range(5)) <= set(ended)


def test_fewer_threads_do_where_no_more_are_to_be_had(monkeypatch) -> None:
    start, started = _thread.start_new_thread, []

    def once(*body: Any) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(start(*body))

    monkeypatch.setattr("casckpt.tensors.workers.start_new_thread", once)
    done: list[int] = []
    each(done.append, range(100), threads=4)
    assert sorted(done) == list(range(100))


def test_a_thread_that_comes_too_late_begins_nothing(monkeypatch) -> None:
    """An interrupt behind the start of a thread leaves one that may not have begun."""
    bodies: list[Any] = []

    def interrupted(body: Any, arguments: Any) -> None:
        bodies.append(body)
        raise KeyboardInterrupt

    monkeypatch.setattr("casckpt.tensors.workers.start_new_thread", interrupted)
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        each(done.append, range(100), threads=3)
    (late,) = bodies
    late()
    assert done == []


def test_the_cores_that_may_be_used_are(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)), raising=False)
    assert thread_count() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(99)), raising=False)
    assert thread_count() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert thread_count() == 1


INTERRUPTED = """
    import _thread, signal, sys, time
    from casckpt.tensors.workers import each
    from tests.store.interrupts import interrupt_in, raise_interrupt

    signal.signal(signal.SIGALRM, raise_interrupt)
    sys.setswitchinterval(1e-5)
    came = late = 0
    main = _thread.get_ident()

    for number in range(3000):
        over = False

        def work(item):
            global late
            long = number % 2 and _thread.get_ident() != main  # then the others are waited for
            for _ in range(4000 if long else 40):
                late += over

        try:
            interrupt_in(1e-5 + number % 150 * 6e-6)
            each(work, range(30), threads=3)
            interrupt_in(0)
        except KeyboardInterrupt:
            came += 1
        over = True
        while _thread._count():
            time.sleep(0)
    print(came, late)
"""


def test_wherever_an_interrupt_falls_nobody_is_at_work_afterwards() -> None:
    came, late = map(int, run(INTERRUPTED).split())
    assert came > 300
    assert late == 0
