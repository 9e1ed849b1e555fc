"""The folder that a backup or a salvage makes a store in. What was there before is never changed, nor what came since.

A command works in a folder that it has just made there itself, under a name that nobody can foresee, and at the end it
removes that one, of which it removes what it can have put there. What one that was killed left stays: it is no store,
and is named to whoever comes next.
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
from casckpt.store.folder import DATA, FILES, FOLDERS, GATE, MARK, is_plain
from casckpt.store.locks import FileLock
from casckpt.store.mark import Mark, mark_copy

BACKUP: Final = "backup"
SALVAGE: Final = "salvage"
_BEGUN: Final = {BACKUP: "backing-up", SALVAGE: "salvaging"}
_LEFTOVER: Final = re.compile(rf"({'|'.join(_BEGUN.values())})-[0-9a-f]{{32}}")
WHOLE: Final = "whole"
"""The data file on its way to its name. A folder with a data.mdb would be a store, with another lock for that file."""
_ITS_MARK: Final = "mark-of-whole"
# What file systems say that have no locks, or cannot sync a folder.
_UNKNOWN: Final = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES})
# And those on which a file cannot have two names.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV})


def left_folders(place: Path, names: set[str]) -> list[str]:
    """Those of these names that are folders in which a command works, or did when it was killed."""
    return sorted(
        name
        for name in names
        if _LEFTOVER.fullmatch(name) and (place / name).is_dir() and not (place / name).is_symlink()
    )


def refuse_left(place: Path, names: set[str]) -> None:
    """Refuse a place where such folders are, and nothing that a store would have had: a mark tells of changes, which
    may be in one of them.

    Raises:
        NotAStoreError
    """
    left = left_folders(place, names)
    if not left or DATA in names or MARK in names or names - {*left, *FILES, *FOLDERS}:
        return
    command = next(command for command, begun in _BEGUN.items() if left[0].startswith(begun))
    raise NotAStoreError(
        f"a {command} to this folder is under way, or was killed; nothing in {left[0]} was acknowledged",
        store=str(place),
        remedy=f"if none is under way, remove {place / left[0]} with all that is in it, or give a new folder",
    )


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
    if is_plain(place / GATE) and not (place / GATE).lstat().st_size:
        names.discard(GATE)
    if not names:
        return
    if DATA in names:
        raise NotAStoreError(
            f"a store, or a whole backup, is in this folder ({DATA})",
            store=str(place),
            remedy="give a new folder; if a command that was killed put it there, it is whole: open it",
        )
    refuse_left(place, names)
    raise NotAStoreError(
        f"other things are in this folder ({min(names)})", store=str(place), remedy="give a new folder, or an empty one"
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
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a working folder, unless somebody put something of his own into it."""
    with contextlib.suppress(OSError):  # an error would hide what went wrong
        for name in FOLDERS:  # links are not followed
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (WHOLE, _ITS_MARK, DATA, *FILES):
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
        folder.rmdir()


def put_in_place(folder: Path, mark: Mark) -> None:
    """Make the data file of a working folder, which is whole and synced, and which nobody has open, the store there.

    Whoever opens a store there waits for the gate, or had it before. So nobody but this command can write a mark, and a
    kill leaves no store, or all of it; and on the disk no mark comes before its store.

    Raises:
        NotAStoreError: something was put there meanwhile.
        StoreBusyError: somebody is opening, or making, a store there.
    """
    place = folder.parent
    whole, its_mark = folder / WHOLE, folder / _ITS_MARK
    (folder / DATA).rename(whole)
    mark_copy(its_mark, mark)
    device = place.stat().st_dev
    for one in place.parents:  # those on the way may have been made for it; who opens it early sees to none of them
        if one.stat().st_dev != device:
            break
        sync(one)
    with _gate(place, folder.name):
        try:
            _give_name(whole, place / DATA)
        except FileExistsError:
            check_empty(place, own=folder.name)
            raise
        sync(place)
        with contextlib.suppress(OSError):  # without a mark, nothing is known to be missing
            _give_name(its_mark, place / MARK)
        _remove(folder)  # and with it the second name of the file
    sync(place)


@contextlib.contextmanager
def _gate(place: Path, own: str) -> Iterator[None]:
    """While nobody opens a store at the place, as far as the file system knows locks, and there is none."""
    check_empty(place, own)
    lock = FileLock(place / GATE)
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


def _give_name(made: Path, name: Path) -> None:
    """Give a file its name in the folder above. What has that name already is never replaced.

    Raises:
        FileExistsError
    """
    try:
        os.link(made, name)
    except FileExistsError:
        if not (is_plain(name) and name.samefile(made)):  # as NFS says when it repeats what went through
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name)) from error
        made.rename(name)


def keep_private(like: Path, made: Path) -> None:
    """Let nobody but its owner read a copy who may not read what it is of, where the file system knows such things."""
    allowed = (like.stat().st_mode | stat.S_IRUSR | stat.S_IWUSR) & made.stat().st_mode
    with contextlib.suppress(OSError):
        made.chmod(allowed & 0o777)


def sync(folder: Path) -> None:
    """Wait until the entries of a folder are on the disk, as far as the file system knows such things."""
    try:
        filesystem.sync_folder(folder)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
