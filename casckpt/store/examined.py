"""What the data file was like when it was last known to be good, kept beside it: any other file is looked at first.

The record is written by whoever leaves a store last, or has just looked at every page of its database. It must never
be taken for true where it might not be: missing, torn, of another boot or of another file it counts for nothing, and
the file is examined, which costs time and nothing else. It needs no sync: after a power failure the boot is another.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from casckpt.store.folder import DATA, EXAMINED

_MAGIC: Final = b"casexam1"
# magic, the store's uuid, the boot's, LMDB's number of the last transaction, and what stat says; then xxh64 of these
_SLOT: Final = struct.Struct("<8s16s16sQQQQqq")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_COARSE_CLOCK: Final = 5  # CLOCK_REALTIME_COARSE of linux/time.h: by it files get their times
_SECOND: Final = 10**9
_TICK: Final = 15  # milliseconds; that clock moves every 10 at the latest


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one content of a file from any other, as far as stat can: who writes to it moves one of these."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    def is_settled(self, now: int) -> bool:
        """Whether any change made since `now` has another time: that of the clock by which files get theirs, read
        before the stamp was taken."""
        last = max(self.mtime, self.ctime)
        if last % _SECOND == 0:  # a file system that may know no more than every other second
            return now // _SECOND > last // _SECOND + 1
        return now > last


def stamp_of(data: Path) -> Stamp | None:
    """The stamp of a file; None where it cannot be had."""
    try:
        stat = data.stat()
    except OSError:
        return None
    return Stamp(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class Watch:
    """Whether a data file is still as LMDB left it in this process, for as long as that has it open.

    Others may write too, in transactions of their own: then it is not known who changed the file, and it is examined
    when it is opened next.
    """

    def __init__(self, data: Path, transaction: int) -> None:
        """transaction: LMDB's number of the last one; negative where others have the file open too."""
        self._data = data
        self._stamp = stamp_of(data)
        self._transaction = transaction
        self._untouched = True

    def before(self, last: int) -> None:
        """Look, once a write transaction has begun; last: the number of the one before it."""
        if last != self._transaction or stamp_of(self._data) != self._stamp:
            self._untouched = False

    def after(self, last: int) -> None:
        """Note what a write transaction, or an exchange of the file, has left."""
        self._stamp, self._transaction = stamp_of(self._data), last

    def is_untouched(self, last: int) -> bool:
        """Whether nobody but LMDB, in this process, has changed the file."""
        return (
            self._untouched
            and last == self._transaction
            and self._stamp is not None
            and stamp_of(self._data) == self._stamp
        )


def is_known(folder: Path, store: str, transaction: int) -> bool:
    """Whether the store's data file is the one that was last known to be good."""
    stamp, boot = stamp_of(folder / DATA), _boot()
    if stamp is None or not boot:
        return False
    expected = _encode(store, boot, transaction, stamp)
    try:
        with (folder / EXAMINED).open("rb") as file:
            return file.read(len(expected) + 1) == expected
    except OSError:
        return False


def note_good(folder: Path, store: str, transaction: int) -> None:
    """Note that the data file is good as it is now; call where nobody can be changing it: under the gate, alone.

    A failure is no one's trouble: what is not known to be good is examined.
    """
    boot, stamp = _boot(), _settled_stamp(folder / DATA)
    if stamp is None or not boot:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder / EXAMINED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            os.write(descriptor, _encode(store, boot, transaction, stamp))
        finally:
            os.close(descriptor)


def _settled_stamp(data: Path) -> Stamp | None:
    """The stamp of a file once a change to it would have another time; None where that takes longer than a tick of the
    clock, or it cannot be had. The wait is shorter than the next opening's look at every page."""
    for _ in range(_TICK):
        now = time.clock_gettime_ns(_COARSE_CLOCK)
        stamp = stamp_of(data)
        if stamp is None or stamp.is_settled(now):
            return stamp
        time.sleep(0.001)
    return None


def _encode(store: str, boot: bytes, transaction: int, stamp: Stamp) -> bytes:
    slot = _SLOT.pack(
        _MAGIC,
        uuid.UUID(store).bytes,
        boot,
        transaction,
        stamp.device,
        stamp.inode,
        stamp.size,
        stamp.mtime,
        stamp.ctime,
    )
    return slot + xxhash.xxh64_digest(slot)


def _boot() -> bytes:
    """What tells this boot of the machine from any other; empty where nothing does."""
    try:
        return uuid.UUID(_BOOT.read_text().strip()).bytes
    except (OSError, ValueError):
        return b""
