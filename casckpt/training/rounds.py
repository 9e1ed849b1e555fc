"""Work that is done again whenever it was asked for, on a thread of its own: upkeep behind training."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from casckpt.history.commits import Commit
from casckpt.tensors.bell import Bell
from casckpt.tensors.threads import begin, wait_at_exit


class Rounds:
    """Calls `work` whenever it was asked for, on a thread of its own and one call at a time.

    What is asked for during a call, however often, is one more call. The thread lives as long as there is something to
    do, so that a fork never meets an idle one; the interpreter's exit waits for the call that is under way.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._new_lock()
        _all.add(self)
        wait_at_exit(self)

    def _new_lock(self) -> None:
        self._lock = threading.Lock()
        self._news = Bell()
        self._asked = False
        self._busy = False
        self.failures: deque[BaseException] = deque()
        """What calls raised, to be taken from here."""

    def landed(self, pending: Future[Commit]) -> None:
        """Ask, if this commit is durable; called on the thread that made it."""
        if not pending.cancelled() and Future.exception(pending) is None:  # which tells nobody of an error
            self.ask()

    def ask(self) -> None:
        """Have a call made; returns at once."""
        with self._lock:
            self._asked = True
            if self._busy:
                return
        begin(self._run)  # else whoever waits does it, or the next run

    def wait(self) -> None:
        """Return when all that was asked for is done."""
        while True:
            self._news.wait_for(lambda: not self._busy)
            with self._lock:
                if not self._asked and not self._busy:
                    return
            self._run()  # its thread has not begun yet, or could not

    def finish(self) -> None:
        """Return when the call that is under way is done; one that was asked for is left to the next run."""
        with self._lock:
            self._asked = False
        self._news.wait_for(lambda: not self._busy)

    def _run(self) -> None:
        mine = True
        while mine:
            mine = False
            try:
                with self._lock:
                    if self._busy or not self._asked:
                        return
                    self._asked = False
                    mine = self._busy = True
                self._work()
            except Exception as error:
                self.failures.append(error)
            finally:
                if mine:
                    with self._lock:
                        self._busy = False
                    self._news.ring()


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, which report nothing
    for rounds in list(_all):
        rounds._new_lock()  # the thread that may have held it is not here


# Every one, for the child of a fork to find.
_all: weakref.WeakSet[Rounds] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
