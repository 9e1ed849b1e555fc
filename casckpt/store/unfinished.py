"""A locked file in a folder for as long as a command makes a store there: who is killed leaves it, and nobody holds it.

It is on the disk before anything else is made, and gone from it before the command says that it is done. So the same
command, given again, knows by it what is its own unfinished work, and takes nothing else for that: not what lay there
before, not what somebody has acknowledged, and not a store that somebody has opened since.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from casckpt.errors import NotAStoreError, StoreBusyError
from casckpt.store import filesystem
from casckpt.store.locks import FileLock

BACKING_UP: Final = "backing-up.lock"
SALVAGING: Final = "salvaging.lock"
_DATA: Final = "data.mdb"
# What both put beside the data file once it has its name. Whoever opens a store makes more than these.
_WHOLE: Final = frozenset({_DATA, "mark", "gate"})
# What file systems say that have no locks, or cannot sync a folder.
UNKNOWN: Final = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES})


class Filling:
    """A folder while a store is made in it. unfinished: whether a data file lies there that this command, or the same
    one before it, has put there, and of which nobody was told."""

    def __init__(self, place: Path, name: str, own: frozenset[str], *, unfinished: bool) -> None:
        self._place = place
        self._name = name
        self._own = own
        self.unfinished = unfinished

    def put(self, data: Path) -> None:
        """Give the data file its name, in one step; what is unfinished there is replaced, and nothing else.

        Raises:
            NotAStoreError: a store is there.
        """
        with contextlib.ExitStack() as held:
            if self.unfinished:
                held.enter_context(FileLock(self._place / "gate"))  # whoever opens it comes before this, or after it
                check_free(self._place, self._name, self._own)
            elif (self._place / _DATA).exists():
                raise _occupied(self._place, _DATA)
            data.rename(self._place / _DATA)
            self.unfinished = True


@contextlib.contextmanager
def filling(
    place: Path, name: str, own: frozenset[str], command: str, *, loose: frozenset[str] = frozenset()
) -> Iterator[Filling]:
    """While a command makes a store in a folder, which is there.

    name: of the locked file. own: names of what the command makes on the way; loose: those of them that are taken for
    unfinished without the file. command: what it is called.

    Raises:
        StoreBusyError: it is under way to this place.
        NotAStoreError: other things are there.
    """
    was_there = (place / name).exists()
    lock = FileLock(place / name)
    try:
        was_there &= _take(lock, command)  # where nobody knows locks, somebody may be at it
        try:
            _check(
                {entry.name for entry in place.iterdir()} - {name}, place, own | _WHOLE if was_there else own & loose
            )
            found = Filling(place, name, own, unfinished=was_there and (place / _DATA).exists())
        except BaseException:
            if not was_there:
                lock.path.unlink(missing_ok=True)
            raise
        sync(place)
        try:
            yield found
        except BaseException:
            if not found.unfinished:
                with contextlib.suppress(OSError):  # which would hide what went wrong
                    sync(place)  # what was made goes first
                    lock.path.unlink(missing_ok=True)
            raise
        sync(place)
        lock.path.unlink(missing_ok=True)
        sync(place)
    finally:
        lock.release()


def check_free(place: Path, name: str, own: frozenset[str], loose: frozenset[str] = frozenset()) -> None:
    """Raise NotAStoreError where there is something in a folder that is not unfinished; the rest as for `filling`."""
    names = {entry.name for entry in place.iterdir()}
    _check(names - {name}, place, own | _WHOLE if name in names else own & loose)


def _check(names: set[str], place: Path, allowed: frozenset[str]) -> None:
    strange = names - allowed
    if strange:
        raise _occupied(place, _DATA if _DATA in strange | (names & _WHOLE) else min(strange))


def _occupied(place: Path, name: str) -> NotAStoreError:
    if name != _DATA:
        remedy = "give a new folder, or an empty one"
        return NotAStoreError(f"other things are in this folder ({name})", store=str(place), remedy=remedy)
    return NotAStoreError(
        f"a store, or a whole backup, is in this folder ({name})",
        store=str(place),
        remedy="give a new folder, or an empty one; if a command that was killed put it there, it is whole: open it",
    )


def _take(lock: FileLock, command: str) -> bool:
    """Take the lock; returns whether it is known that nobody else has it."""
    try:
        mine = lock.acquire(wait=False)
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
        return False
    if not mine or not is_at(lock):  # removed just now: it was somebody's, who is done
        raise StoreBusyError(
            f"another {command} to this place is under way", store=str(lock.path.parent), remedy="give another one"
        )
    return True


def is_at(lock: FileLock) -> bool:
    """Whether a locked file still lies where it was opened."""
    try:
        return os.path.samestat(os.fstat(lock.descriptor), lock.path.stat())
    except FileNotFoundError:
        return False


def sync(folder: Path) -> None:
    """Wait until the entries of a folder are on the disk, as far as the file system knows such things."""
    try:
        filesystem.sync_folder(folder)
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
