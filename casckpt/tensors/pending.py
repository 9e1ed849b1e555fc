"""Commits that are under way behind training: what the caller holds of each, and the lane that they go through.

None is lost without a word: an error that nobody asked for comes up at the next commit, or at the close.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from casckpt.errors import ForkedStoreError, StoreBusyError
from casckpt.history.commits import Commit


@dataclass(frozen=True, slots=True)
class SaveFigures:
    """What a commit cost. stall: seconds for which the caller was kept, `waited` of them for commits before it.

    hashed: bytes that were hashed, in live memory or in the pool. copied: bytes that changed, or may have, and were
    copied to the pool. written: bytes of frames that went into the store. seconds: by stage, as far as it has come:
    "take" (the state is read), "store" (hashed, encoded and written), "trees", "publish" (the sync is in it).
    """

    stall: float = 0.0
    waited: float = 0.0
    hashed: int = 0
    copied: int = 0
    written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class PendingCommit(Future[Commit]):
    """A commit that was handed over: `result()` gives it once it is durable.

    As a future of `concurrent.futures` it has `done`, `exception`, `add_done_callback` (called on the thread that made
    the commit), and `cancel`, which works as long as its turn has not come.
    """

    def __init__(self, store: str) -> None:
        super().__init__()
        self.figures = SaveFigures()
        """What it cost, as far as it has come."""
        self._store = store
        self._process = os.getpid()
        self.seen = False
        """Whether somebody was told how it ended."""

    def result(self, timeout: float | None = None) -> Commit:
        """The commit, once it is durable.

        timeout: seconds to wait at most.

        Raises:
            TimeoutError, CancelledError
            RefMovedError: somebody else moved the branch; nothing was published.
            AbandonedCommitError: the commit before it failed.
            StoreFullError: nothing was published.
            StoreFailedError: the outcome is unknown; open the store again and look.
            ForkedStoreError: this is a child of the process that makes the commit.
        """
        self.exception(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` raises, or None, once it is done."""
        self._check_process()
        error = super().exception(timeout)
        self.seen = self.seen or error is not None
        return error

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ForkedStoreError(
                "this process is a forked child of the one that makes the commit",
                store=self._store,
                remedy="wait for it there",
            )


class Lane:
    """Work behind the caller, one thing at a time, in the order in which it was handed over.

    Its thread lives as long as there is some; the interpreter's exit waits for it.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        # Entered itself, not by the condition, whose own entering is Python: an interrupt there would keep it for ever.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Callable[[], object]] = deque()
        self._in_flight = 0
        self._thread: int | None = None
        self._lost: list[PendingCommit] = []

    def put(self, work: Callable[[], object]) -> None:
        """Hand over work that raises nothing."""
        with self._lock:
            self._waiting.append(work)
            self._in_flight += 1
            if self._thread is not None:
                return
            self._thread = -1
        try:
            threading.Thread(target=self._run, name="casckpt-commit").start()
        except RuntimeError:  # the interpreter is about to end: no new threads
            self._run()

    def _run(self) -> None:
        self._thread = threading.get_ident()
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                work = self._waiting.popleft()
            try:
                work()
            finally:
                del work  # what it holds must not live until the next comes
                with self._lock:
                    self._in_flight -= 1
                    self._changed.notify_all()

    def has_room(self, most: int) -> bool:
        """Whether no more than so many things are not done; on the lane's own thread, beside the one it is in."""
        return self._in_flight - (self._thread == threading.get_ident()) <= most

    def wait(self, most: int = 0) -> None:
        """Return once `has_room`.

        Raises:
            StoreBusyError: this is the thread that does them.
        """
        with self._lock:
            if self._thread == threading.get_ident() and not self.has_room(most):
                raise StoreBusyError(
                    "a callback of a commit cannot wait for those behind it",
                    store=self._store,
                    holders=("this thread",),
                    remedy="do it on another thread",
                )
            self._changed.wait_for(lambda: self.has_room(most))

    def lose(self, commit: PendingCommit) -> None:
        """Say that a commit failed."""
        with self._lock:
            self._lost.append(commit)

    @property
    def is_broken(self) -> bool:
        """Whether a commit failed, and `tell` was not called since."""
        return bool(self._lost)

    def tell(self) -> None:
        """Raise the first error that nobody was told of. Those behind it failed with it, and are forgotten."""
        with self._lock:
            lost, self._lost = self._lost, []
        for commit in lost:
            if not commit.seen:
                commit.seen = True
                error: Any = Future.exception(commit)
                raise error
