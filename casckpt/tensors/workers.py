"""Work on many pieces by several threads at once, the caller's among them. No thread outlives the call that began it,
so that a fork never meets an idle one.

Threads are enough: what numpy, xxhash, zstandard and lmdb do to a chunk happens without the GIL.
"""

from __future__ import annotations

import contextlib
import os
import threading
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

    threads: how many at once, the caller's included. The first error ends the work: items that are under way are
    finished, no other is begun, and it is raised here.
    """
    pieces = list(items)
    feed = iter(pieces)  # of a list, so that taking the next is one step that no thread can be in the middle of
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for item in feed:
                if failures:
                    return
                work(item)
        except BaseException as error:
            failures.append(error)

    helpers = [threading.Thread(target=run, name="casckpt-worker") for _ in range(min(threads, len(pieces)) - 1)]
    try:
        with contextlib.suppress(
            RuntimeError
        ):  # no more threads: the system's limit, or the interpreter is about to end
            for helper in helpers:
                helper.start()
        run()
    except BaseException as error:  # an interrupt, between the items: the helpers are told by it to stop
        failures.append(error)
    while any(helper.is_alive() for helper in helpers):
        try:
            for helper in helpers:
                if helper.is_alive():
                    helper.join()
        except BaseException as error:  # an interrupt; what the others read and write must not be freed under them
            failures.append(error)
    if failures:
        raise failures[0]
