"""Who still reads an old snapshot: pages that were freed since it was taken cannot be used again before it ends.

A read transaction lasts no longer than one save or load. But a process can be stopped in one, or hang on a dead disk;
then the file grows by all that is written. Nothing may be taken from a process that is alive, so it is told. What the
dead left is cleared away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from casckpt.errors import NotAStoreError
from casckpt.store import openers
from casckpt.store.datafile import free_records
from casckpt.store.layout import UnreadableError
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
    try:
        page_size, records = free_records(data, now)
    except (UnreadableError, NotAStoreError, OSError):
        return 0  # torn by a commit, or damaged: fsck tells of that
    return page_size * sum(count for number, count in records if since <= number < now)
