"""One save's way into the store: objects in batches, then one transaction that publishes the commit (I1, I3, I4).

A save holds a read transaction from its start to its end. What it relies on without writing it (its base's chunks,
objects that were there already) stays readable in that snapshot, whoever deletes it meanwhile. What it writes is not
referred to before it is published, so that gc may take it: after each batch it takes another snapshot, which shows
that too. If anything was deleted since, publishing checks that every object of the new commit is still there, and
writes again, out of the snapshots, what is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from casckpt.errors import CorruptObjectError, MissingObjectError, NewerFormatError
from casckpt.history.bases import depth_of, put_chunk
from casckpt.history.fetch import SPACE_OF, Objects
from casckpt.history.records import BRANCH, Figures, gc_epoch, get_mark, move_ref, put_figures
from casckpt.limits import KIB, PUBLISHED_WITH, SAVE_BATCH
from casckpt.objects.codec import encode
from casckpt.objects.commit import CommitObject, pack_commit, unpack_commit
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import NodeRef, StorageNode, pack_node
from casckpt.store.protocol import Reader, Store, Writer

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from casckpt.objects.chain import Chain


# Bytes of the records of a delta's base, keys and all, in a page that is not full.
_RECORDS: Final = 512


@dataclass(frozen=True, slots=True)
class Base:
    """The commit that a save is compared with: its root tree, and the parts of it that were released."""

    tree: bytes
    released: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """An object on its way into the store. written: called when its frame is not needed any more."""

    kind: Kind
    oid: bytes
    frame: Buffer
    size: int
    written: Callable[[], object] | None


class Ingest:
    """The objects of one commit on their way into the store; ends by `close()`.

    Chunks may be claimed and added by several threads, and flushed by another; all else is for one thread at a time.
    """

    def __init__(self, store: Store, scheme: IdScheme) -> None:
        self._store = store
        self._scheme = scheme
        self._lock = threading.Lock()
        # Each shows what the one before it shows and more, but for what was deleted between them.
        self._snapshots = [store.read()]
        self._watched: dict[Reader, set[object]] = {}  # by whom, whose views would end with them
        self.objects = Objects(self._snapshots[0], scheme)
        self._epoch = gc_epoch(self._snapshots[0])
        self._waiting: list[_Entry] = []
        self.waiting_bytes = 0
        """Bytes of frames that `flush` will write."""
        self._mine: set[bytes] = set()  # ids written, or waiting to be, by this save
        self._nodes: dict[bytes, StorageNode] = {}  # every node of the new commit, and so every chunk of it
        self._trees: dict[bytes, bytes | None] = {}  # every tree of it; with its frame where it is new
        self._new_bytes = 0
        self.stored_bytes = 0  # of the frames of chunks that it adds
        self._new_chunks = 0
        self.published: bytes | None = None  # the commit that was, or may have been, published

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the snapshots. Twice is once."""
        for snapshot in (*self._snapshots, *self._watched):
            snapshot.close()

    def hand_over(self) -> None:
        """Say that another thread goes on with it."""
        with self._lock:  # not while `_secure` counts on the newest being its thread's
            for snapshot in self._snapshots:
                snapshot.hand_over()

    def base(self, commit: bytes | None) -> Base | None:
        """What of a commit this save may build on: nothing unless the snapshot shows it published and not pruned."""
        snapshot = self._snapshots[0]
        if commit is None or not snapshot.has(SPACE_OF[Kind.COMMIT], commit):
            return None
        mark = get_mark(snapshot, commit)
        return None if mark.pruned else Base(self.objects.commit(commit).tree, mark.released)

    def claim_chunk(self, oid: bytes) -> bool:
        """Whether the caller has to add this chunk: neither has the store got it, nor does another add it."""
        with self._lock:
            if oid in self._mine or any(snapshot.has(SPACE_OF[Kind.CHUNK], oid) for snapshot in self._snapshots):
                return False
            self._mine.add(oid)
            return True

    @contextmanager
    def chain(self, oid: bytes, length: int, deepest: int) -> Iterator[Chain | None]:
        """The frames of a chunk that the base holds, for as long as the block lasts.

        None where a delta to it cannot be taken: it has another length, lies over more than `deepest` deltas, or cannot
        be read. Then a commit does without: what is damaged there is told by whoever loads or checks it.
        """
        watcher = object()
        try:
            with self._lock:
                snapshot = self._snapshots[0]
                self._watched.setdefault(snapshot, set()).add(watcher)
                try:
                    is_near = depth_of(snapshot, oid) <= deepest
                    chain = Objects(snapshot, self._scheme).chain(oid, length) if is_near else None
                except (CorruptObjectError, MissingObjectError, NewerFormatError):
                    chain = None
            yield chain
        finally:
            with self._lock:
                for snapshot, watchers in list(self._watched.items()):
                    watchers.discard(watcher)
                    if not watchers:
                        if snapshot not in self._snapshots:
                            snapshot.close()
                        del self._watched[snapshot]

    def add_chunk(
        self, oid: bytes, frame: Buffer, raw_length: int, written: Callable[[], object] | None = None
    ) -> None:
        """Take the frame of a chunk that was claimed; it must stay as it is until it is written.

        written: called when it is, and the memory is free.
        """
        with self._lock:
            self._new_chunks += 1
            self._new_bytes += raw_length
            self.stored_bytes += memoryview(frame).nbytes
            self._take(Kind.CHUNK, oid, frame, written)

    def add_node(self, node: StorageNode) -> NodeRef:
        """Take a storage node whose chunks are all held; returns what a tensor record refers to it by."""
        raw = pack_node(node)
        oid = self._scheme.digest(Kind.NODE, raw)
        if oid not in self._nodes:
            self._nodes[oid] = node
            if not self._snapshots[-1].has(SPACE_OF[Kind.NODE], oid):
                self._take(Kind.NODE, oid, encode(Kind.NODE, oid, raw))
        return NodeRef(oid, node.length)

    def add_tree(self, raw: bytes) -> bytes:
        """Take the canonical bytes of a tree object, written when the commit is published; returns its id."""
        oid = self._scheme.digest(Kind.TREE, raw)
        if oid not in self._trees:
            known = self._snapshots[-1].has(SPACE_OF[Kind.TREE], oid)
            self._trees[oid] = None if known else encode(Kind.TREE, oid, raw)
        return oid

    def _take(self, kind: Kind, oid: bytes, frame: Buffer, written: Callable[[], object] | None = None) -> None:
        entry = _entry(kind, oid, frame, written)
        self._waiting.append(entry)
        self.waiting_bytes += entry.size

    def flush(self) -> None:
        """Write what is waiting, in transactions of about SAVE_BATCH bytes. One thread at a time.

        Raises:
            StoreFullError, StoreFailedError
        """
        while batch := self._batch(SAVE_BATCH):
            try:
                lost = batch
                while lost:
                    with self._store.write(durable=False, room=_room(lost)) as writer:
                        self._put(writer, lost)
                    lost = self._secure(batch)
            finally:
                _free(batch)

    def drop(self) -> None:
        """Forget what is waiting."""
        _free(self._batch(None))

    def _batch(self, limit: int | None) -> list[_Entry]:
        """What is written next, taken from what is waiting: about `limit` bytes; None: all."""
        with self._lock:
            size = count = 0
            for entry in self._waiting:
                if count and limit is not None and size + entry.size > limit:
                    break
                size += entry.size
                count += 1
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            self.waiting_bytes -= size
            return batch

    def _secure(self, written: list[_Entry]) -> list[_Entry]:
        """Have a snapshot that shows what was written; returns what is gone already, because gc was faster."""
        with self._lock:
            newest = self._snapshots[-1]
            epoch = gc_epoch(newest)  # used here, it counts as this thread's, whose reads go on while a compact waits
            now = self._store.read()
            if gc_epoch(now) != epoch:
                self._snapshots.append(now)
                return [entry for entry in written if not now.has(SPACE_OF[entry.kind], entry.oid)]
            self._snapshots[-1] = now
            if self.objects.reader is newest:
                self.objects.reader = now
            if newest not in self._watched:
                newest.close()
            return []

    def figures(self, logical: int) -> Figures:
        """What the commit holds and what this save added, as far as it has come."""
        chunks = sum(len(node.chunks) for node in self._nodes.values()) // self._scheme.size
        return Figures(logical, self._new_bytes, self.stored_bytes, chunks, self._new_chunks)

    def publish(self, commit: CommitObject, *, expected: bytes | None, logical: int) -> tuple[bytes, Figures]:
        """Trees, commit, ref, reflog and figures in one transaction; when it returns they are durable.

        expected: what the branch must point to. logical: bytes of the whole state. Returns the commit's id.

        Raises:
            RefMovedError: the branch is elsewhere; what was flushed stays in the store for the next try.
            StoreFullError, StoreFailedError
        """
        raw = pack_commit(commit)
        oid = self._scheme.digest(Kind.COMMIT, raw)
        unpack_commit(raw, self._scheme.size)  # what could not be read back must not be published
        frame = encode(Kind.COMMIT, oid, raw)
        if self.waiting_bytes > PUBLISHED_WITH:
            self.flush()
        self._look_again()
        last = self._batch(None)
        room = _room(last) + len(frame) + 16 * KIB
        room += sum(len(tree) for tree in self._trees.values() if tree is not None)
        try:
            with self._store.write(durable=True, room=room) as writer:
                self._put(writer, last)
                if gc_epoch(writer) != self._epoch:
                    self._put(writer, [_entry(*missing) for missing in self._missing(writer)])
                self.published = oid
                for tree, tree_frame in self._trees.items():
                    if tree_frame is not None:
                        writer.put(SPACE_OF[Kind.TREE], tree, tree_frame, overwrite=False)
                writer.put(SPACE_OF[Kind.COMMIT], oid, frame)
                figures = self.figures(logical)
                put_figures(writer, oid, figures)
                ref = BRANCH + commit.branch
                move_ref(writer, ref, expected=expected, new=oid, action="commit", revive=False)
        finally:
            _free(last)
        return oid, figures

    def _look_again(self) -> None:
        """Where something was deleted since the last look, find and write what is missing without the writer lock held
        for the search, so that the publishing transaction has little left to do."""
        gc_epoch(self._snapshots[-1])  # from here on this thread's, as in `_secure`
        with self._store.read() as now:
            if gc_epoch(now) == self._epoch:
                return
        self.flush()  # what is waiting is not missing
        with self._store.read() as now:
            epoch = gc_epoch(now)
            for kind, oid, frame in self._missing(now):
                self._take(kind, oid, bytes(frame))  # a view would end with a snapshot that `flush` may give up
                if self.waiting_bytes >= SAVE_BATCH:
                    self.flush()
        self.flush()
        self._epoch = epoch

    def _missing(self, now: Reader | Writer) -> Iterator[tuple[Kind, bytes, Buffer]]:
        """What the new commit needs and `now` does not show, each with the frame to write again."""
        for oid, node in self._nodes.items():
            if not now.has(SPACE_OF[Kind.NODE], oid):
                yield Kind.NODE, oid, encode(Kind.NODE, oid, pack_node(node))
            for chunk in node.ids():
                if not now.has(SPACE_OF[Kind.CHUNK], chunk):
                    yield Kind.CHUNK, chunk, self._from_snapshot(Kind.CHUNK, chunk)
        for oid, frame in self._trees.items():
            if frame is None and not now.has(SPACE_OF[Kind.TREE], oid):
                yield Kind.TREE, oid, self._from_snapshot(Kind.TREE, oid)

    def _put(self, writer: Writer, entries: list[_Entry]) -> None:
        for entry in entries:
            if entry.kind is Kind.CHUNK:
                put_chunk(writer, entry.oid, entry.frame, partial(self._alone, entry.oid, entry.frame))
            else:
                writer.put(SPACE_OF[entry.kind], entry.oid, entry.frame, overwrite=False)

    def _alone(self, oid: bytes, frame: Buffer) -> bytes:
        """A delta as a frame that stands by itself: what it is based on was released, and collected, meanwhile."""
        from casckpt.objects.chain import Chain, read_link, verified

        link = read_link(oid, memoryview(frame))
        base = link.head.base
        assert base is not None
        with self._lock:
            # All of its base out of one snapshot: another may have that as a delta of this very chunk.
            found = next((one for one in reversed(self._snapshots) if one.has(SPACE_OF[Kind.CHUNK], base)), None)
            root = Objects(found or self._snapshots[0], self._scheme).chunk(base, link.head.raw_length)
            return encode(Kind.CHUNK, oid, verified(self._scheme, Chain((link,), root)), "none")

    def _from_snapshot(self, kind: Kind, oid: bytes) -> memoryview:
        for snapshot in reversed(self._snapshots):
            frame = snapshot.get(SPACE_OF[kind], oid)
            if frame is not None:
                return frame
        raise MissingObjectError(
            f"{kind.name.lower()} {oid.hex()} vanished while a commit was made that relies on it",
            remedy="check the store with `casckpt fsck`, then commit again",
        )


def _room(entries: list[_Entry]) -> int:
    """Bytes that they take at most: frames, and what is kept in records beside them."""
    return sum(entry.size + _RECORDS for entry in entries)


def _entry(kind: Kind, oid: bytes, frame: Buffer, written: Callable[[], object] | None = None) -> _Entry:
    return _Entry(kind, oid, frame, memoryview(frame).nbytes, written)


def _free(entries: list[_Entry]) -> None:
    for entry in entries:
        if entry.written is not None:
            entry.written()
