"""The high-water mark: how many changes a store has acknowledged, kept outside its database.

It is how a database that a damaged page silently rolled back is found out. It must never move backwards by itself,
never be ahead of what is on the disk, and needs no sync of its own: late is normal, and torn is the same as none.
"""

from __future__ import annotations

import contextlib
import os
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

import xxhash

from casckpt.store.folder import is_plain
from casckpt.store.locks import FileLock

_MAGIC = b"casmark1"
_SLOT = struct.Struct("<8s16sQ")  # magic, the store's uuid, the counter; then xxh64 of these
_SIZE = _SLOT.size + 8


@dataclass(frozen=True, slots=True)
class Mark:
    """`counter` changes of the store `store` were acknowledged."""

    store: str
    counter: int


def read_mark(path: Path) -> Mark | None:
    """The mark; None where there is none, or a torn one."""
    try:
        if not is_plain(path):
            return None
        with path.open("rb") as file:
            return _decode(file.read(_SIZE))
    except FileNotFoundError:
        return None


def move_mark(path: Path, mark: Mark) -> None:
    """Move the mark forward to `mark`; call once that change is on the disk.

    A failure is no one's trouble: the change is durable, and a mark that stays behind is a late mark.
    """
    with contextlib.suppress(OSError):
        _write(path, mark, backwards=False)


def reset_mark(path: Path, mark: Mark) -> None:
    """Set the mark, backwards too: the store is new, or somebody has accepted a loss.

    It is on the disk when this returns: an old mark that came back would be of another store, or ahead.
    """
    _write(path, mark, backwards=True)


def mark_copy(path: Path, mark: Mark) -> None:
    """Make the mark of a copy that nobody has open yet, where locks may be unknown.

    A failure is no one's trouble: without a mark, nothing is known to be missing.
    """
    with contextlib.suppress(OSError), path.open("xb") as file:
        file.write(_encode(mark))


def _write(path: Path, mark: Mark, *, backwards: bool) -> None:
    with FileLock(path) as lock:
        held = _decode(os.pread(lock.descriptor, _SIZE, 0))
        if not backwards and held is not None and held.counter >= mark.counter:
            return
        os.pwrite(lock.descriptor, _encode(mark), 0)  # in one go, so that a crash leaves the old slot, or a torn one
        if backwards:
            os.fsync(lock.descriptor)


def _encode(mark: Mark) -> bytes:
    slot = _SLOT.pack(_MAGIC, uuid.UUID(mark.store).bytes, mark.counter)
    return slot + xxhash.xxh64_digest(slot)


def _decode(data: bytes) -> Mark | None:
    slot, check = data[: _SLOT.size], data[_SLOT.size :]
    if len(data) != _SIZE or xxhash.xxh64_digest(slot) != check:
        return None
    magic, store, counter = _SLOT.unpack(slot)
    return Mark(str(uuid.UUID(bytes=store)), counter) if magic == _MAGIC else None
