"""Programs that interrupt the store by real signals, at many moments: `python -m tests.store.interrupts NAME STORE`.

Each is a process of its own. An interrupt may fall into the code of whatever else runs in the process, the tracer of
coverage with its lock among it; and the timer is the one by which pytest limits the time of a test.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from casckpt.errors import StoreBusyError
from casckpt.store.protocol import Space
from tests.store.wasteful import KEPT, check, commit_steps, open_history

_is_armed = False


def interrupt_in(seconds: float) -> None:
    """Raise KeyboardInterrupt in the main thread then; 0: never, also where the timer has gone off already.

    The kernel may hand the signal to any thread, which may come to run it long after the timer was stopped here.
    """
    global _is_armed
    _is_armed = seconds > 0
    signal.setitimer(signal.ITIMER_REAL, seconds)


def raise_interrupt(number: int, frame: object) -> None:
    """The handler of the timer's signal: one interrupt for each time it was set."""
    global _is_armed
    if _is_armed:
        _is_armed = False
        raise KeyboardInterrupt


def in_thread(work: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(60)


def compact(path: Path) -> None:
    """Interrupts at sixty moments of a compaction."""
    ended = 0
    with open_history(path) as history:
        began = time.monotonic()
        history.compact()
        lasts = time.monotonic() - began
        for number in range(60):
            try:
                interrupt_in(max(1e-5, lasts * number / 50))
                history.compact()
                ended += 1
                interrupt_in(0)
            except (KeyboardInterrupt, StoreBusyError):
                pass  # an interrupt just when its thread was started does not wait for it to stop
            check(history)
        commit_steps(history, KEPT, KEPT + 1)
    assert ended < 60


def gate(path: Path) -> None:
    """`with condition` enters by a function of Python's, which an interrupt leaves with the lock taken."""
    with open_history(path) as history:
        environment = history.store._environment
        for number in range(1500):
            with contextlib.suppress(KeyboardInterrupt):
                interrupt_in(1e-5 + number % 100 * 4e-6)
                while True:
                    environment.gate.wake()

        def free() -> bool:
            taken = environment.gate.lock.acquire(timeout=10)
            if taken:
                environment.gate.lock.release()
            return taken

        assert in_thread(free)


def backup(path: Path) -> None:
    """LMDB's copying ends too, wherever it is, and a pipe that nobody reads any more does not kill."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    came = 0
    with open_history(path) as history:
        commit_steps(history, KEPT, KEPT + 1, size=20_000_000)
        for number in range(25):
            place = path.parent / str(number)
            try:
                interrupt_in(0.0005 + 0.002 * number)
                history.backup(place)
                interrupt_in(0)
            except KeyboardInterrupt:
                came += 1
            while history.store._environment.gate.live:
                time.sleep(0.001)
            while any(thread.name.startswith("casckpt") for thread in threading.enumerate()):
                time.sleep(0.001)
            names = {entry.name for entry in place.iterdir()} if place.exists() else set()
            assert names in (set(), {"data.mdb", "mark", "gate"})
    assert came


def transactions(path: Path) -> None:
    """Neither the writer's lock nor LMDB's is kept, wherever in a transaction the interrupt falls."""
    with open_history(path) as history:
        store = history.store

        def work() -> None:
            with store.write(durable=False, room=None) as writer:
                writer.put(Space.PIN, b"key", b"value")
            with store.read() as reader:
                reader.get(Space.PIN, b"key")

        def from_another_thread() -> bool:
            with store.write(durable=True, room=None) as writer:
                return writer.get(Space.PIN, b"key") is not None

        for number in range(600):
            with contextlib.suppress(KeyboardInterrupt):
                interrupt_in(1e-5 + number % 300 * 2e-6)
                for _ in range(50):
                    work()
            assert store._environment.gate.live == set()
            assert store._environment._writing_thread is None
        assert in_thread(from_another_thread)


PROGRAMS = {program.__name__: program for program in (compact, gate, backup, transactions)}

if __name__ == "__main__":
    signal.signal(signal.SIGALRM, raise_interrupt)
    try:
        PROGRAMS[sys.argv[1]](Path(sys.argv[2]))
    finally:
        interrupt_in(0)
