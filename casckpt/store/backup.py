"""Copies a store to another folder while others use it. It must never leave half a copy that looks whole.

LMDB writes the copy, without free pages, as one transaction of its own shows the store. It goes through a pipe, so that
it is written from the beginning to the end, as network and cloud file systems like it, and so that it can be stopped.
It has another place until all of it is on the disk (`destination.py`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import lmdb

from casckpt.errors import CasckptError, CorruptObjectError, NotAStoreError, StoreBusyError, StoreError, StoreFullError
from casckpt.limits import MIB
from casckpt.store import filesystem
from casckpt.store.aside import Aside, aside
from casckpt.store.datafile import damaged, look_into
from casckpt.store.destination import BACKUP, check_empty, keep_private, put_in_place, working_folder
from casckpt.store.environment import Environment
from casckpt.store.folder import DATA
from casckpt.store.format import COUNTER_KEY, decode_format
from casckpt.store.mark import Mark
from casckpt.store.protocol import BackupReport, Progress, Space
from casckpt.store.transaction import Handle, Transaction

_BLOCK: Final = MIB  # what is read from the pipe at once: as much as it holds, and as LMDB writes
_BESIDE: Final = MIB  # the mark, the gate and the folder
# Of all pipes in use: a child of a fork gives its copies back, or whoever reads would wait for its end.
_ends: set[int] = set()
_ends_change = threading.Lock()


def backup(environment: Environment, handle: Handle, destination: Path, progress: Progress) -> BackupReport:
    """Copy the store; `protocol.Store.backup` says what is raised."""
    began = time.monotonic()
    place = filesystem.whole_path(destination)
    environment.gate.check_no_own()
    length = aside(lambda held: _backup(environment, handle, place, held), progress)
    return BackupReport(path=str(place), bytes=length, seconds=time.monotonic() - began)


def _backup(environment: Environment, handle: Handle, place: Path, held: Aside) -> int:
    with filesystem.system_errors(place, "it cannot be written"):
        _check_place(environment, place)
        transaction = Transaction(handle)
        try:
            environment.begin_read(transaction)
            copying = _Copying(environment, transaction)
        except BaseException:
            environment.end_read(transaction)
            raise
        try:
            _check_room(place, copying.expected)
            with working_folder(place, BACKUP) as folder:
                length = _write_copy(environment, copying, folder, held)
                put_in_place(folder, Mark(environment.format.uuid, copying.counter))
        finally:
            copying.let_go()
        return length


def _write_copy(environment: Environment, copying: _Copying, folder: Path, held: Aside) -> int:
    """Write the data file, until it is whole and on the disk; returns its length."""
    data = folder / DATA
    descriptor = os.open(data, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        keep_private(environment.path / DATA, data)
        length = _pump(copying, descriptor, held, folder.parent)
        held.report("waiting for the disk", 0, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _check_whole(environment, data)
    return length


def _check_place(environment: Environment, place: Path) -> None:
    """Refuse, before anything is made, what is no place for a backup."""
    if place.is_relative_to(environment.path):
        raise NotAStoreError("this is inside of the store itself", store=str(place), remedy="give a folder elsewhere")
    check_empty(place)


def _check_room(place: Path, expected: int) -> None:
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    available = filesystem.free_bytes(there)
    if expected + _BESIDE > available:
        raise StoreFullError(
            f"there is no room for the copy: {expected + _BESIDE} bytes are needed, {available} are free",
            store=str(place),
            needed=expected + _BESIDE,
            available=available,
            remedy="free some room there, or give another place",
        )


def _pump(copying: _Copying, descriptor: int, held: Aside, place: Path) -> int:
    """Write what LMDB hands over, in the order in which it comes; returns how many bytes."""
    done = 0
    with copying.pipe() as pipe:
        while block := os.read(pipe, _BLOCK):
            _write(descriptor, block, place)
            done += len(block)
            held.report("copying", min(done, copying.expected), copying.expected)
    copying.check()
    return done


def _write(descriptor: int, block: bytes, place: Path) -> None:
    left = memoryview(block)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except OSError as error:
            if error.errno not in filesystem.FULL:
                raise
            if error.errno == errno.EFBIG:
                problem, remedy = "no file as large as the copy may be there", "give another place, or see ulimit -f"
            else:
                problem, remedy = "the disk had no room for the copy", "free some room there"
            raise StoreFullError(problem, store=str(place), remedy=remedy) from error


class _Copying:
    """LMDB's copying, on a thread that holds the snapshot until it is done: the store is not closed under it."""

    def __init__(self, environment: Environment, snapshot: Transaction) -> None:
        self._environment = environment
        self._snapshot = snapshot
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        assert snapshot.raw is not None
        try:
            counter = snapshot.raw.get(COUNTER_KEY, db=environment.databases[Space.META])
        except lmdb.Error as error:
            raise damaged(environment.path, error) from error
        self.counter = 0 if counter is None else int.from_bytes(counter, "big")
        """Of the snapshot: LMDB's copy is taken a moment later, and may hold more, never less."""
        self.expected = environment.pages(snapshot.raw)[0] * environment.page_size
        """Bytes of the copy, as far as is known."""

    @contextlib.contextmanager
    def pipe(self) -> Iterator[int]:
        """The end to read the copy from. However the block is left, LMDB is done with the store then."""
        with _ends_change:
            reading, writing = os.pipe()
            _ends.update((reading, writing))
        with contextlib.suppress(OSError):  # the system has a limit for each user
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _BLOCK)
        self._thread = threading.Thread(target=self._run, args=(writing,), name="casckpt-copy")
        try:
            self._thread.start()
        except BaseException:
            self._thread = None
            _close(writing)
            _close(reading)
            raise
        try:
            yield reading
        finally:
            _close(reading)  # if it is not done, its next write fails
            self._thread.join()

    def _run(self, writing: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # a pipe that nobody reads is an error to be told
        try:
            self._environment.raw.copyfd(writing, compact=True)
        except BaseException as error:
            self._error = error
        finally:
            _close(writing)
            self._environment.end_read(self._snapshot)

    def check(self) -> None:
        """Raise what kept LMDB from copying all of it."""
        error, self._error = self._error, None
        store = str(self._environment.path)
        if isinstance(error, lmdb.ReadersFullError):
            raise StoreBusyError(
                "too many processes and threads read it at once", store=store, remedy="try again later"
            ) from error
        if isinstance(error, lmdb.Error):
            raise CorruptObjectError(
                f"{store}: its database cannot be copied: {error}", remedy="look with casckpt fsck"
            ) from error
        if error is not None:
            raise error

    def let_go(self) -> None:
        """End the snapshot, if it never came to copying."""
        if self._thread is None:
            self._environment.end_read(self._snapshot)


def _check_whole(environment: Environment, data: Path) -> None:
    """Look at the copy as at any file that is to be opened."""
    place = data.parent.parent
    try:
        record = look_into(data).format
    except CasckptError as error:
        raise _not_whole(place) from error
    format = environment.format
    # whose version may have been raised since the snapshot
    if record is None or replace(decode_format(str(place), record), version=format.version) != format:
        raise _not_whole(place)


def _not_whole(place: Path) -> StoreError:
    return StoreError("the copy is not what was copied", store=str(place), remedy="look at the disk that it is on")


def _close(end: int) -> None:
    with _ends_change:
        _ends.discard(end)
        os.close(end)


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, which report nothing
    for end in _ends:
        os.close(end)
    _ends.clear()
    _ends_change.release()


os.register_at_fork(
    before=_ends_change.acquire, after_in_parent=_ends_change.release, after_in_child=_after_fork_in_child
)
