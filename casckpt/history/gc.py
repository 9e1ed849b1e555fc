"""Deleting what is not live, while others write (I2). It must never delete anything that a kept commit needs.

Unreachable commits are marked as pruned first, so that no ref can move to one any more. The rest is found by one walk
over a snapshot, and deleted in short transactions. Each of those first walks whatever was published since, and moves
`gc_epoch`, by which a save in flight learns that it must look again whether all that it relies on is still there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from casckpt.history.fetch import Objects
from casckpt.history.records import Mark, add_mark, get_mark, move_gc_epoch, reflog_next
from casckpt.history.walk import Live, reach, reach_commits, roots
from casckpt.limits import GC_LOCK_HELD, GC_REST, WRITE_BATCH
from casckpt.objects.ids import IdScheme
from casckpt.store.protocol import Progress, Reader, Space, Store, no_progress

# Commits last: as long as a dead commit is there, its mark is there.
_OBJECTS = (Space.CHUNK, Space.NODE, Space.TREE, Space.COMMIT)
_SWEPT = (Space.CHUNK, Space.NODE, Space.TREE, Space.FIGURES, Space.COMMIT, Space.MARK)
# How many entries are deleted between two looks at the clock.
_STRIDE = 16
# The most entries that are looked at before a deleting transaction.
_BATCH = 16384


@dataclass(frozen=True, slots=True)
class GcReport:
    """What gc deleted, or with `dry_run` would delete. `bytes`: of stored frames."""

    dry_run: bool
    commits: int
    trees: int
    nodes: int
    chunks: int
    bytes: int
    live_chunks: int
    seconds: float


def collect(store: Store, scheme: IdScheme, *, dry_run: bool = False, progress: Progress = no_progress) -> GcReport:
    """Delete every object that is not live.

    Raises:
        StoreBusyError: gc, repack or compact is under way elsewhere.
        MissingObjectError, CorruptObjectError: something live cannot be read; nothing live was deleted.
    """
    began = time.monotonic()
    with store.maintenance():
        if not dry_run:
            _mark_unreachable(store, scheme)
        live = Live()
        progress("looking for what is live", 0, 0)
        with store.read() as snapshot:
            seen = reflog_next(snapshot)
            objects = Objects(snapshot, scheme)
            reach(objects, roots(snapshot), live)
            if not dry_run:
                # a reflog may have been expired since the marking: what it kept alive waits for the next gc
                unreachable = _unreachable(snapshot, live, scheme.size)
                reach(objects, [oid for oid in unreachable if not get_mark(snapshot, oid).pruned], live)
            size = scheme.size
            dead = {space: _dead_keys(snapshot, space, live, size) for space in _SWEPT}
            freed = _stored_bytes(snapshot, dead, size) if dry_run else 0
        counts = {space: len(keys) // size for space, keys in dead.items()}
        if not dry_run:
            freed = _Sweep(store, scheme, live, seen, sum(counts.values()), progress).run(dead)
    return GcReport(
        dry_run=dry_run,
        commits=counts[Space.COMMIT],
        trees=counts[Space.TREE],
        nodes=counts[Space.NODE],
        chunks=counts[Space.CHUNK],
        bytes=freed,
        live_chunks=len(live.chunks),
        seconds=time.monotonic() - began,
    )


def _mark_unreachable(store: Store, scheme: IdScheme) -> None:
    """Mark commits that nothing leads to as pruned, so that no ref can move to one while it is being deleted."""
    live = Live()
    with store.read() as snapshot:
        seen = reflog_next(snapshot)
        reach_commits(Objects(snapshot, scheme), roots(snapshot), live)
        unreachable = _unreachable(snapshot, live, scheme.size)
    if not unreachable:
        return
    with store.write(durable=False, room=None) as writer:
        # a ref may have moved to one of them since: whatever the reflog gained is walked before the mark is set
        reach_commits(Objects(writer, scheme), roots(writer, since=seen), live)
        for oid in unreachable:
            if oid not in live.commits:
                add_mark(writer, oid, Mark(True, ()))


def _unreachable(reader: Reader, live: Live, size: int) -> list[bytes]:
    return [oid for oid in reader.keys(Space.COMMIT) if len(oid) == size and oid not in live.commits]


def _dead_keys(reader: Reader, space: Space, live: Live, size: int) -> bytes:
    """Keys of a space that are not live, one behind the other: a million take 16 MB, where a list would take 80.

    A key that is no id was put there by nobody of ours, and stays; fsck tells of it.
    """
    return b"".join([key for key in reader.keys(space) if len(key) == size and not live.holds(space, key)])


def _split(keys: bytes, size: int) -> Iterator[bytes]:
    return (keys[at : at + size] for at in range(0, len(keys), size))


def _stored_bytes(reader: Reader, dead: dict[Space, bytes], size: int) -> int:
    total = 0
    for space in _OBJECTS:
        for key in _split(dead[space], size):
            total += reader.size(space, key) or 0
    return total


class _Sweep:
    """The deleting transactions of one gc."""

    def __init__(self, store: Store, scheme: IdScheme, live: Live, seen: int, total: int, progress: Progress) -> None:
        self._store = store
        self._scheme = scheme
        self._live = live
        self._seen = seen
        self._total = total
        self._done = 0
        self._progress = progress

    def run(self, dead: dict[Space, bytes]) -> int:
        """Delete what is still not live; returns the bytes of the frames deleted."""
        freed = 0
        pending = ((space, key) for space, keys in dead.items() for key in _split(keys, self._scheme.size))
        batch: deque[tuple[Space, bytes, int]] = deque()
        quota = (
            _STRIDE  # the first transactions are small: on a full disk they free the pages that larger ones copy into
        )
        while self._fill(pending, batch):
            with self._store.write(durable=False, room=None) as writer:
                self._catch_up(writer)
                move_gc_epoch(writer)
                stop = time.monotonic() + GC_LOCK_HELD
                for number in range(1, quota + 1):
                    if not batch:
                        break
                    space, key, size = batch.popleft()
                    if not self._live.holds(space, key) and writer.delete(space, key) and space in _OBJECTS:
                        freed += size
                    self._done += 1
                    if number % _STRIDE == 0 and time.monotonic() > stop:
                        break
                quota *= 4
            self._progress("deleting what is not", self._done, self._total)
            time.sleep(GC_REST)
        if self._total:
            with self._store.write(durable=True, room=None) as writer:
                move_gc_epoch(writer)
        return freed

    def _fill(self, pending: Iterator[tuple[Space, bytes]], batch: deque[tuple[Space, bytes, int]]) -> bool:
        """Look at the next victims before the writer lock is taken; False once there are none.

        Deleting a value touches it, and finding its length reads it: from a cold disk both would take far longer than
        the lock may be held.
        """
        size = sum(length for _, _, length in batch)
        with self._store.read() as reader:
            self._catch_up(reader)
            while len(batch) < _BATCH and size < WRITE_BATCH:
                space, key = next(pending, (None, b""))
                if space is None:
                    break
                length = reader.size(space, key) or 0
                batch.append((space, key, length))
                size += length
        return bool(batch)

    def _catch_up(self, reader: Reader) -> None:
        """Walk what was published since the last look."""
        now = reflog_next(reader)
        if now != self._seen:
            reach(Objects(reader, self._scheme), roots(reader, since=self._seen), self._live)
            self._seen = now
