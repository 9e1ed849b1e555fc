"""Locks on files (flock), which the kernel lets go when their holder dies, in whatever container it ran.

A forked child must never keep its parent's lock alive: it shares the open file, so it gives its copies back at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

# Every lock with an open descriptor, for the child of a fork to find. Weak: one that an interrupt kept from being
# released must not be held for as long as this process lives.
_open: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """One lock on one file, which is made if absent. Not held until `acquire` says so.

    The descriptor is this object's own, so two locks on one file exclude each other within a process too.
    """

    __slots__ = ("__weakref__", "_descriptor", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _open.add(self)

    @property
    def descriptor(self) -> int:
        """The open file; negative once released, and in a forked child."""
        return self._descriptor

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock, and say whether it is held now; only `wait=False` can fail."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let go and close. Twice is once; in a forked child it touches nothing."""
        if self._descriptor >= 0:
            # Unlocked by name: a child that was forked while this was being opened may have a copy of the descriptor.
            # And first, so that an interrupt leaves nothing locked.
            with contextlib.suppress(OSError):  # of a file system without locks
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        _open.discard(self)

    def _abandon(self) -> None:  # pragma: no cover - runs in forked children, which report nothing
        """In a forked child: close this copy. Unlocking would take the lock from the parent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        try:
            self.acquire()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:  # in the end `sys` may be gone
        # Without a descriptor where it was interrupted at once; in the end the kernel is about to let go of it.
        if hasattr(self, "_descriptor") and not is_finalizing():
            self.release()


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock on this file; False where there is no such file.

    Asks with a shared lock, so that two who ask at once don't take each other for a holder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def is_seen_held(path: Path) -> bool | None:
    """Whether the kernel tells of somebody who holds the lock on this file; None where it tells nothing.

    Touches no lock: even asking by a shared one, as `is_held` does, could turn away who tries to take it just then.
    """
    try:
        inode = path.stat().st_ino
        table = Path("/proc/locks").read_text()
    except FileNotFoundError:
        return False if Path("/proc/locks").exists() else None
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE 4242 fd:01:131 0 EOF; not all file systems show there the device that stat shows
    lines = [line.split() for line in table.splitlines()]
    return any(
        fields[1] == "FLOCK" and "WRITE" in fields and any(field.endswith(f":{inode}") for field in fields)
        for fields in lines
        if len(fields) > 5
    )


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, which report nothing
    for lock in list(_open):
        lock._abandon()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
