"""The folder that a backup or a salvage makes a store in. What was there before is never changed, nor what came since.

A command works in a folder that it has just made there itself, under a name that nobody can foresee, and at the end it
removes that one and no other. What one that was killed left stays: it is no store, and is named to whoever comes next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from casckpt.errors import NotAStoreError, StoreBusyError
from casckpt.store import filesystem
from casckpt.store.locks import FileLock
from casckpt.store.mark import Mark, mark_copy

BACKUP: Final = "backup"
SALVAGE: Final = "salvage"
_BEGUN: Final = {BACKUP: "backing-up", SALVAGE: "salvaging"}
_LEFTOVER: Final = re.compile(rf"({'|'.join(_BEGUN.values())})-[0-9a-f]{{32}}")
_DATA: Final = "data.mdb"
_GATE: Final = "gate"
# The data file on its way to its name. A folder with a data.mdb would be a store, with another lock for the same file.
_WHOLE: Final = "whole"
# What file systems say that have no locks, or cannot sync a folder.
_UNKNOWN: Final = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES})
# And those on which a file cannot have two names.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV})


def leftover(names: set[str]) -> tuple[str, str] | None:
    """The command that works among these names of a folder, or was killed there, and the folder that is its own."""
    for name in sorted(names):
        if found := _LEFTOVER.fullmatch(name):
            return next(command for command, begun in _BEGUN.items() if begun == found[1]), name
    return None


def check_empty(place: Path, own: str | None = None) -> None:
    """Refuse a place where something is. A gate alone is nothing: no change was ever acknowledged there.

    own: the name of the caller's folder there.

    Raises:
        NotAStoreError
    """
    if not place.exists():
        return
    if not place.is_dir():
        raise NotAStoreError("this is a file", store=str(place), remedy="give a new folder, or an empty one")
    names = {entry.name for entry in place.iterdir()} - {own}
    if _GATE in names:
        gate = (place / _GATE).lstat()
        if stat.S_ISREG(gate.st_mode) and gate.st_size == 0:
            names.remove(_GATE)
    if not names:
        return
    if _DATA in names:
        raise NotAStoreError(
            f"a store, or a whole backup, is in this folder ({_DATA})",
            store=str(place),
            remedy="give a new folder; if a command that was killed put it there, it is whole: open it",
        )
    if len(names) == 1 and (found := leftover(names)):
        raise left(place, *found)
    raise NotAStoreError(
        f"other things are in this folder ({min(names)})", store=str(place), remedy="give a new folder, or an empty one"
    )


def left(place: Path, command: str, name: str) -> NotAStoreError:
    """What is to be said of the folder of a command that is under way, or was killed."""
    return NotAStoreError(
        f"a {command} to this folder is under way, or was killed; nothing in {name} was acknowledged",
        store=str(place),
        remedy=f"if none is under way, remove {place / name} with all that is in it, or give a new folder",
    )


@contextlib.contextmanager
def working_folder(place: Path, command: str) -> Iterator[Path]:
    """A new folder in `place` for a command to make a store in; gone afterwards, unless the process was killed.

    Raises:
        NotAStoreError: something is in this place, another command that works there, say.
    """
    check_empty(place)
    place.mkdir(parents=True, exist_ok=True)
    folder = place / f"{_BEGUN[command]}-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o700)
    try:
        check_empty(place, own=folder.name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # an error would hide what went wrong; links are not followed


def put_in_place(folder: Path, mark: Mark) -> None:
    """Make the data file of a working folder, which is whole and synced, and which nobody has open, the store there.

    Whoever opens a store there waits for the gate, or had it before. So nobody but this command can write a mark, and a
    kill leaves no store, or all of it; and on the disk no mark comes before its store.

    Raises:
        NotAStoreError: something was put there meanwhile.
        StoreBusyError: somebody is opening, or making, a store there.
    """
    place = folder.parent
    whole, its_mark = folder / _WHOLE, folder / "mark of it"
    (folder / _DATA).rename(whole)
    mark_copy(its_mark, mark)
    with _gate(place, folder.name):
        try:
            _name(whole, place / _DATA)
        except FileExistsError:
            check_empty(place, own=folder.name)
            raise
        sync(place)
        with contextlib.suppress(OSError):  # without a mark, nothing is known to be missing
            _name(its_mark, place / "mark")
        shutil.rmtree(folder, ignore_errors=True)  # and with it the second name of the file
    device = place.stat().st_dev
    for one in (place, *place.parents):  # those on the way may have been made for it
        if one.stat().st_dev != device:
            break
        sync(one)


@contextlib.contextmanager
def _gate(place: Path, own: str) -> Iterator[None]:
    """While nobody opens a store at the place, as far as the file system knows locks, and there is none."""
    check_empty(place, own)
    lock = FileLock(place / _GATE)
    try:
        try:
            mine = lock.acquire(wait=False)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
            mine = True  # no store can be opened there either
        if not mine:
            raise StoreBusyError("somebody opens a store here", store=str(place), remedy="give another folder")
        check_empty(place, own)
        yield
    finally:
        lock.release()


def _name(made: Path, name: Path) -> None:
    """Give a file its name in the folder above. What has that name already is never replaced.

    Raises:
        FileExistsError
    """
    try:
        os.link(made, name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name)) from error
        made.rename(name)


def sync(folder: Path) -> None:
    """Wait until the entries of a folder are on the disk, as far as the file system knows such things."""
    try:
        filesystem.sync_folder(folder)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
