"""Waiting for something to change, where an interrupt may fall anywhere into the wait.

`threading.Condition` waits in Python, between letting go of its lock and taking it again. An interrupt there leaves
with the lock not held, and whoever entered it gives back the lock of another thread, which fails in turn, or for ever.
"""

from __future__ import annotations

import contextlib
from _thread import LockType, allocate_lock
from collections.abc import Callable


class Bell:
    """Wakes all who wait, to look again. No lock is held while they look, and each waits at a lock of its own."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[LockType] = set()  # each is held; to be let go of by whoever rings

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Return once it is so: it is asked at once, and after each `ring`."""
        while not is_so():
            mine = allocate_lock()
            mine.acquire()
            self._waiting.add(mine)
            try:
                if is_so():  # asked again now that no ring is missed
                    return
                mine.acquire()
            finally:
                self._waiting.discard(mine)

    def ring(self) -> None:
        """Something has changed."""
        for lock in self._waiting.copy():
            with contextlib.suppress(RuntimeError):  # by another who rings, a moment ago
                lock.release()
