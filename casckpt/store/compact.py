"""Rewrites a store's file without its free pages: alone, or not at all (I6). It must never lose anything of the old.

LMDB cannot shrink a file in place, and whoever kept the old one open would write into the void. So all is copied, in
the order of the keys, into a file beside it, which takes its place once it is on the disk. A crash anywhere leaves the
old file or the new one, and both hold the same. All of it is done aside: no interrupt can cut it in two.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from casckpt.errors import CorruptObjectError, StoreBusyError, StoreError, StoreFullError
from casckpt.limits import MIB, WRITE_BATCH
from casckpt.store import filesystem, openers
from casckpt.store.aside import Aside, aside
from casckpt.store.environment import Environment
from casckpt.store.folder import COMPACTING
from casckpt.store.format import COUNTER_KEY
from casckpt.store.locks import FileLock
from casckpt.store.opening import clear_compacting
from casckpt.store.protocol import CompactReport, Progress, Space, StoreSize
from casckpt.store.registry import check_current, exchange
from casckpt.store.room import KEPT_FREE
from casckpt.store.transaction import Handle

if TYPE_CHECKING:
    from lmdb import _Database, _StatDict

# Entries of one transaction: of the smallest, Python's objects would take far more memory than a batch of bytes.
_BATCH_ENTRIES: Final = 1 << 16
# What the copy may need beside the pages in use: room for what is copied on the way, and what every store keeps free.
_BESIDE: Final = 8 * MIB
_MAX_DATABASES: Final = 128

Entry = tuple[memoryview, memoryview]


def foresee(environment: Environment, size: StoreSize) -> CompactReport:
    """What `compact` would give back at least, and who is in its way."""
    began = time.monotonic()
    holders = _others(environment, openers.live(environment.path))
    after = min(size.file, size.used + size.used // 64 + KEPT_FREE)
    return CompactReport(
        dry_run=True,
        before=size.file,
        after=after,
        reserve=min(after, KEPT_FREE),
        holders=holders,
        seconds=time.monotonic() - began,
    )


def compact(
    environment: Environment,
    handle: Handle,
    maintenance: Callable[[], AbstractContextManager[None]],
    progress: Progress,
) -> CompactReport:
    """Rewrite the file; `protocol.Store.compact` says what is raised."""
    began = time.monotonic()
    environment.gate.check_no_own()
    before, after, reserve = aside(lambda held: _compact(environment, handle, maintenance, held), progress)
    return CompactReport(
        dry_run=False, before=before, after=after, reserve=reserve, holders=(), seconds=time.monotonic() - began
    )


def _compact(
    environment: Environment, handle: Handle, maintenance: Callable[[], AbstractContextManager[None]], held: Aside
) -> tuple[int, int, int]:
    """Returns the bytes that the disk held for the file, holds now, and of these the reserve."""
    path = environment.path
    data = path / "data.mdb"
    held.wake_by(environment.gate.wake)
    with filesystem.system_errors(path, "it cannot be compacted"), maintenance():
        _refuse(environment, _others(environment, openers.live(path)))  # before anybody is made to wait
        held.report("waiting for what is under way", 0, 0)
        # The gate comes last: others may open the store as long as this process is not done with what is under way,
        # and what is under way may itself wait for a process that opens it.
        with environment.gate.alone(handle, environment.check, held.go_on) as mine, FileLock(path / "gate"):
            _refuse(environment, _others(environment, openers.tidy(path)))
            _check_file(environment)
            copy, before = path / COMPACTING / data.name, filesystem.disk_bytes(data)
            clear_compacting(path)
            copy.parent.mkdir(mode=0o700)  # nobody looks into a private store's copy before it has its permissions
            try:
                with environment.raw.begin(buffers=True) as source:
                    mine.raw = source
                    transaction = _Copy(environment, source, copy, held).run()
                    mine.raw = None
                _see_to_disk(environment, data, copy)
                held.report("exchanging the file", 0, 0)
                _exchange(environment, copy, transaction)
                after = filesystem.disk_bytes(data)
                return before, after, max(0, after - environment.end)
            finally:
                mine.raw = None
                with contextlib.suppress(OSError):  # which would hide what went wrong; the next opening clears it away
                    clear_compacting(path)


def _others(environment: Environment, alive: list[Path]) -> tuple[str, ...]:
    return tuple(openers.describe(one) for one in alive if one != environment.opener)


def _refuse(environment: Environment, holders: tuple[str, ...]) -> None:
    if holders:
        raise StoreBusyError(
            f"it can only be compacted by a process that has it alone, and it is open in {', '.join(holders)}",
            store=str(environment.path),
            holders=holders,
            remedy="end those first, or let the one that trains do it: Checkpointer(compact_above=0.5)",
        )


def _check_file(environment: Environment) -> None:
    """Refuse where putting another file in this one's place would not do what it should."""
    path = environment.path
    check_current(environment)
    if (path / "data.mdb").is_symlink():
        raise StoreError(
            "its data.mdb is a symbolic link, and the new file would lie here",
            store=str(path),
            remedy="make a link of the folder instead",
        )


