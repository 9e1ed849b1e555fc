"""Files that appear whole or not at all: written under a temporary name beside their target, synced, then renamed.

Whatever goes wrong, the temporary file is gone and what was at the target before is untouched.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from casckpt.errors import ExportError, ExportFullError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Progress = Callable[[str, int, int], None]
"""Called with the stage, and the bytes done and in all (0: not known)."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Between two calls of a progress at least so many bytes are written.
_STEP = 8 << 20


class Writer:
    """A file under its temporary name. file: its target, for messages. Never raises what the disk says but typed."""

    def __init__(self, file: Path, part: Path, handle: BinaryIO, total: int, progress: Progress | None) -> None:
        self.part = part
        self.written = 0
        self._file = file
        self._handle = handle
        self._total = total
        self._progress = progress

    def write(self, data: Buffer) -> int:
        """Write all of it; large buffers piece by piece, so that progress is seen."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _STEP):
            piece = view[start : start + _STEP]
            with typed(self._file):
                self._handle.write(piece)
            self.written += len(piece)
            if self._progress is not None:
                self._progress(f"writing {self._file.name}", self.written, self._total)
        return len(view)

    def sync(self) -> None:
        """Have all of it on the disk."""
        with typed(self._file):
            self._handle.flush()
            os.fsync(self._handle.fileno())


@contextmanager
def typed(file: Path) -> Iterator[None]:
    """What the system says of writing a file, as our own errors.

    Raises:
        ExportFullError, ExportError
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ExportFullError(
                "no room on the disk for it", file=str(file), remedy="free some space, or export to another disk"
            ) from error
        raise ExportError(f"cannot be written: {error.strerror or error}", file=str(file)) from error


def check_room(folder: Path, needed: int) -> None:
    """Whether a folder's disk has that many bytes.

    Raises:
        ExportFullError
    """
    with typed(folder):
        disk = os.statvfs(folder)
    available = disk.f_bavail * disk.f_frsize
    if needed > available:
        raise ExportFullError(
            f"{needed} bytes are needed on the disk, {available} are free",
            file=str(folder),
            needed=needed,
            available=available,
            remedy="free some space, or export to another disk",
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
        raise ExportError(
            "is there already",
            file=str(target),
            remedy="choose another name, or overwrite it (--overwrite, overwrite=True)",
        )
    if not place.parent.is_dir():
        raise ExportError("its folder is not there", file=str(target), remedy=f"make {place.parent} first")
    return place


def temporary_name(target: Path) -> Path:
    """A name beside a target that nobody has."""
    return target.parent / f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.part"


@contextmanager
def written(target: Path, total: int, progress: Progress | None = None) -> Iterator[Writer]:
    """A new file that takes the place of `target` when the block ends well. total: bytes it will have, as far as known.

    Raises:
        ExportFullError, ExportError
    """
    check_room(target.parent, total)
    part = temporary_name(target)
    try:
        with typed(target):
            handle = part.open("xb")
        with handle:
            writer = Writer(target, part, handle, total, progress)
            yield writer
            writer.sync()
        with typed(target):
            part.replace(target)
            sync_folder(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
