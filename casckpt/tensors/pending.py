"""Commits that are under way behind training: what the caller holds of each, and the lane that they go through.

None is lost without a word: an error that nobody asked for comes up at the next commit, or at the close, or is logged
at the interpreter's exit.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from casckpt.errors import ForkedStoreError, StoreBusyError
from casckpt.history.commits import Commit
from casckpt.tensors.bell import Bell
from casckpt.tensors.threads import begin, wait_at_exit


@dataclass(frozen=True, slots=True)
class SaveFigures:
    """What a commit cost. stall: seconds for which the caller was kept, `waited` of them for commits before it.

    hashed: bytes that were hashed, in live memory or in the pool. copied: bytes that changed, or may have, and were
    copied to the pool. written: bytes of the frames of new chunks. seconds: by stage, as far as it has come:
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

    def __init__(self, store: str, lane: Lane) -> None:
        super().__init__()
        self.figures = SaveFigures()
        """What it cost, as far as it has come."""
        self.store = store
        """Where the store is that it goes to."""
        self._lane = lane
        self.process = os.getpid()
        """The process that makes it."""
        self.seen = False
        """Whether somebody was told how it ended."""
        self.add_done_callback(lambda _: lane.look_again())  # the first, so that who waits does not wait for the others
        _pending.add(self)

    def result(self, timeout: float | None = None) -> Commit:
        """The commit, once it is durable.

        timeout: seconds to wait at most.

        Raises:
            TimeoutError, CancelledError
            RefMovedError: somebody else moved the branch; nothing was published.
            AbandonedCommitError: the commit before it failed.
            StoreFullError: nothing was published.
            StoreFailedError: the outcome is unknown; open the store again and look.
            StoreBusyError: a callback of a commit before it asks, on whose end it has to wait.
            ForkedStoreError: this is a child of the process that makes the commit.
        """
        self.exception(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` raises, or None, once it is done."""
        self._check_process()
        if timeout is None:  # not as any future waits, in a condition: see `Bell`
            self._lane.wait_for(self.done)
        error = super().exception(timeout)
        if error is not None and not self.seen:
            self._was_told()
        return error

    def done(self) -> bool:
        """Whether it is durable, or failed, or was cancelled."""
        return self._state not in ("PENDING", "RUNNING")  # without the condition, as above

    def _was_told(self) -> None:
        self.seen = True
        # an error that was raised holds on to the frames that it passed, and so to whoever asked, with all he has
        _untold.pop(self, None)

    def _check_process(self) -> None:
        if os.getpid() != self.process:
            raise ForkedStoreError(
                "this process is a forked child of the one that makes the commit",
                store=self.store,
                remedy="wait for it there",
            )


class Lane:
    """Work behind the caller, one thing at a time, in the order in which it was handed over.

    Its thread lives as long as there is some; the interpreter's exit waits for it.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._news = Bell()
        self._waiting: deque[Callable[[], object]] = deque()
        self._at_work = False
        self._begun: object = None  # what the newest thread was given, to know itself by
        self._thread: int | None = None  # the one that works
        self._lost: list[PendingCommit] = []
        wait_at_exit(self)

    def put(self, work: Callable[[], object]) -> None:
        """Hand over work that raises nothing; `go` must follow."""
        with self._lock:
            self._waiting.append(work)

    def go(self) -> None:
        """See to it that what was handed over is done: on a thread, or here, where none would be waited for."""
        with self._lock:
            if self._thread is not None or not self._waiting:
                return
            self._begun = mine = object()
        if not begin(lambda: self._run(mine)):
            self._run(mine)

    def _run(self, mine: object) -> None:
        try:
            with self._lock:
                if self._begun is not mine or self._thread is not None:
                    return  # an interrupt kept the other from knowing of this one
                self._thread = threading.get_ident()
            while self._do_one():
                pass
        finally:
            with self._lock:
                if self.is_mine():  # not that of the next
                    self._thread = None

    def _do_one(self) -> bool:
        mine = False
        try:
            with self._lock:
                if not self._waiting:
                    self._thread = None  # with the look, so that whoever puts something behind it begins another
                    return False
                mine = self._at_work = True  # first, so that at no moment there seems to be less than there is
                work: Callable[[], object] | None = self._waiting.popleft()
            assert work is not None
            work()
        except BaseException as error:  # of a callback; as for any thread, but those behind it are not to wait for ever
            with contextlib.suppress(BaseException):  # the program may have a hook of its own
                threading.excepthook(
                    threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
                )
        finally:
            work = None  # what it holds must not live until the next comes
            if mine:
                with self._lock:
                    self._at_work = False
                self._news.ring()
        return True

    def is_mine(self) -> bool:
        """Whether this is the thread that does them."""
        return self._thread == threading.get_ident()

    def has_room(self, most: int) -> bool:
        """Whether no more than so many things are not done; on the lane's own thread, nothing but the one it is in.

        Those behind one that failed fail with it: there is no room before that has happened. On the lane's own thread
        there is none before those behind are done: their memory does not come free while it waits.
        """
        in_flight = len(self._waiting) + self._at_work
        return in_flight - self.is_mine() <= (0 if self._lost or self.is_mine() else most)

    def wait(self, most: int = 0) -> None:
        """Return once `has_room`.

        Raises:
            StoreBusyError: this is the thread that does them.
        """
        self.wait_for(lambda: self.has_room(most))

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Return once it is so, as after something was done, or after `look_again`; raises as `wait` does."""
        if is_so():
            return
        if self.is_mine():
            raise self.busy()
        self.go()  # an interrupt may have kept the one who put something from it
        self._news.wait_for(is_so)

    def finish(self) -> None:
        """Return when everything is done that was handed over in this process."""
        if self._process == os.getpid():
            try:
                self.wait()
            finally:
                _tell_at_exit()

    def look_again(self) -> None:
        """Have those who wait ask again."""
        self._news.ring()

    def busy(self) -> StoreBusyError:
        """What whoever would wait for himself gets."""
        return StoreBusyError(
            "a callback of a commit cannot wait for those behind it",
            store=self._store,
            holders=("this thread",),
            remedy="do it on another thread",
        )

    def lose(self, commit: PendingCommit) -> None:
        """Say that a commit failed."""
        with self._lock:
            self._lost.append(commit)
        _untold[commit] = None

    @property
    def is_broken(self) -> bool:
        """Whether a commit failed, and `tell` was not called since."""
        return bool(self._lost)

    def tell(self) -> None:
        """Raise the first error that nobody was told of. Those behind it failed with it, and are forgotten.

        While some of those behind it are not done, nothing: they would be taken for ones that nothing failed before.
        """
        with self._lock:
            if not self.has_room(0):
                return
            lost, self._lost = self._lost, []
        untold = [commit for commit in lost if not commit.seen]
        for commit in untold:
            commit._was_told()
        if untold:
            error: Any = Future.exception(untold[0])
            raise error


def _tell_at_exit() -> None:
    for commit in list(_untold):
        _untold.pop(commit, None)
        if not commit.seen and commit.process == os.getpid():
            error = Future.exception(commit)
            _log.error("%s: a commit in flight failed, and nobody was told: %s", commit.store, error, exc_info=error)


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, which report nothing
    for commit in list(_pending):
        commit._condition = threading.Condition()  # a thread that is not here may have held it


_log = logging.getLogger(__name__)
# Commits that failed, of which nobody was told, in their order. A dict, which threads can add to and take from at once.
_untold: dict[PendingCommit, None] = {}
atexit.register(_tell_at_exit)
# Every one, for the child of a fork to find.
_pending: weakref.WeakSet[PendingCommit] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
