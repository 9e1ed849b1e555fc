"""The lock that LMDB holds on lock.mdb while a store is open, asked for from outside.

It must never be asked for where this process has the store open: POSIX locks fall when any descriptor of their file is
closed.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path
from typing import Final

from casckpt.errors import StoreBusyError, StoreLockLostError
from casckpt.store import openers
from casckpt.store.folder import LOCK, is_plain

# struct flock: type, whence, start, length, pid
FLOCK: Final = struct.Struct("hhqqi0q")
# A killed process loses LMDB's lock a moment before its opener's: the kernel closes one file after the other.
_SETTLE_TRIES: Final = 40
_SETTLE_PAUSE: Final = 0.05


def is_lmdb_locked(path: Path) -> bool:
    """Whether another process holds LMDB's lock on the store at `path`."""
    if not is_plain(path / LOCK):
        return False
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        answer: int = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
        return answer != fcntl.F_UNLCK
    finally:
        os.close(descriptor)


def refuse_lost_lock(path: Path) -> None:
    """Refuse where others have the store open and LMDB's lock is not held; call under the gate, with it closed here.

    Openers register after LMDB's lock is taken and leave before it is given back, so one that is still alive after
    nobody was seen to hold the lock has lost it: LMDB would take the store for unused, and two writers would tear it.
    """
    for attempt in range(_SETTLE_TRIES):
        if attempt:
            threading.Event().wait(_SETTLE_PAUSE)
        held = is_lmdb_locked(path)
        alive = openers.tidy(path)
        if held or not alive:
            return
    holders = tuple(openers.describe(one) for one in alive)
    raise StoreLockLostError(
        f"{', '.join(holders)} has it open, but the lock that LMDB relies on is gone"
        " (its folder was copied inside that process, or lock.mdb was removed)",
        store=str(path),
        holders=holders,
        remedy="end those processes first; copy a store with casckpt backup",
    )


def refuse_locked(path: Path) -> None:
    """Refuse where somebody who is no opener of ours has LMDB's lock; one who is closing is waited for."""
    for attempt in range(_SETTLE_TRIES):
        if attempt:
            threading.Event().wait(_SETTLE_PAUSE)
        if not is_lmdb_locked(path):
            return
    raise StoreBusyError(
        "something that is not casckpt has its database open",
        store=str(path),
        holders=("a process that does not say who it is",),
        remedy="end it first",
    )
