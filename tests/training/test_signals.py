"""Signals: noted once, acted on when the state is safe, never swallowed, and never in anybody else's way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import casckpt
from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository
from casckpt.training.signals import Signals
from tests.processes import Program

USR = signal.SIGUSR1


@pytest.fixture
def repo() -> Iterator[Repository]:
    with Repository(MemoryStore()) as made:
        yield made


@pytest.fixture
def caught() -> Iterator[list[int]]:
    """Signals that came to the handler that was there before."""
    found: list[int] = []
    before = signal.signal(USR, lambda number, _: found.append(number))
    yield found
    signal.signal(USR, before)


def checkpointer(repo: Repository, **settings: Any) -> casckpt.Checkpointer:
    return casckpt.Checkpointer(repo, data={"n": torch.zeros(1)}, **{"signals": (USR,), **settings})


def test_the_next_step_commits_and_then_lets_the_signal_take_its_course(repo: Repository, caught: list[int]) -> None:
    with checkpointer(repo, keep=casckpt.Keep(last=1)) as ckpt:
        ckpt.step(1)
        assert not ckpt.preempted
        os.kill(os.getpid(), USR)
        assert ckpt.preempted
        assert caught == []
        assert list(repo.log()) == []
        ckpt.step(2)
        assert caught == [USR]
        assert repo.resolve().step == 2
        assert repo.resolve().message == "stopped by SIGUSR1"
        os.kill(os.getpid(), USR)
        assert caught == [USR, USR], "the handler that was there is back"
        ckpt.step(3)
        assert repo.resolve().step == 2
        assert ckpt.preempted
    assert repo.resolve().step == 3


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="this platform has no real-time signals")
def test_a_signal_without_a_name_is_committed_at_as_well(repo: Repository) -> None:
    number = signal.SIGRTMIN + 1
    found: list[int] = []
    before = signal.signal(number, lambda came, _: found.append(came))
    try:
        with checkpointer(repo, signals=(number,)) as ckpt:
            os.kill(os.getpid(), number)
            ckpt.step(1)
            assert repo.resolve().message == f"stopped by signal {number}"
            assert found == [number]
    finally:
        signal.signal(number, before)


def test_a_second_signal_acts_at_once(repo: Repository, caught: list[int]) -> None:
    with checkpointer(repo) as ckpt:
        os.kill(os.getpid(), USR)
        os.kill(os.getpid(), USR)
        assert caught == [USR]
        ckpt.step(1)
        assert list(repo.log()) == [], "it was acted on already"


def test_leaving_the_block_acts_on_what_was_noted(repo: Repository, caught: list[int]) -> None:
    handler = signal.getsignal(USR)
    with checkpointer(repo) as ckpt:
        assert signal.getsignal(USR) != handler
        ckpt.step(1)
        os.kill(os.getpid(), USR)
    assert caught == [USR]
    assert repo.resolve().step == 1
    assert signal.getsignal(USR) is handler
    with pytest.raises(ZeroDivisionError), checkpointer(repo) as ckpt:
        ckpt.step(2)
        os.kill(os.getpid(), USR)
        raise ZeroDivisionError
    assert caught == [USR, USR]
    assert repo.resolve().step == 1
    assert signal.getsignal(USR) is handler


def test_a_handler_that_was_set_later_is_left_alone(repo: Repository, caught: list[int]) -> None:
    with checkpointer(repo):
        signal.signal(USR, signal.SIG_IGN)
    assert signal.getsignal(USR) is signal.SIG_IGN


def test_nothing_is_set_off_the_main_thread_or_where_nothing_was_asked_for(repo: Repository, caught: list[int]) -> None:
    handler = signal.getsignal(USR)
    seen: list[Any] = []

    def work() -> None:
        with checkpointer(repo) as ckpt:
            seen.append(signal.getsignal(USR))
            ckpt.step(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with checkpointer(repo, signals=()):
        seen.append(signal.getsignal(USR))
    assert seen == [handler, handler]
    assert repo.resolve().step == 1


def test_a_handler_that_python_cannot_put_back_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("replaced"))
    signals = Signals((USR,))
    signals.listen()
    signals.restore()


def test_a_forked_child_is_stopped_at_once_but_leaves_the_first_ctrl_c_to_its_parent() -> None:
    program = Program("""
        import os, signal, time
        from casckpt.training.signals import Signals

        signals = Signals((signal.SIGTERM, signal.SIGINT))
        signals.listen()
        signals.listen()

        def child():
            pid = os.fork()
            if pid == 0:
                os.write(1, b"ready\\n")
                time.sleep(10)
                time.sleep(10)
                os._exit(7)
            return pid

        def ended(pid):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        first = child()
        assert input() == "go"
        os.kill(first, signal.SIGTERM)
        assert ended(first) == -signal.SIGTERM
        second = child()
        assert input() == "go"
        os.kill(second, signal.SIGINT)
        time.sleep(0.1)
        assert os.waitpid(second, os.WNOHANG) == (0, 0)
        os.kill(second, signal.SIGTERM)
        ended(second)
        assert not signals.came and signals.noted is None
        print("done")
    """)
    assert program.line() == "ready"
    program.say("go")
    assert program.line() == "ready"
    program.say("go")
    assert program.end(None) == "done\n"
