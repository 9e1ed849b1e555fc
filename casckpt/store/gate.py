"""The gate that every transaction of one environment passes: who is under way, who may begin, and who waits for whom.

Its file is exchanged only by who has it alone (I6): none is under way, and new ones wait. Whoever has one may begin
what he needs to end it, or he and the exchange would wait for each other for ever. It is no file: the gate file keeps
processes apart, and this one threads.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from casckpt.errors import StoreBusyError
from casckpt.store.transaction import Handle, Transaction, keep


class Gate:
    """The gate of the environment of `store`.

    lock: held by whoever lets a transaction in or out, from the question whether it may to its being in `live`.
    live: the transactions under way. Whoever goes through them goes through a copy: a reader that was dropped unclosed
        ends itself wherever the garbage collector runs.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        # Re-entrant, because a reader that was dropped unclosed ends itself wherever the garbage collector runs.
        # Entered itself, not by the condition, whose own entering is Python: an interrupt there would keep it for ever.
        self.lock = threading.RLock()
        self._moved = threading.Condition(self.lock)
        self.live: set[Transaction] = set()
        self._alone: Transaction | None = None  # of whoever has, or waits to have, the environment alone

    def wait_for_turn(self, handle: Handle, check: Callable[[Handle], None], *, write: bool) -> None:
        """Call under the lock: returns once a transaction may begin, or raises as `check` does."""
        check(handle)
        if self._alone is not None:
            self._moved.wait_for(lambda: self._alone is None or self._is_under_way(handle, write))
            check(handle)

    def _is_under_way(self, handle: Handle, write: bool) -> bool:
        """Whether a transaction may be needed to end one that has begun, such as the writes of a save (I1)."""
        thread = threading.get_ident()
        return any(
            one is not self._alone and (one.thread == thread or (write and one.handle is handle))
            for one in self.live.copy()
        )

    def let_out(self, transaction: Transaction) -> None:
        """Note that a transaction has ended. Twice is once."""
        with self.lock:
            self._moved.notify_all()  # first: whoever is not there any more is not ended again after an interrupt
            self.live.discard(transaction)

    def snapshots(self) -> set[int]:
        """LMDB's numbers of the transactions that readers of this process look at."""
        with self.lock:
            return {one.raw.id() for one in self.live if one.raw is not None and not one.writes}

    # -- being alone ---------------------------------------------------------------------------------------------------

    def check_no_own(self) -> None:
        """Raise if this thread has a transaction under way, which it would wait for in vain if it wanted to be alone.

        Raises:
            StoreBusyError
        """
        with self.lock:
            thread = threading.get_ident()
            if any(one.thread == thread for one in self.live.copy()):
                raise StoreBusyError(
                    "this thread has a transaction on it under way",
                    store=self._store,
                    holders=("this thread",),
                    remedy="end it first",
                )

    @contextlib.contextmanager
    def alone(
        self, handle: Handle, check: Callable[[Handle], None], go_on: Callable[[], None]
    ) -> Iterator[Transaction]:
        """Once no transaction is under way, and while none begins; those who come meanwhile wait.

        check: raises where the handle is of no use any more. go_on: asked when a transaction ends, and by `wake`: ends
            the wait by raising. Gives what a transaction that is begun past the gate must be put into, for a forked
            child to find.
        """
        mine = Transaction(handle)
        with self.lock:
            check(handle)
            if self._alone is not None:
                raise StoreBusyError("its file is being exchanged", store=self._store, holders=("this process",))
            self._alone = mine
            self.live.add(mine)  # a close of the handle waits for it, and nobody shuts the environment
        try:
            with self.lock:
                while len(self.live) > 1:
                    go_on()
                    self._moved.wait()
                check(handle)
            yield mine
        finally:
            with self.lock:
                self._alone = None
                self.let_out(mine)

    def wake(self) -> None:
        """Let whoever waits at the gate look again."""
        with self.lock:
            self._moved.notify_all()

    # -- the end -------------------------------------------------------------------------------------------------------

    def close_to(self, handle: Handle) -> None:
        """Close a handle, after waiting for the transactions begun in its name.

        Raises:
            StoreBusyError: this very thread began one that has not ended, so the wait would be for ever.
        """
        with self.lock:
            thread = threading.get_ident()
            if any(one.handle is handle and one.thread == thread for one in self.live.copy()):
                raise StoreBusyError(
                    "a transaction that this thread began has not ended",
                    store=self._store,
                    holders=("this thread",),
                    remedy="end it, then close the store",
                )
            handle.closed = True
            self._moved.wait_for(lambda: not any(one.handle is handle for one in self.live.copy()))

    def abandon(self) -> None:  # pragma: no cover - runs in forked children, which report nothing
        """In a forked child: touch nothing, free nothing, and let no lock of the parent's threads bind us."""
        self._alone = None
        self.lock = threading.RLock()
        self._moved = threading.Condition(self.lock)
        for transaction in self.live:
            if transaction.raw is not None:
                keep(transaction.raw)
            for cursor in transaction.cursors:
                keep(cursor)
            transaction.raw = None
        self.live.clear()
