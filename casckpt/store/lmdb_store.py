"""The store on disk: the protocol over one LMDB environment, shared by every handle of this process on it.

Views into the map are handed out by readers only, and must never outlive them; a writer hands out copies, because a
later change may overwrite or free the page that a view of it would show.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import lmdb

from casckpt.errors import CorruptObjectError, StoreBusyError, StoreClosedError
from casckpt.store import filesystem, forked_imports, openers  # noqa: F401 - the second acts at forks
from casckpt.store.datafile import way_out
from casckpt.store.environment import Environment
from casckpt.store.locks import FileLock
from casckpt.store.opening import Wanted
from casckpt.store.protocol import (
    MAX_KEY,
    BackupReport,
    CompactReport,
    HeldBack,
    Pages,
    Progress,
    Space,
    StoreFormat,
    StoreSize,
    no_progress,
)
from casckpt.store.registry import acquire, release
from casckpt.store.runs import has_own_pages, problem_of
from casckpt.store.transaction import Handle, Transaction
from casckpt.store.writeback import early_writeback

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Looks at the file that others' commits may overtake before they begin: two commits within microseconds each time.
_TRIES: Final = 100


def open_store(
    path: str | os.PathLike[str],
    *,
    create: bool = True,
    hash: str | None = None,
    chunk_size: int | None = None,
    codec: str | None = None,
    accept_loss: bool = False,
) -> LmdbStore:
    """Open the store at `path`, creating it where there is none.

    hash, chunk_size (bytes), codec: fixed on creation; None takes the default, or whatever an existing store has.
    create: whether a store may be created.
    accept_loss: go on where acknowledged changes are missing, forgetting that they were acknowledged.

    Raises:
        StoreNotFoundError: there is none, and `create` is false.
        NotAStoreError: something else is there.
        StoreSettingsError: the store has another setting, or no store can have it.
        NewerFormatError, CorruptObjectError, TruncatedStoreError, HistoryLostError: it cannot be read as it is.
        NetworkFilesystemError, StoreLockLostError, StoreBusyError, StoreFullError: it cannot be opened here and now.
    """
    wanted = Wanted(create=create, hash=hash, chunk_size=chunk_size, codec=codec, accept_loss=accept_loss)
    handle = Handle()
    return LmdbStore(acquire(Path(path).expanduser().resolve(), wanted, handle), handle)


class LmdbReader:
    """A read transaction."""

    _transaction: Transaction | None = None

    def __init__(self, environment: Environment, handle: Handle) -> None:
        self._environment = environment
        self._databases = environment.databases
        self._handle = handle
        self._changes = 0
        self._begin()

    def _begin(self) -> None:
        transaction = Transaction(self._handle)
        try:
            self._environment.begin_read(transaction)
            self._transaction = transaction
        except BaseException:
            self._environment.end_read(transaction)
            raise

    def _raw(self) -> lmdb.Transaction[memoryview]:
        transaction = self._transaction
        if transaction is None or transaction.raw is None:
            raise self._over()
        transaction.thread = threading.get_ident()
        return transaction.raw

    def _over(self) -> Exception:
        if self._environment.forked:
            return self._environment.forked_error()
        return StoreClosedError("the transaction has ended", store=str(self._environment.path))

    def _own(self, value: memoryview) -> memoryview:
        """What may be handed out of a view into the map."""
        return value

    def _damaged(self, error: lmdb.Error | str) -> CorruptObjectError:
        path = self._environment.path
        return CorruptObjectError(f"{path}: its database is damaged: {error}", remedy=way_out(path))

    def _view(self, space: Space, key: bytes) -> memoryview | None:
        try:
            return self._raw().get(key, db=self._databases[space])
        except lmdb.BadValsizeError:
            return None  # no key can be empty or that long
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def get(self, space: Space, key: bytes) -> memoryview | None:
        """The value under `key`, or None."""
        value = self._view(space, key)
        return None if value is None else self._own(value)

    def size(self, space: Space, key: bytes) -> int | None:
        """Length in bytes of the value, without copying it; None where absent.

        py-lmdb reads a byte of each page of a value before it hands out a view, so a cold one is read from the disk.
        """
        value = self._view(space, key)
        return None if value is None else len(value)

    def has(self, space: Space, key: bytes) -> bool:
        """Whether there is a value under `key`, without touching it."""
        raw = self._raw()
        try:
            with raw.cursor(db=self._databases[space]) as cursor:  # a get would fault every page of the value in
                return cursor.set_key(key)
        except lmdb.BadValsizeError:
            return False
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def keys(self, space: Space, start: bytes = b"", *, reverse: bool = False) -> Iterator[bytes]:
        """Keys from the first one >= `start` upwards; reversed, from the last one < `start` (or the end) down."""
        self._raw()
        return self._keys(space, start, reverse)

    def _keys(self, space: Space, start: bytes, reverse: bool) -> Iterator[bytes]:
        for cursor in self._walk(space, start, reverse):
            yield bytes(cursor.key())

    def items(self, space: Space, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, memoryview]]:
        """Keys with their values, in the order of `keys`."""
        self._raw()
        return self._items(space, start, reverse)

    def _items(self, space: Space, start: bytes, reverse: bool) -> Iterator[tuple[bytes, memoryview]]:
        for cursor in self._walk(space, start, reverse):
            yield bytes(cursor.key()), self._own(cursor.value())

    def _walk(self, space: Space, start: bytes, reverse: bool) -> Iterator[lmdb.Cursor[memoryview]]:
        """A cursor, at one key after the other; it may be closed, and keys deleted, between two steps."""
        raw, transaction = self._raw(), self._transaction
        assert transaction is not None
        try:
            cursor = raw.cursor(db=self._databases[space])
            transaction.cursors.add(cursor)
            try:
                there = _seek_before(cursor, start) if reverse else _seek(cursor, start)
                while there:
                    key, changes = bytes(cursor.key()), self._changes
                    yield cursor
                    self._raw()
                    if changes != self._changes:  # the page under the cursor may be another now
                        there = _seek_before(cursor, key) if reverse else _seek_after(cursor, key)
                    else:
                        there = cursor.prev() if reverse else cursor.next()
            finally:
                transaction.cursors.discard(cursor)
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def count(self, space: Space) -> int:
        """How many keys the space holds."""
        return self._raw().stat(self._databases[space])["entries"]

    def hand_over(self) -> None:
        """Say that this thread is done with it: it counts as no thread's until one uses it."""
        if self._transaction is not None:
            self._transaction.thread = 0

    def close(self) -> None:
        """End the transaction. Twice is once; in a forked child it does nothing."""
        if self._transaction is not None:
            self._environment.end_read(self._transaction)

    def __enter__(self) -> Self:
        self._raw()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A snapshot that was dropped would keep the pages freed since from ever being used again.
        self.close()


