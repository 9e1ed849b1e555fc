"""What the store asks of the file system: its kind, its free room, and that a folder's entries are on the disk."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from casckpt.errors import NetworkFilesystemError, StoreError, StoreFullError

# How the system says that a file cannot grow: the disk, the quota, or the limit on one file is used up.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# f_type of statfs(2), from linux/magic.h and the kernel sources of each. On these, memory maps and locks are not
# coherent between machines, or not at all.
NETWORK_FILESYSTEMS = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB2",
    0xFF534D42: "CIFS",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x00C36400: "Ceph",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x01021997: "9P",
    0x65735546: "FUSE",
}

_KEEP_SIZE: Final = 1  # FALLOC_FL_KEEP_SIZE of linux/falloc.h
_libc = ctypes.CDLL(None, use_errno=True)


def kind_of(path: Path) -> int:
    """The magic number of the file system that holds `path`, as statfs(2) gives it."""
    # f_type comes first in struct statfs, as a long; what follows is larger than on any architecture.
    buffer = (ctypes.c_long * 64)()
    if _libc.statfs(os.fsencode(path), ctypes.byref(buffer)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    return int(buffer[0]) & 0xFFFFFFFF


def refuse_network(path: Path) -> None:
    """Refuse a path on a network file system; where it does not exist yet, its nearest folder that does counts.

    Raises:
        NetworkFilesystemError
    """
    there = path
    while not there.exists():
        there = there.parent
    name = NETWORK_FILESYSTEMS.get(kind_of(there))
    if name is not None:
        raise NetworkFilesystemError(
            f"this is on {name}, where memory maps and locks cannot be trusted",
            store=str(path),
            remedy="keep the store on a local disk, and copy it elsewhere with casckpt backup",
        )


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write there."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def disk_bytes(path: Path) -> int:
    """Bytes of the disk that a file holds, which may be more or less than its length."""
    return path.stat().st_blocks * 512


@contextlib.contextmanager
def system_errors(path: Path, trouble: str) -> Iterator[None]:
    """Name the store, and what could not be done to it, in what the system refuses, such as a permission.

    Raises:
        StoreFullError, StoreError
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StoreFullError(
                f"{trouble}: the disk has no room", store=str(path), remedy="free some room on the disk"
            ) from error
        raise StoreError(f"{trouble}: {error}", store=str(path)) from error


def whole_path(path: str | os.PathLike[str]) -> Path:
    """The path from the root on, without links.

    Raises:
        StoreError: there can be none.
    """
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # as pathlib says of a loop, a NUL, or a home of nobody
        raise StoreError(f"this is no path: {error}", store=os.fspath(path), remedy="give another one") from error


def sync_place(path: Path) -> None:
    """Wait until every folder on the way to `path`, from the root of its file system on, is on the disk.

    Whoever made them may have died before he could see to it, so all are synced, not only those made just now.
    """
    device = path.stat().st_dev
    for folder in path.parents:
        if folder.stat().st_dev != device:
            return
        sync_parent(folder)


def sync_parent(folder: Path) -> None:
    """As `sync_folder`; one that may not be read cannot be synced, and holds entries that somebody else answers for."""
    with contextlib.suppress(PermissionError):
        sync_folder(folder)


def sync_folder(path: Path) -> None:
    """Wait until the folder's entries (not the contents of its files) are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve(path: Path, end: int) -> None:
    """Take the disk's room for a file up to byte `end`, its length left as it is; made if absent.

    Raises:
        OSError: there is no such room. A file system that cannot do this is no error.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if _libc.fallocate(descriptor, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(end)) != 0:
            error = ctypes.get_errno()
            if error in FULL:
                raise OSError(error, os.strerror(error), str(path))
    finally:
        os.close(descriptor)


def address_space_left() -> int | None:
    """Bytes of address space that this process may still take; None where there is no limit (`ulimit -v`)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return max(0, limit - taken)
