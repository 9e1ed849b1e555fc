"""Deleting what is not live, while others write (I2). It must never delete anything that a kept commit needs.

Unreachable commits are marked as pruned first, so that no ref can move to one any more. The rest is found by one walk
over a snapshot, and deleted in short transactions. Each of those first walks whatever was published since, and moves
`gc_epoch`, by which a save in flight learns that it must look again whether all that it relies on is still there.

A chunk that others are deltas of stays while they do (`bases`). So what is dead goes in rounds, deltas before their
bases. What is live and a delta of something dead is re-encoded, over something live or by itself; then the dead goes
too. First what can go goes, so that there is room. Where a live chunk cannot be re-encoded, or a save in flight has
just put a delta of something dead, that stays for the next gc.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casckpt.errors import StoreFullError
from casckpt.history.bases import all_bases, base_of, delete_chunk, dependants
from casckpt.history.fetch import Objects
from casckpt.history.records import Mark, add_mark, get_mark, move_gc_epoch, reflog_next
from casckpt.history.walk import Live, reach, reach_commits, roots
from casckpt.limits import DEPTHS, GC_LOCK_HELD, GC_REST, WRITE_BATCH
from casckpt.objects.ids import IdScheme
from casckpt.store.protocol import HeldBack, Progress, Reader, Space, Store, Writer, no_progress

if TYPE_CHECKING:
    from casckpt.history.lineage import Placed
    from casckpt.history.recode import Coded, Recoded

# Commits last: as long as a dead commit is there, its mark is there.
_OBJECTS = (Space.CHUNK, Space.NODE, Space.TREE, Space.COMMIT)
_SWEPT = (Space.CHUNK, Space.NODE, Space.TREE, Space.FIGURES, Space.COMMIT, Space.MARK)
# How many entries are deleted between two looks at the clock.
_STRIDE = 16
# The most entries that are looked at before a deleting transaction.
_BATCH = 16384


@dataclass(frozen=True, slots=True)
class GcReport:
    """What gc did, or with `dry_run` would do.

    commits, trees, nodes, chunks: deleted; bytes: of their frames. reencoded_chunks: live ones that were stored as
    deltas of dead ones; reencoded_before, reencoded_after: bytes of their frames. kept_bases: dead chunks that stay,
    because something is stored as a delta of them that could not be re-encoded: it is damaged, there was no room, or a
    save has just put it. held: what of the free pages of the file cannot be used again yet, and why.
    """

    dry_run: bool
    commits: int
    trees: int
    nodes: int
    chunks: int
    bytes: int
    live_chunks: int
    seconds: float
    reencoded_chunks: int = 0
    reencoded_before: int = 0
    reencoded_after: int = 0
    kept_bases: int = 0
    held: HeldBack | None = None

    @property
    def freed(self) -> int:
        """Bytes of frames that the store holds less than before."""
        return self.bytes + self.reencoded_before - self.reencoded_after


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
            stranded = _stranded(objects, live, progress)
        counts = {space: len(keys) // size for space, keys in dead.items()}
        sweep = _Sweep(store, scheme, live, seen, sum(counts.values()), progress)
        left = b"" if dry_run else sweep.run(dead)
        recoded = _reencode(store, scheme, live, stranded, dry_run, progress)
        if dry_run:
            kept, kept_bytes = _kept(store, live, recoded)
            freed -= kept_bytes
        else:
            left = sweep.run({Space.CHUNK: left})
            kept = len(left) // size
            sweep.finish()
            freed = sweep.freed
        held = store.held_back()
    return GcReport(
        dry_run=dry_run,
        commits=counts[Space.COMMIT],
        trees=counts[Space.TREE],
        nodes=counts[Space.NODE],
        chunks=counts[Space.CHUNK] - kept,
        bytes=freed,
        live_chunks=len(live.chunks),
        seconds=time.monotonic() - began,
        reencoded_chunks=0 if recoded is None else recoded.chunks,
        reencoded_before=0 if recoded is None else recoded.before,
        reencoded_after=0 if recoded is None else recoded.after,
        kept_bases=kept,
        held=held,
    )


def _stranded(objects: Objects, live: Live, progress: Progress) -> list[Placed]:
    """Live chunks that are stored as deltas of dead ones, each with what stood at its place before.

    One pass over the records of bases: no frame is looked at.
    """
    found = {oid for oid, base in all_bases(objects.reader) if oid in live.chunks and base not in live.chunks}
    if not found:
        return []
    from casckpt.history.lineage import Lineage  # what few need is not imported by all

    progress("looking for what to re-encode", 0, 0)
    lineage = Lineage(objects)
    order = lineage.ancestors_first(live.commits)
    # Mostly all are in these; the others are looked at only if need be.
    placed = list(lineage.placed([oid for oid in order if lineage.follows_released(oid)], found))
    found.difference_update([one.id for one in placed])
    return placed + list(lineage.placed(order, found))


def _reencode(
    store: Store, scheme: IdScheme, live: Live, stranded: list[Placed], dry_run: bool, progress: Progress
) -> Recoded | None:
    if not stranded:
        return None
    from casckpt.history.recode import Recoder

    # Whoever stored a delta wanted it small, whatever the store's mode is.
    mode = store.format.codec if DEPTHS[store.format.codec] else "auto"
    recoder = Recoder(store, scheme, mode, _always, dry_run=dry_run, progress=progress, among=live.chunks)
    try:
        return recoder.run(stranded)
    except StoreFullError:  # gc works on a full disk, and cures it: what is left is for the next one
        return recoder.result


def _always(task: Placed, old: Coded, new: Coded) -> bool:
    return True


def _kept(store: Store, live: Live, recoded: Recoded | None) -> tuple[int, int]:
    """The dead chunks that live ones are left over which cannot be re-encoded: how many, and the bytes of their
    frames."""
    kept: set[bytes] = set()
    total = 0
    with store.read() as reader:
        for oid in () if recoded is None else recoded.failed:
            base = base_of(reader, oid)
            while base is not None and base not in kept:
                if base not in live.chunks:
                    kept.add(base)
                    total += reader.size(Space.CHUNK, base) or 0
                base = base_of(reader, base)
    return len(kept), total


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
        self.freed = 0  # bytes of the frames that were deleted

    def run(self, dead: dict[Space, bytes]) -> bytes:
        """Delete what is still not live; returns the chunks that are left because others are deltas of them."""
        pending = ((space, key) for space, keys in dead.items() for key in _split(keys, self._scheme.size))
        left = self._round(pending)
        while left:
            before = len(left)
            left = self._round((Space.CHUNK, key) for key in _split(left, self._scheme.size))
            if len(left) == before:
                break
        return left

    def finish(self) -> None:
        """See what was deleted onto the disk."""
        if self._total:
            with self._store.write(durable=True, room=None) as writer:
                move_gc_epoch(writer)

    def _round(self, pending: Iterator[tuple[Space, bytes]]) -> bytes:
        """One attempt at each; returns the chunks that others are deltas of."""
        left = bytearray()
        batch: deque[tuple[Space, bytes, int]] = deque()
        # the first transactions are small: on a full disk they free the pages that larger ones copy into
        quota = _STRIDE
        while self._fill(pending, batch, left):
            with self._store.write(durable=False, room=None) as writer:
                self._catch_up(writer)
                move_gc_epoch(writer)
                stop = time.monotonic() + GC_LOCK_HELD
                for number in range(1, quota + 1):
                    if not batch:
                        break
                    space, key, size = batch.popleft()
                    self._delete(writer, space, key, size, left)
                    if number % _STRIDE == 0 and time.monotonic() > stop:
                        break
                quota *= 4
            self._progress("deleting what is not", self._done, self._total)
            time.sleep(GC_REST)
        return bytes(left)

    def _delete(self, writer: Writer, space: Space, key: bytes, size: int, left: bytearray) -> None:
        if self._live.holds(space, key):
            gone = False
        elif space is Space.CHUNK:
            gone = delete_chunk(writer, key)
            if not gone:
                left += key
                return
        else:
            gone = writer.delete(space, key) and space in _OBJECTS
        self.freed += size if gone else 0
        self._done += 1

    def _fill(
        self, pending: Iterator[tuple[Space, bytes]], batch: deque[tuple[Space, bytes, int]], left: bytearray
    ) -> bool:
        """Look at the next victims before the writer lock is taken; False once there are none.

        Deleting a value touches it, and finding its length reads it: from a cold disk both would take far longer than
        the lock may be held. A chunk that others are deltas of is left without a look.
        """
        size = sum(length for _, _, length in batch)
        with self._store.read() as reader:
            self._catch_up(reader)
            while len(batch) < _BATCH and size < WRITE_BATCH:
                space, key = next(pending, (None, b""))
                if space is None:
                    break
                if space is Space.CHUNK and next(dependants(reader, key), None) is not None:
                    left += key
                    continue
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