class LmdbWriter(LmdbReader):
    """The write transaction; begins with its `with` block and ends with it, on the same thread."""

    def __init__(self, environment: Environment, handle: Handle, *, durable: bool, room: int | None) -> None:
        super().__init__(environment, handle)
        self._durable = durable
        self._room = room
        self._written: set[tuple[Space, bytes]] = set()  # values with pages of their own, that are not in the file yet
        self._last_page = 0
        self._is_examined = False

    def _begin(self) -> None:
        """Nothing yet: its `with` block begins it."""

    def _raw(self) -> lmdb.Transaction[memoryview]:
        transaction = self._transaction
        if transaction is None or transaction.raw is None:
            raise self._over()
        self._environment.check_thread(transaction)
        return transaction.raw

    def _own(self, value: memoryview) -> memoryview:
        return memoryview(bytes(value))

    def put(self, space: Space, key: bytes, value: Buffer, *, overwrite: bool = True) -> bool:
        """Store `value`; returns False, and changes nothing, where the key is there and `overwrite` is false."""
        if not 0 < len(key) <= MAX_KEY:
            raise ValueError(f"a key is 1 to {MAX_KEY} bytes long, not {len(key)}")
        raw, transaction = self._raw(), self._transaction
        assert transaction is not None
        if overwrite:
            self._check_freed(space, key)
        self._changes += 1
        with self._environment.writing(transaction):
            is_put = raw.put(key, value, overwrite=overwrite, db=self._databases[space])
        if is_put and has_own_pages(len(key), memoryview(value).nbytes, self._environment.page_size):
            self._written.add((space, key))
        return is_put

    def delete(self, space: Space, key: bytes) -> bool:
        """Remove the key; returns whether it was there."""
        if not 0 < len(key) <= MAX_KEY:
            return False
        raw, transaction = self._raw(), self._transaction
        assert transaction is not None
        self._check_freed(space, key)
        self._changes += 1
        with self._environment.writing(transaction):
            return raw.delete(key, db=self._databases[space])

    def _check_freed(self, space: Space, key: bytes) -> None:
        """Raise if LMDB, which is about to free the value under a key, would free pages that are not its own.

        Raises:
            CorruptObjectError
        """
        value = self._view(space, key)
        page_size = self._environment.page_size
        if value is None or not has_own_pages(len(key), len(value), page_size) or (space, key) in self._written:
            return
        data = self._environment.path / "data.mdb"
        if not self._last_page:
            self._last_page = self._environment.end // page_size - 1
        problem = problem_of(data, value, page_size, self._last_page)
        if problem is None and not self._is_examined:
            # All of it, since only that decides whether the surplus is the value's own: any page may be of another
            # value, which its leaf gives as many as it needs and only its head as many as it has.
            from casckpt.store.pages import check_pages  # here, since few need it

            found = check_pages(data, self._raw().id() - 1, values=True)
            problem = found.faults[0].problem if found is not None and found.faults else ""
            self._is_examined = True
        if problem:
            raise self._damaged(f"{problem} ({space.name.lower()} {key[:32].hex()})")

    def close(self) -> None:
        """End the transaction, and what it did. Twice is once; in a forked child it does nothing."""
        if self._transaction is not None:
            self._environment.end_write(self._transaction)

    def __enter__(self) -> Self:
        transaction = Transaction(self._handle)
        try:
            self._environment.begin_write(transaction)
            if self._room is not None:
                self._environment.check_room(transaction, self._room)
            self._transaction = transaction
        except BaseException:
            self._environment.end_write(transaction)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self._transaction is not None
        if error[0] is not None:
            self.close()
        elif self._transaction.raw is None:
            if self._environment.forked:
                raise self._environment.forked_error()  # what the block did is not, and will not be, published here
        else:
            with early_writeback(self._environment.path / "data.mdb", self._room or 0):
                self._environment.commit(self._transaction, durable=self._durable)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:  # in the end `sys` may be gone
        # Left open by an interrupt at the very beginning of `__exit__`. Only the thread that began it may end it, and
        # this may be any; at the interpreter's end LMDB's lock goes by itself.
        transaction = self._transaction
        if transaction is not None and not is_finalizing() and transaction.thread == threading.get_ident():
            self._environment.end_write(transaction)