def _see_to_disk(environment: Environment, old: Path, copy: Path) -> None:
    """Give the copy the owner and the permissions of the old file, and wait until it is on the disk."""
    owner = old.stat()
    descriptor = os.open(copy, os.O_RDWR | os.O_CLOEXEC)
    try:
        made = os.fstat(descriptor)
        if (owner.st_uid, owner.st_gid) != (made.st_uid, made.st_gid):
            try:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            except PermissionError as error:
                raise StoreError(
                    f"its file belongs to user {owner.st_uid} and group {owner.st_gid}, and would not afterwards",
                    store=str(environment.path),
                    remedy="compact it as that user",
                ) from error
        shutil.copystat(old, copy)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(environment: Environment, copy: Path, transaction: int) -> None:
    """Put the copy in place, and give back the room of the old file, which forked children have open still."""
    old = os.open(environment.path / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
    try:
        exchange(environment, copy, transaction)
        if os.fstat(old).st_nlink == 0:  # else somebody keeps it, under another name
            os.ftruncate(old, 0)
    finally:
        os.close(old)


class _Copy:
    """One copy of all that a transaction shows, into a new file."""

    def __init__(self, environment: Environment, source: lmdb.Transaction[memoryview], copy: Path, held: Aside) -> None:
        self._environment = environment
        self._store = str(environment.path)
        self._source = source
        self._copy = copy
        self._held = held
        self._done = 0
        self._total = 0

    def run(self) -> int:
        """Copy it, look that it is all there, and return LMDB's number of the last transaction of the copy."""
        with self._reading():
            databases = self._databases()
            used = sum(_pages(self._source.stat(database)) for database in databases.values()) + _pages(
                self._environment.raw.stat()
            )
        self._total = used * self._environment.page_size
        self._check_room()
        with self._writing():
            target = lmdb.open(
                str(self._copy.parent),
                lock=False,  # nobody else knows of it
                map_size=2 * self._total + 64 * MIB,
                metasync=False,
                sync=True,
                writemap=False,
                max_dbs=_MAX_DATABASES,
                max_spare_txns=0,
                mode=0o666,
                lib_version=0,
            )
        try:
            with self._writing(), target.begin(write=True) as writer:
                into = {name: target.open_db(name, txn=writer) for name in databases}
            for name, database in databases.items():
                self._copy_database(target, into[name], database)
            with self._writing():
                target.sync(True)
            self._compare(target, databases)
            return int(target.info()["last_txnid"])
        finally:
            target.close()

    def _databases(self) -> dict[bytes, _Database]:
        """Every sub-database of the main one, also of such names as this casckpt does not know."""
        return {
            bytes(name): self._environment.raw.open_db(bytes(name), txn=self._source, create=False)
            for name in self._source.cursor().iternext(values=False)
        }

    def _check_room(self) -> None:
        needed = self._total + self._total // 64 + _BESIDE
        available = filesystem.free_bytes(self._environment.path)
        if needed > available:
            raise self._full(f"the new file needs {needed} bytes beside the old one, and {available} are free", needed)

    def _copy_database(self, target: lmdb.Environment, into: _Database, database: _Database) -> None:
        for batch, size in self._batches(database):
            with self._writing(), target.begin(write=True) as writer:
                # Appended in the order of the keys, so that every page is full.
                writer.cursor(db=into).putmulti(batch, append=True)
            self._done += size
            self._held.report("copying what is in use", min(self._done, self._total), self._total)

    def _batches(self, database: _Database) -> Iterator[tuple[list[Entry], int]]:
        """The entries in their order, so many at a time, with their bytes."""
        with self._source.cursor(db=database) as cursor:
            there = self._step(cursor.first)
            while there:
                batch: list[Entry] = []
                size = 0
                while there and size < WRITE_BATCH and len(batch) < _BATCH_ENTRIES:
                    with self._reading():
                        entry = cursor.item()
                    batch.append(entry)
                    size += len(entry[0]) + len(entry[1])
                    there = self._step(cursor.next)
                yield batch, size

    def _step(self, move: Callable[[], bool]) -> bool:
        with self._reading():
            return move()

    def _compare(self, target: lmdb.Environment, databases: dict[bytes, _Database]) -> None:
        """Look that the copy holds as much as the old file, and was taken of its last change."""
        with self._reading(), target.begin() as reader:
            for name, database in databases.items():
                held = target.open_db(name, txn=reader, create=False)
                expected, found = self._source.stat(database)["entries"], reader.stat(held)["entries"]
                if expected != found:
                    raise self._damaged(f"{name.decode()!r} says that it has {expected} entries, and has {found}")
            meta = target.open_db(Space.META.value, txn=reader, create=False)
            counter = self._source.get(COUNTER_KEY, db=self._environment.databases[Space.META])
            if counter is None or reader.get(COUNTER_KEY, db=meta) != bytes(counter):
                raise self._damaged("the counter of its changes did not come through")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, problem: str) -> CorruptObjectError:
        return CorruptObjectError(
            f"{self._store}: its database is damaged: {problem}", remedy="look with casckpt fsck; nothing was changed"
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            code = getattr(error, "code", 0)
            full = isinstance(error, lmdb.MapFullError) or code in filesystem.FULL
            if full or filesystem.free_bytes(self._environment.path) < MIB:
                needed = self._total + self._total // 64 + _BESIDE
                raise self._full(f"the disk had no room for the new file: {error}", needed) from error
            raise StoreError(f"the new file could not be written: {error}", store=self._store) from error

    def _full(self, problem: str, needed: int) -> StoreFullError:
        return StoreFullError(
            f"{problem}; the old one is as it was",
            store=self._store,
            needed=needed,
            available=filesystem.free_bytes(self._environment.path),
            remedy="free some room on the disk",
        )


def _pages(stat: _StatDict) -> int:
    return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
