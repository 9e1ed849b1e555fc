"""What waits in an ingest is written by a thread of its own, once there is a batch of it: while one batch is synced,
the next is hashed. A little is left for the publishing transaction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from casckpt.history.ingest import Ingest
from casckpt.limits import SAVE_BATCH
from casckpt.store.heap import kept_heap
from casckpt.tensors.bell import Bell
from casckpt.tensors.staging import Pool
from casckpt.tensors.threads import begin


class Writer:
    """The writer of one save. largest: bytes of its largest chunk."""

    def __init__(self, ingest: Ingest, pool: Pool, largest: int) -> None:
        self._ingest = ingest
        self._pool = pool
        self._largest = largest
        self._lock = threading.Lock()
        self._news = Bell()
        self._has_begun = False
        self._is_running = False
        self._writing = threading.Lock()
        self._hurried = 0  # who wait for memory
        self._ending = False
        self._failure: BaseException | None = None

    def look(self) -> None:
        """Something was added."""
        if self._is_due():
            self._wake()

    def _is_due(self) -> bool:
        waiting = self._ingest.waiting_bytes
        return waiting >= SAVE_BATCH or (self._hurried > 0 and waiting > 0)

    @property
    def is_hurried(self) -> bool:
        """Whether anybody waits for memory."""
        return self._hurried > 0

    def make_room(self, freed: int, may_go_on: Callable[[], bool]) -> None:
        """Return once memory has come free since the pool counted `freed`, or `may_go_on` says so; until then write
        whatever is added, however little: others may still hold what is in the way, and add it when nobody comes after
        them.

        Raises:
            whatever writing raised.
        """
        with self._lock:
            self._hurried += 1
        try:
            self._wake()
            self._pool.wait(freed, lambda: self._failure is not None or may_go_on())
        finally:
            with self._lock:
                self._hurried -= 1
        self.check()

    def _wake(self) -> None:
        with self._lock:
            if not self._has_begun:
                try:
                    self._has_begun = True  # also where an interrupt comes now
                    self._has_begun = begin(self._run)
                except BaseException as error:
                    self.fail(error)
                    raise
            self._news.ring()
        if not self._has_begun:
            self._write()

    def _run(self) -> None:
        with self._lock:
            if self._ending:
                return  # nobody waits for this thread
            self._is_running = True
        try:
            with kept_heap(SAVE_BATCH, self._largest):
                while self._failure is None:
                    self._news.wait_for(lambda: self._ending or self._is_due())
                    if self._ending:
                        return
                    self._write()
        except BaseException as error:  # no memory, say: nobody must wait for it in vain
            self.fail(error)
        finally:
            self._is_running = False
            self._news.ring()

    def _write(self) -> None:
        try:
            with self._writing:
                self._ingest.flush()
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Have nobody wait any more: whoever does gets this error."""
        self._failure = error
        self._pool.wake()

    def check(self) -> None:
        """Raise what writing raised."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Everything was added: write it, unless it is so little that it goes with the publishing transaction."""
        if self._has_begun:
            self.stop()
            self.check()
            self._ingest.flush()
        self.check()

    def stop(self) -> None:
        """Write no more; returns, or raises an interrupt, when nothing is being written."""
        interrupt: BaseException | None = None
        while True:
            try:
                with self._lock:
                    self._ending = True
                self._news.ring()
                self._news.wait_for(lambda: not self._is_running)
                break
            except BaseException as error:  # the snapshots that the thread reads must not be ended under it
                interrupt = error
        if interrupt is not None:
            raise interrupt
