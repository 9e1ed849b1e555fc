"""The store on disk: the protocol over one LMDB environment, shared by every handle of this process on it.

It must never do itself what needs an order of steps: each of those has a file of its own, and is asked for here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from casckpt.errors import StoreBusyError
from casckpt.store import filesystem, forked_imports, openers  # noqa: F401 - the second acts at forks
from casckpt.store.environment import Environment
from casckpt.store.lmdb_transactions import LmdbReader, LmdbWriter
from casckpt.store.locks import FileLock
from casckpt.store.opening import Wanted
from casckpt.store.protocol import (
    BackupReport,
    CompactReport,
    HeldBack,
    Pages,
    Progress,
    StoreFormat,
    StoreSize,
    no_progress,
)
from casckpt.store.registry import acquire, give_up, release
from casckpt.store.transaction import Handle

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
    try:
        return LmdbStore(acquire(filesystem.whole_path(path), wanted, handle), handle)
    except BaseException:
        give_up(handle)
        raise


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
        with self.read() as reader:
            used, total = self._environment.pages(reader._raw())
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
        upgrade(self._environment, self)

    def close(self) -> None:
        """Wait for the transactions under way, then let go of the store. Twice is once; in a forked child, nothing.

        Raises:
            StoreBusyError: this thread began one of them, so the wait would be for ever.
        """
        self._environment.leave(self._handle)
        release(self._environment, self._handle)
