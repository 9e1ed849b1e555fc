"""Who still reads an old snapshot: pages that were freed since it was taken cannot be used again before it ends.

A read transaction lasts no longer than one save or load. But a process can be stopped in one, or hang on a dead disk;
then the file grows by all that is written. Nothing may be taken from a process that is alive, so it is told. What the
dead left is cleared away.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from casckpt.errors import NotAStoreError
from casckpt.store import openers
from casckpt.store.layout import (
    BIG,
    BRANCH,
    EMPTY,
    HEAD_SIZE,
    LEAF,
    MAX_DEPTH,
    NODE,
    PAGE,
    Head,
    UnreadableError,
    read_head,
)
from casckpt.store.protocol import HeldBack

if TYPE_CHECKING:
    import lmdb


def held_back(path: Path, raw: lmdb.Environment, now: int, mine: set[int]) -> HeldBack | None:
    """What the oldest snapshot that somebody reads holds back; clears the slots of dead processes first.

    now: the transaction of a snapshot that lives until this returns, so that no page that it shows is used again.
    mine: the transactions of the snapshots of this process.
    """
    raw.reader_check()
    old = [reader for reader in _slots(raw.readers()) if reader[1] < now]
    if not old:
        return None
    pid, oldest = min(old, key=lambda reader: reader[1])
    freed = _freed(path / "data.mdb", now, oldest)
    if not freed:
        return None
    return HeldBack(freed, now - oldest, _holder(path, pid, is_mine=oldest in mine))


def _slots(table: str) -> Iterator[tuple[int, int]]:
    """Process and transaction of each slot in use, out of LMDB's table: lines of process, thread and transaction."""
    for line in table.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0].isdigit() and fields[2].isdigit():
            yield int(fields[0]), int(fields[2])


def _holder(path: Path, pid: int, *, is_mine: bool) -> str:
    if pid == os.getpid():
        # LMDB takes a slot with the number of whoever asks for that one's own, and does not clear it
        return "this process" if is_mine else f"a process {pid} that died; this one has its number, and must be closed"
    lines = [openers.describe(one) for one in openers.live(path)]
    named = [line for line in lines if line.startswith(f"process {pid} ")]
    return named[0] if len(named) == 1 else f"process {pid}"


def _freed(data: Path, now: int, since: int) -> int:
    """Bytes of the pages that the free list has of transactions from `since` on, but the last, whose are never used by
    the next one."""
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = _head(descriptor, now)
        if head is None:
            return 0
        return head.page_size * sum(count for number, count in _records(descriptor, head) if since <= number < now)
    except (UnreadableError, NotAStoreError, struct.error):
        return 0  # torn by a commit, or damaged: fsck tells of that
    finally:
        os.close(descriptor)


def _head(descriptor: int, now: int) -> Head | None:
    first = read_head(os.pread(descriptor, HEAD_SIZE, 0))
    second = read_head(os.pread(descriptor, HEAD_SIZE, first.page_size))
    return next((head for head in (first, second) if head.transaction == now), None)


def _records(descriptor: int, head: Head) -> Iterator[tuple[int, int]]:
    """The records of the free list: a transaction, and how many of the pages that it freed are not in use again."""
    size = head.page_size
    waiting = [] if head.free.root == EMPTY else [(head.free.root, 1)]
    while waiting:
        number, depth = waiting.pop()
        page = os.pread(descriptor, size, number * size)
        says, _, flags, lower, _ = PAGE.unpack_from(page)
        if says != number or flags not in (BRANCH, LEAF) or depth > MAX_DEPTH:
            raise UnreadableError(f"page {number} is no part of the free list")
        for (offset,) in struct.iter_unpack("=H", page[PAGE.size : max(PAGE.size, lower - lower % 2)]):
            low, high, kind, key_size = NODE.unpack_from(page, offset)
            if flags == BRANCH:
                waiting.append((low | high << 16 | kind << 32, depth + 1))
                continue
            start = offset + NODE.size
            (count,) = struct.unpack_from("=Q", page, start + key_size)
            if kind & BIG:
                (count,) = struct.unpack("=Q", os.pread(descriptor, 8, count * size + PAGE.size))
            yield int.from_bytes(page[start : start + key_size], "little"), count
