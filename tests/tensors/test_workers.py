"""Threads that work on chunks: every item is done once or the first error is told, with as many threads as there are."""

from __future__ import annotations

import threading

import pytest

from casckpt.tensors.workers import each


def no_more_threads(*_args: object) -> None:
    raise RuntimeError("can't create new thread at interpreter shutdown")


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_where_no_more_threads_can_be_begun_those_that_are_there_do_the_work(monkeypatch, begun: int) -> None:
    """From Python 3.12 on, none can be while the interpreter waits for a commit in flight at its end."""
    start, left = threading.Thread.start, [begun]

    def few(thread: threading.Thread) -> None:
        if not left[0]:
            no_more_threads()
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    done: list[int] = []
    each(done.append, range(1000), threads=4)
    assert sorted(done) == list(range(1000))


def test_an_interrupt_while_threads_are_begun_ends_the_work(monkeypatch) -> None:
    start, working = threading.Thread.start, threading.Event()

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        assert working.wait(60)
        raise KeyboardInterrupt

    done: list[int] = []

    def work(item: int) -> None:
        working.set()
        done.append(item)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        each(work, range(10_000_000), threads=2)
    count = len(done)
    assert count < 10_000_000
    assert not [thread for thread in threading.enumerate() if thread.name == "casckpt-worker"]
    assert len(done) == count


def test_the_first_error_ends_the_work_of_all() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="3"):
        each(work, range(1_000_000), threads=3)
    assert len(done) < 1_000_000
