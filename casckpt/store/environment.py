"""One LMDB environment of this process: its transactions, its failure, its file and its end, all behind its gate.

What it keeps (DESIGN 2), each with what happens otherwise:
- A write transaction begins, is used and ends on one thread. Ended on another, the writer lock sticks for ever.
- The environment is closed only when no transaction is left. A view read after that is a segfault.
- A durable change is on the disk before the mark moves, and the mark moves before it is acknowledged.
- After a failed write or sync nothing is tried again: what the kernel wrote back is not known, and a second fsync lies.
- In a forked child nothing of it is touched, not even to free it. Ending a transaction there clears the parent's slot.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import lmdb

from casckpt.errors import (
    ForkedStoreError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFailedError,
)
from casckpt.store import openers
from casckpt.store.datafile import damaged
from casckpt.store.examined import Watch, note_good
from casckpt.store.format import COUNTER_KEY
from casckpt.store.gate import Gate
from casckpt.store.locks import FileLock
from casckpt.store.mark import Mark, move_mark
from casckpt.store.openers import unregister
from casckpt.store.protocol import Space, StoreFormat
from casckpt.store.room import Reserve, check_room, want_of_room
from casckpt.store.transaction import Handle, Transaction, give_up, keep

if TYPE_CHECKING:
    from lmdb import _Database

# Every environment with an open LMDB handle, for the child of a fork to find.
_open: set[Environment] = set()


class Environment:
    """One open LMDB environment, shared by all handles of this process on the same file."""

    def __init__(
        self,
        path: Path,
        raw: lmdb.Environment,
        opener: FileLock,
        format: StoreFormat,
        databases: dict[Space, _Database],
        watch: Watch,
    ) -> None:
        self.path = path
        self.format = format
        self.databases = databases
        self.handles: set[Handle] = set()
        self.page_size = raw.stat()["psize"]
        self.gate = Gate(str(path))
        self._raw = raw
        self._opener = opener
        self._watch = watch
        self._reserve = Reserve(path / "data.mdb")
        # Re-entrant only so that it knows its holder: `_end_write` gives it back where an interrupt may have come.
        self._write_lock = threading.RLock()
        self._writing_thread: int | None = None
        self._failure = ""
        self._is_leaving = False
        self.is_shut = False
        self.forked = False
        # Freed by `shut` only: freed at the interpreter's exit, it would wait for the writer of a frozen thread.
        keep(raw)
        _open.add(self)

    # -- what may be done now ------------------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether a write or a sync failed, so that the store must be opened again."""
        return bool(self._failure)

    def forked_error(self) -> ForkedStoreError:
        """What a use in a forked child gets."""
        return ForkedStoreError(
            "this process is a forked child of the one that opened it",
            store=str(self.path),
            remedy="open the store anew in this process, or start the process by spawn",
        )

    def failed_error(self) -> StoreFailedError:
        """What a use after a failure gets."""
        return StoreFailedError(
            self._failure, store=str(self.path), remedy="close the store, open it again and look at what it holds"
        )

    def check(self, handle: Handle) -> None:
        """Raise unless a transaction may begin now.

        Raises:
            ForkedStoreError, StoreClosedError, StoreFailedError
        """
        if self.forked:
            raise self.forked_error()
        if handle.closed:
            raise StoreClosedError("it is closed", store=str(self.path), remedy="open it again")
        if self._failure:
            raise self.failed_error()

    # -- transactions --------------------------------------------------------------------------------------------------

    def begin_read(self, transaction: Transaction) -> None:
        """Make it a snapshot, which any one thread at a time may use and any thread end.

        The caller has hold of it before it begins, to end it where an interrupt comes on the way back.
        """
        try:
            with self.gate.lock:
                self.gate.wait_for_turn(transaction.handle, self.check, write=False)
                transaction.raw = self._begin_read()
                self.gate.live.add(transaction)
        except BaseException:
            self.end_read(transaction)
            raise

    def _begin_read(self) -> lmdb.Transaction[memoryview]:
        try:
            try:
                return self._raw.begin(buffers=True)
            except lmdb.ReadersFullError:
                self._raw.reader_check()
                return self._raw.begin(buffers=True)
        except lmdb.ReadersFullError as error:
            raise StoreBusyError(
                "too many processes and threads read it at once", store=str(self.path), remedy="try again later"
            ) from error
        except lmdb.Error as error:  # as when another process has outgrown the address space that this one took
            self._failure = f"a read transaction could not begin: {error}"
            raise self.failed_error() from error

    def begin_write(self, transaction: Transaction) -> None:
        """Make it the write transaction, once whoever holds that has ended; this thread must be the one to end it."""
        handle = transaction.handle
        transaction.writes = True
        try:
            with self.gate.lock:
                self.gate.wait_for_turn(handle, self.check, write=True)
                if self._writing_thread == transaction.thread:
                    raise StoreBusyError(
                        "this thread is inside a write transaction of it already",
                        store=str(self.path),
                        holders=("this thread",),
                        remedy="use the writer that is there, or end it first",
                    )
                self.gate.live.add(transaction)  # before the wait, so that a close waits for it too
            self._write_lock.acquire()
            self._writing_thread = transaction.thread
            self.check(handle)
            transaction.raw = self._begin_write()
            keep(transaction.raw)
            self._watch.before(transaction.raw.id() - 1)
        except BaseException:
            self.end_write(transaction)
            raise

    def _begin_write(self) -> lmdb.Transaction[memoryview]:
        try:
            return self._raw.begin(write=True, buffers=True)
        except lmdb.Error as error:
            self._fail("a write transaction could not begin", error)

    def end_read(self, transaction: Transaction) -> None:
        """End a snapshot. Twice is once; in a forked child it touches nothing."""
        with self.gate.lock:
            transaction.cursors.clear()
            if transaction.raw is not None:
                transaction.raw.abort()
                transaction.raw = None
            self.gate.let_out(transaction)

    def end_write(self, transaction: Transaction) -> None:
        """End a write transaction, and undo what it did and did not commit. Twice is once.

        So whoever calls it may be interrupted anywhere in it, and call it again.
        """
        if transaction in self.gate.live:  # else the lock may be another's by now
            self.check_thread(transaction)
            if transaction.raw is not None:
                with contextlib.suppress(lmdb.Error):  # interrupted after it was committed
                    self._watch.after(transaction.raw.id() - 1)  # what did not fit in memory was written
            self._end_write(transaction)
            self.gate.let_out(transaction)

    def commit(self, transaction: Transaction, *, durable: bool) -> None:
        """Publish what a write transaction did; if durable, it is on the disk, and the mark moved, on return.

        Raises:
            StoreFullError: the disk filled up under it; nothing was published.
            StoreFailedError: the outcome is unknown.
        """
        self.check_thread(transaction)
        try:
            if self._failure:
                raise self.failed_error()
            counter = self._count(transaction)
            assert transaction.raw is not None
            transaction.cursors.clear()
            number = transaction.raw.id()
            try:
                transaction.raw.commit()
            except lmdb.Error as error:
                self._fail("a commit failed", error)
            self._reserve.keep(self.end)
            self._watch.after(number)
            self._end_write(transaction)
            if durable:
                self._acknowledge(counter)
        finally:
            self.end_write(transaction)  # now it may be closed

    def _count(self, transaction: Transaction) -> int:
        """Bump the counter of changes, which the mark is held against."""
        assert transaction.raw is not None
        meta = self.databases[Space.META]
        with self.writing(transaction):
            held = transaction.raw.get(COUNTER_KEY, db=meta)
            counter = 1 + (0 if held is None else int.from_bytes(held, "big"))
            transaction.raw.put(COUNTER_KEY, counter.to_bytes(8, "big"), db=meta)
        return counter

    def _acknowledge(self, counter: int) -> None:
        try:
            self.sync()
        except lmdb.Error as error:
            self._failure = f"a sync failed ({error}), so whether the last changes are on the disk is not known"
            raise self.failed_error() from error
        move_mark(self.path / "mark", Mark(self.format.uuid, counter))

    def sync(self) -> None:
        """Wait until what is committed is on the disk."""
        self._raw.sync(True)

    def check_thread(self, transaction: Transaction) -> None:
        """Raise, before anything is touched, unless this thread is the one that began the write transaction."""
        if transaction.thread != threading.get_ident():
            raise StoreError(
                "a write transaction is used and ended on the thread that began it",
                store=str(self.path),
                remedy="end it there: until then nobody else can write",
            )

    def _end_write(self, transaction: Transaction) -> None:
        """Let others write. Each step may be done twice, so that an interrupt between two of them does no harm."""
        raw = transaction.raw
        if raw is not None:
            transaction.cursors.clear()
            raw.abort()  # nothing where it was committed; even in an environment that failed, it gives LMDB's lock back
            give_up(raw)
            transaction.raw = None
        if self._writing_thread == transaction.thread:
            self._writing_thread = None
        with contextlib.suppress(RuntimeError):  # not held: given back already, or never had
            self._write_lock.release()

    # -- room and failure ----------------------------------------------------------------------------------------------

    def check_room(self, transaction: Transaction, room: int) -> None:
        """Check that the disk has room for `room` more bytes, so far as free pages of the file don't.

        Raises:
            StoreFullError: with what is needed and what there is.
        """
        raw = transaction.raw
        assert raw is not None
        check_room(self.path, room, lambda: self._free_bytes(raw))

    def _free_bytes(self, raw: lmdb.Transaction[memoryview]) -> int:
        used, total = self.pages(raw)
        return (total - used) * self.page_size

    def pages(self, raw: lmdb.Transaction[memoryview]) -> tuple[int, int]:
        """How many pages hold something, as a transaction shows it, and how many there are.

        Raises:
            CorruptObjectError
        """
        stats = [self._raw.stat()]
        try:
            for database in self.databases.values():
                raw.get(b"\0", db=database)  # LMDB's figures of a root that it cannot read are noughts
                stats.append(raw.stat(database))
        except lmdb.Error as error:
            raise damaged(self.path, error) from error
        heads = 2
        used = heads + sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return used, self._raw.info()["last_pgno"] + 1

    @contextlib.contextmanager
    def writing(self, transaction: Transaction) -> Iterator[None]:
        """Around each change: an error of LMDB's makes the whole environment unfit for use."""
        try:
            yield
        except lmdb.Error as error:
            self._fail("a write failed", error)

    def _fail(self, doing: str, error: lmdb.Error) -> NoReturn:
        """Give up the environment, and say why."""
        self._failure = f"{doing}: {error}"  # first, whatever may go wrong now: nothing is tried again
        raise want_of_room(self.path, doing, error) or self.failed_error() from error

    # -- exchanging the file -------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Close the file, for whoever has the environment alone: `take_up` or `abandon_file` must follow."""
        self._raw.close()

    def take_up(self, raw: lmdb.Environment, databases: dict[Space, _Database]) -> None:
        """Go on with a file that was just opened, after `let_go`."""
        keep(raw)
        old, self._raw = self._raw, raw
        self.databases.update(databases)  # the same mapping, which writers that wait to begin have hold of
        self.page_size = raw.stat()["psize"]
        self._reserve = Reserve(self.path / "data.mdb")
        give_up(old)
        self._reserve.keep(self.end)
        self._watch.after(raw.info()["last_txnid"])

    def abandon_file(self, why: str) -> StoreFailedError:
        """Be of no use any more, after `let_go`, because there is no going on; returns what to raise."""
        self._failure = why
        unregister(self._opener)  # LMDB's lock is gone: an opener without it is taken for one that has lost it
        return self.failed_error()

    @property
    def end(self) -> int:
        """Where the last page of the file ends, in bytes; what the disk holds behind that is in reserve."""
        return int(self._raw.info()["last_pgno"] + 1) * self.page_size

    @property
    def opener(self) -> Path:
        """The file that says that this process has the store open."""
        return self._opener.path

    @property
    def raw(self) -> lmdb.Environment:
        """LMDB's own, for whoever has it alone, or has a transaction under way until he is done with it."""
        return self._raw

    # -- the end -------------------------------------------------------------------------------------------------------

    def leave(self, handle: Handle) -> None:
        """Close a handle, after waiting for the transactions begun in its name.

        Raises:
            StoreBusyError: this very thread began one that has not ended, so the wait would be for ever.
        """
        with self.gate.lock:
            if not self.forked:
                self.gate.close_to(handle)

    def shut(self) -> bool:
        """Give the environment back to LMDB, and say whether: not while a transaction is left. Twice is once, also
        where an interrupt came between two of its steps.

        Only once no new one can begin, because the environment has failed or every handle on it is closed. It is asked
        and done under the gate: a reader that was let in before it failed may not have its transaction yet.
        """
        with self.gate.lock:
            if self.gate.live:
                return False
            try:
                if not self._is_leaving:
                    self._is_leaving = True
                    self._note_good()
            finally:
                # first, so that whoever finds an opener alive can count on LMDB's lock being held
                unregister(self._opener)
                self._raw.close()
                give_up(self._raw)
                _open.discard(self)
                self.is_shut = True
            return True

    def _note_good(self) -> None:
        """Spare the next opening the examination, if nobody else is here, or was, or changed the file."""
        if self._failure:  # and it may be closed already
            return
        with contextlib.suppress(OSError, lmdb.Error):  # as where the folder is gone, or its opening was interrupted
            last = self._raw.info()["last_txnid"]
            if not self._watch.is_untouched(last):
                return
            gate = FileLock(self.path / "gate")
            try:
                if gate.acquire(wait=False) and openers.live(self.path) == [self._opener.path]:
                    note_good(self.path, self.format.uuid, last)
            finally:
                gate.release()

    def _abandon(self) -> None:  # pragma: no cover - runs in forked children, which report nothing
        """In a forked child: touch nothing, free nothing, and let no lock of the parent's threads bind us."""
        self.forked = True
        self._write_lock = threading.RLock()
        self.gate.abandon()


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, which report nothing
    for environment in _open:
        environment._abandon()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