class LmdbStore:
    """One handle on the store at `path`; safe to use from several threads."""

    def __init__(self, environment: Environment, handle: Handle) -> None:
        self.path = str(environment.path)
        self._environment = environment
        self._handle = handle

    @property
    def format(self) -> StoreFormat:
        """What is fixed in it; only its version may change, by `upgrade`."""
        return self._environment.format

    def read(self) -> LmdbReader:
        """Begin a read transaction."""
        return LmdbReader(self._environment, self._handle)

    def write(self, *, durable: bool, room: int | None) -> LmdbWriter:
        """The write transaction, by `with`."""
        self._environment.check(self._handle)
        return LmdbWriter(self._environment, self._handle, durable=durable, room=room)

    @contextlib.contextmanager
    def maintenance(self, *, wait: bool = False) -> Iterator[None]:
        """The one lock for gc, repack and compact, across processes."""
        self._environment.check(self._handle)
        path = Path(self.path)
        with filesystem.system_errors(path, "its maintenance lock cannot be taken"):
            lock = FileLock(path / "maintenance")
        try:
            with filesystem.system_errors(path, "its maintenance lock cannot be taken"):
                held = lock.acquire(wait=wait)
            if not held:
                holder = openers.describe(lock.path)
                raise StoreBusyError(
                    f"gc, repack or compact is under way, or held off by a save: {holder}",
                    store=self.path,
                    holders=(holder,),
                    remedy="try again when that is done",
                )
            openers.introduce(lock)
            yield
        finally:
            lock.release()

    def openers(self) -> tuple[str, ...]:
        """Who has the store open: a line for each live process, this one included."""
        self._environment.check(self._handle)
        return tuple(openers.describe(path) for path in openers.live(Path(self.path)))

    def size(self) -> StoreSize:
        """How large the file is on the disk (blocks that it holds, not its length), and how much of it is in use."""
        transaction = Transaction(self._handle)
        try:
            self._environment.begin_read(transaction)
            used, total = self._environment.pages(transaction)
        finally:
            self._environment.end_read(transaction)
        page = self._environment.page_size
        file = filesystem.disk_bytes(Path(self.path) / "data.mdb")
        return StoreSize(
            file=file,
            used=used * page,
            free=max(0, total - used) * page,
            reserve=max(0, file - total * page),
        )

    def held_back(self) -> HeldBack | None:
        """What the oldest snapshot that somebody reads keeps from being used again; clears what the dead left."""
        from casckpt.store.readers import held_back  # here, since few need it

        with self.read() as reader:
            mine = self._environment.gate.snapshots()
            return held_back(Path(self.path), self._environment.raw, reader._raw().id(), mine)

    def check_pages(self, *, values: bool) -> Pages:
        """Look at every page of the file by plain reads, as one transaction left it; others may write meanwhile."""
        from casckpt.store.pages import check_pages, lost_head  # here, since few need it

        for _ in range(_TRIES):
            with self.read() as reader:  # what it shows is not used again while it lives
                transaction = reader._raw().id()
                found = check_pages(Path(self.path) / "data.mdb", transaction, values=values)
                if found is not None:
                    return found
        return lost_head(transaction)

    def compact(self, *, dry_run: bool = False, progress: Progress = no_progress) -> CompactReport:
        """Rewrite the file without its free pages, alone; the protocol says what is raised."""
        from casckpt.store import compact  # here, since few need it

        self._environment.check(self._handle)
        if dry_run:
            return compact.foresee(self._environment, self.size())
        return compact.compact(self._environment, self._handle, self.maintenance, progress)

    def backup(self, destination: str | os.PathLike[str], *, progress: Progress = no_progress) -> BackupReport:
        """Copy the store into another folder while it is in use; the protocol says what is raised."""
        from casckpt.store import backup  # here, since few need it

        return backup.backup(self._environment, self._handle, Path(destination), progress)

    def upgrade(self) -> None:
        """Make it a store of today's format; the protocol says what is raised."""
        from casckpt.store.upgrade import upgrade  # here, since few need it

        self._environment.check(self._handle)
        upgrade(self._environment, partial(self.write, durable=True, room=0))

    def close(self) -> None:
        """Wait for the transactions under way, then let go of the store. Twice is once; in a forked child, nothing.

        Raises:
            StoreBusyError: this thread began one of them, so the wait would be for ever.
        """
        self._environment.leave(self._handle)
        release(self._environment, self._handle)


def _seek(cursor: lmdb.Cursor[memoryview], start: bytes) -> bool:
    return cursor.set_range(start[:MAX_KEY]) if start else cursor.first()


def _seek_after(cursor: lmdb.Cursor[memoryview], key: bytes) -> bool:
    there = cursor.set_range(key)
    return cursor.next() if there and cursor.key() == key else there


def _seek_before(cursor: lmdb.Cursor[memoryview], start: bytes) -> bool:
    if start and cursor.set_range(start[:MAX_KEY]):
        return cursor.prev()
    return cursor.last()
