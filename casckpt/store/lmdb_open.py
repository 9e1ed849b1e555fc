"""Opens LMDB's environment of a store, and says in our words why it cannot be opened."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import lmdb

from casckpt.errors import (
    ForkedStoreError,
    StoreBusyError,
    StoreError,
    StoreFailedError,
    StoreFullError,
)
from casckpt.store import filesystem, openers
from casckpt.store.format import MIN_MAP_SIZE
from casckpt.store.protocol import StoreFormat

MAX_READERS: Final = 1024
# Sub-databases that a store may come to have; a slot costs a few bytes of each transaction.
_MAX_DATABASES: Final = 32

_inherited = False


def open_lmdb(path: Path, format: StoreFormat, *, lock: bool = True) -> lmdb.Environment:
    """The environment in a folder, which is made if absent. lock: false where nobody else knows of it.

    Raises:
        StoreBusyError, StoreFullError, StoreFailedError, ForkedStoreError, StoreError
    """
    data = path / "data.mdb"
    file_size = data.stat().st_size if data.exists() else 0
    size = format.map_size
    left = filesystem.address_space_left()
    while left is not None and size > max(MIN_MAP_SIZE, left // 2):
        size //= 2
    with _past_the_guard():
        while True:
            try:
                return _lmdb_environment(path, size, lock)
            except lmdb.Error as error:
                if error.code == errno.ENOMEM and size // 2 >= max(MIN_MAP_SIZE, file_size):
                    size //= 2  # other maps have taken the address space
                    continue
                raise open_error(path, error) from error


def _lmdb_environment(path: Path, map_size: int, lock: bool) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=map_size,
        lock=lock,
        metasync=False,  # a commit is acknowledged only after an explicit sync
        sync=True,
        writemap=False,  # a full disk would kill the process, and a stray write would reach the file
        max_readers=MAX_READERS,
        max_dbs=_MAX_DATABASES,
        max_spare_txns=0,  # a spare transaction would be inherited by a fork
        mode=0o666,
        lib_version=0,  # LMDB 0.9, whatever the process's default for new files: the format of data version 1
    )


def open_error(path: Path, error: lmdb.Error) -> StoreError:
    """What is told where LMDB cannot open or make the file of the store at `path`."""
    store = str(path)
    holders = tuple(openers.describe(one) for one in openers.live(path))
    if error.code in (errno.EAGAIN, errno.EACCES):
        return StoreBusyError(
            "a process of another container has it open under this process's own number"
            if error.code == errno.EAGAIN
            else f"it may not be opened: {error}",
            store=store,
            holders=holders,
            remedy="start this process again, so that it gets another number" if error.code == errno.EAGAIN else "",
        )
    if "already open in this process" in str(error):
        if _inherited:
            return ForkedStoreError(
                "the parent of this process has it open, and this version of lmdb cannot open it beside that",
                store=store,
                remedy="start the process by spawn, or open the store in the children only",
            )
        return StoreBusyError(
            "something else in this process has it open", store=store, holders=("this process",), remedy="close that"
        )
    if error.code in filesystem.FULL:
        return StoreFullError("the disk has no room for it", store=store, remedy="free some room on the disk")
    if error.code == errno.ENOMEM:
        return StoreFailedError(
            f"there is no address space to map it: {error}", store=store, remedy="raise the limit of ulimit -v"
        )
    return StoreError(f"LMDB cannot open it: {error}", store=store)


@contextlib.contextmanager
def _past_the_guard() -> Iterator[None]:
    """In a forked child, let py-lmdb open what the parent has open.

    Its guard keeps a process from opening one file twice, because closing one would drop the locks of the other. A
    forked child inherits the guard's memory but none of the locks, and never closes what it inherited.
    """
    guard = getattr(lmdb, "_envid", None)
    if not _inherited or guard is None:
        yield
        return
    known = guard.env_keys
    guard.env_keys = lambda *place: tuple(("since the fork", os.getpid(), key) for key in known(*place))
    try:
        yield
    finally:
        guard.env_keys = known


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, which report nothing
    global _inherited
    _inherited = True


os.register_at_fork(after_in_child=_after_fork_in_child)
