"""Work on many pieces by several threads at once, the caller's among them. No thread outlives the call that began it,
so that a fork never meets an idle one.

Threads are enough: what numpy, xxhash, zstandard and lmdb do to a chunk happens without the GIL.
"""

from __future__ import annotations

import contextlib
import os
from _thread import LockType, allocate_lock, start_new_thread  # a Thread that is interrupted at its start hangs at exit
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

# Memory, not cores, limits what is done to chunks; beyond so many threads there is nothing left to gain.
_MOST: Final = 8


def thread_count() -> int:
    """How many threads to work on chunks with: the cores that this process may use, and 8 at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, _MOST))


def each(work: Callable[[T], object], items: Iterable[T], *, threads: int) -> None:
    """Call `work` with every item, in order of their beginning; returns when all are done.

    threads: how many at once, the caller's included; fewer where no more are to be had. The first error ends the work:
    items that are under way are finished, no other is begun, and it is raised here. So does an interrupt: what the
    others read and write is not freed under them.
    """
    pieces = list(items)
    # Both of lists, so that to take the next, and to take all that are left, is one step that nothing can come into.
    feed = iter(pieces)
    at_work = [allocate_lock() for _ in range(min(threads, len(pieces)) - 1)]
    door = iter(at_work)  # who comes too late finds none left, and begins nothing
    outside: list[LockType] = []
    done: list[LockType] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for item in feed:
                work(item)
        except BaseException as error:
            failures.append(error)
            deque(feed, 0)

    def help_out() -> None:
        mine = next(door, None)
        if mine is not None:
            run()
            done.append(mine)
            mine.release()

    try:
        for lock in at_work:
            lock.acquire()
        with contextlib.suppress(
            RuntimeError
        ):  # no more threads: the system's limit, or the interpreter is about to end
            for _ in at_work:
                start_new_thread(help_out, ())
        run()
    finally:
        while True:
            try:
                deque(feed, 0)  # something is left only after an interrupt
                outside.extend(door)
                for lock in at_work[: len(at_work) - len(outside)]:
                    while lock not in done:
                        lock.acquire()
                break
            except BaseException as error:  # another interrupt
                failures.append(error)
    if failures:
        raise failures[0]
