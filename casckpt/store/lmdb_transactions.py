"""The protocol's transactions, each over one of LMDB's: the snapshot that a reader is, and the writer.

Views into the map are handed out by readers only, and must never outlive them; a writer hands out copies, because a
later change may overwrite or free the page that a view of it would show.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

import lmdb

from casckpt.errors import CorruptObjectError, StoreClosedError
from casckpt.store.datafile import damaged
from casckpt.store.environment import Environment
from casckpt.store.format import FORMAT_KEY, version_of
from casckpt.store.protocol import MAX_KEY, Space
from casckpt.store.runs import has_own_pages, problem_of
from casckpt.store.transaction import Handle, Transaction
from casckpt.store.writeback import early_writeback

if TYPE_CHECKING:
    from typing_extensions import Buffer


class LmdbReader:
    """A read transaction."""

    _transaction: Transaction | None = None

    def __init__(self, environment: Environment, handle: Handle) -> None:
        self._environment = environment
        self._databases = environment.databases
        self._handle = handle
        self._changes = 0
        self._version: int | None = None
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
        return damaged(self._environment.path, error)

    def _view(self, space: Space, key: bytes) -> memoryview | None:
        try:
            return self._raw().get(key, db=self._databases[space])
        except lmdb.BadValsizeError:
            return None  # no key can be empty or that long
        except lmdb.Error as error:
            raise self._damaged(error) from error

    @property
    def format_version(self) -> int:
        """The version of the format that the store has in this snapshot; where that is damaged since, what it was."""
        if self._version is None:
            record = self._view(Space.META, FORMAT_KEY)
            found = None if record is None else version_of(bytes(record))
            self._version = self._environment.format.version if found is None else found
        return self._version

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
        self.has(space, b"\0")  # LMDB's own figures of a tree whose root it cannot read are noughts, and no error
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


def _seek(cursor: lmdb.Cursor[memoryview], start: bytes) -> bool:
    return cursor.set_range(start[:MAX_KEY]) if start else cursor.first()


def _seek_after(cursor: lmdb.Cursor[memoryview], key: bytes) -> bool:
    there = cursor.set_range(key)
    return cursor.next() if there and cursor.key() == key else there


def _seek_before(cursor: lmdb.Cursor[memoryview], start: bytes) -> bool:
    if start and cursor.set_range(start[:MAX_KEY]):
        return cursor.prev()
    return cursor.last()
