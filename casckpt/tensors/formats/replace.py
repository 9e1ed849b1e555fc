"""Files that appear whole or not at all: written under a temporary name beside their target, synced, then renamed.

Whatever goes wrong, what was at the target before is untouched, and the temporary file is gone; only a process that is
killed, or a disk that no longer takes changes, leaves it there, hidden, as `.NAME.….part`.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from casckpt.errors import ExportError, ExportFullError
from casckpt.store.filesystem import free_bytes, sync_parent

if TYPE_CHECKING:
    from typing_extensions import Buffer

Progress = Callable[[str, int, int], None]
"""Called with the stage, and the bytes done and in all (0: not known)."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_ROOM = "free some space, or export to another disk"
# Bytes handed to the system at once; between two calls progress is told.
_STEP = 8 << 20


class Writer:
    """A file under its temporary name, `part`. written: bytes so far. Raises as `typed` does."""

    def __init__(self, target: Path, part: Path, descriptor: int, total: int, progress: Progress | None) -> None:
        self.part = part
        self.written = 0
        self._target = target
        self._descriptor = descriptor
        self._total = total
        self._progress = progress

    def write(self, data: Buffer) -> int:
        """Write all of it, and tell the progress; returns its length in bytes."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _STEP):
            piece = view[start : start + _STEP]
            with typed(self._target):
                write_all(self._descriptor, piece)
            self.written += len(piece)
            if self._progress is not None:
                self._progress(f"writing {self._target.name}", self.written, max(self._total, self.written))
        return len(view)

    def sync(self) -> None:
        """Have all of it on the disk."""
        with typed(self._target):
            os.fsync(self._descriptor)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of it.

    Raises:
        OSError
    """
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def typed(target: Path) -> Iterator[None]:
    """What the system says of writing a file, as our own errors.

    Raises:
        ExportFullError, ExportError
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ExportFullError("no room on the disk for it", file=str(target), remedy=_ROOM) from error
        raise ExportError(f"cannot be written: {error.strerror or error}", file=str(target)) from error


def check_room(folder: Path, needed: int) -> None:
    """Whether a folder's disk has that many bytes.

    Raises:
        ExportFullError
    """
    with typed(folder):
        available = free_bytes(folder)
    if needed > available:
        raise ExportFullError(
            f"{needed} bytes are needed on the disk, {available} are free",
            file=str(folder),
            needed=needed,
            available=available,
            remedy=_ROOM,
        )


def already_there(target: Path) -> ExportError:
    """The error for a target that may not be replaced."""
    return ExportError(
        "is there already",
        file=str(target),
        remedy="choose another name, or overwrite it (--overwrite, overwrite=True)",
    )


def check_target(target: Path, overwrite: bool) -> Path:
    """The place that a target stands for, symbolic links followed, once it may be written.

    Raises:
        ExportError: it is there already, or its folder is not.
    """
    place = Path(os.path.realpath(target))
    if place.is_dir():
        raise ExportError("is a folder", file=str(target), remedy="name a file in it")
    if place.exists() and not overwrite:
        raise already_there(target)
    if place.exists() and not place.is_file():
        raise ExportError("is no regular file, and is not replaced", file=str(target))
    if not place.parent.is_dir():
        raise ExportError("its folder is not there", file=str(target), remedy=f"make {place.parent} first")
    return place


def temporary_name(target: Path) -> Path:
    """A name beside a target that nobody has."""
    return target.parent / f".{target.name[:60]}.{uuid.uuid4().hex[:12]}.part"


@contextmanager
def written(target: Path, total: int, progress: Progress | None = None, *, overwrite: bool) -> Iterator[Writer]:
    """A new file that is at `target` when the block has ended well. total: bytes it will have, as far as known.

    overwrite: what is there by then is replaced; else that is an error.

    Raises:
        ExportFullError, ExportError
    """
    check_room(target.parent, total)
    part = temporary_name(target)
    try:
        with typed(target):
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            writer = Writer(target, part, descriptor, total, progress)
            yield writer
            writer.sync()
        finally:
            os.close(descriptor)
        with typed(target):
            _put(part, target, overwrite)
            sync_parent(target.parent)
    finally:
        with suppress(OSError):  # which would hide what went wrong
            part.unlink(missing_ok=True)


def _put(part: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        part.replace(target)
        return
    try:
        target.hardlink_to(part)  # unlike a rename it never replaces what came there meanwhile
        part.unlink()  # before the folder is synced, or a loss of power would bring that name back
    except FileExistsError as error:
        raise already_there(target) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        part.replace(target)  # a file system without links
