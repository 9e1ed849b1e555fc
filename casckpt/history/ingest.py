"""One save's way into the store: objects in batches, then one transaction that publishes the commit (I1, I3, I4).

A save holds one read transaction from its start to its end. What it relies on without writing it (its base's chunks,
objects that were there already) stays readable in that snapshot, whoever deletes it meanwhile. If anything was deleted
since, publishing checks that every object of the new commit is still there, and writes again what is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casckpt.errors import CasckptError
from casckpt.history.fetch import SPACE_OF, Objects
from casckpt.history.records import BRANCH, Figures, gc_epoch, get_mark, move_ref, put_figures
from casckpt.limits import KIB, WRITE_BATCH
from casckpt.objects.codec import encode
from casckpt.objects.commit import CommitObject, pack_commit, unpack_commit
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import NodeRef, StorageNode, pack_node
from casckpt.store.protocol import Reader, Store, Writer

if TYPE_CHECKING:
    from typing_extensions import Buffer


class EvictedError(CasckptError):
    """Objects that this save itself wrote were collected before it could publish them: it must start again.

    gc takes what nothing refers to, and until a save is published nothing refers to what it wrote. Never reaches users:
    the save is repeated with gc held off.
    """

    kind = "evicted"


@dataclass(frozen=True, slots=True)
class Base:
    """The commit that a save is compared with: its root tree, and the parts of it that were released."""

    tree: bytes
    released: tuple[str, ...]


class Ingest:
    """The objects of one commit on their way into the store. Used by one thread at a time; ends by `close()`."""

    def __init__(self, store: Store, scheme: IdScheme, codec: str) -> None:
        self._store = store
        self._scheme = scheme
        self._codec = codec
        self._snapshot = store.read()
        self.objects = Objects(self._snapshot, scheme)
        self._epoch = gc_epoch(self._snapshot)
        self._waiting: list[tuple[Kind, bytes, Buffer]] = []
        self.waiting_bytes = 0  # of frames that `flush` will write
        self._mine: set[bytes] = set()  # ids written, or waiting to be, by this save
        self._nodes: dict[bytes, StorageNode] = {}  # every node of the new commit, and so every chunk of it
        self._trees: dict[bytes, bytes | None] = {}  # every tree of it; with its frame where it is new
        self._new_bytes = 0
        self._stored_bytes = 0
        self._new_chunks = 0
        self.published: bytes | None = None  # the commit that was, or may have been, published

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *error: object) -> None:
        self._snapshot.close()

    def base(self, commit: bytes | None) -> Base | None:
        """What of a commit this save may build on: nothing unless the snapshot shows it published and not pruned."""
        if commit is None or not self._snapshot.has(SPACE_OF[Kind.COMMIT], commit):
            return None
        if get_mark(self._snapshot, commit).pruned:
            return None
        return Base(self.objects.commit(commit).tree, get_mark(self._snapshot, commit).released)

    def holds_chunk(self, oid: bytes) -> bool:
        """Whether the store has this chunk already, or will have it by this save."""
        return oid in self._mine or self._snapshot.has(SPACE_OF[Kind.CHUNK], oid)

    def add_chunk(self, oid: bytes, frame: Buffer, raw_length: int) -> None:
        """Take a new chunk's frame; it must stay as it is until `flush`."""
        self._mine.add(oid)
        self._new_chunks += 1
        self._new_bytes += raw_length
        self._stored_bytes += memoryview(frame).nbytes
        self._take(Kind.CHUNK, oid, frame)

    def add_node(self, node: StorageNode) -> NodeRef:
        """Take a storage node whose chunks are all held; returns what a tensor record refers to it by."""
        raw = pack_node(node)
        oid = self._scheme.digest(Kind.NODE, raw)
        if oid not in self._nodes:
            self._nodes[oid] = node
            if not self._snapshot.has(SPACE_OF[Kind.NODE], oid):
                self._mine.add(oid)
                self._take(Kind.NODE, oid, encode(Kind.NODE, oid, raw))
        return NodeRef(oid, node.length)

    def add_tree(self, raw: bytes) -> bytes:
        """Take the canonical bytes of a tree object, written when the commit is published; returns its id."""
        oid = self._scheme.digest(Kind.TREE, raw)
        if oid not in self._trees:
            known = self._snapshot.has(SPACE_OF[Kind.TREE], oid)
            self._trees[oid] = None if known else encode(Kind.TREE, oid, raw)
        return oid

    def _take(self, kind: Kind, oid: bytes, frame: Buffer) -> None:
        self._waiting.append((kind, oid, frame))
        self.waiting_bytes += memoryview(frame).nbytes

    def flush(self) -> None:
        """Write what is waiting, in one transaction. Afterwards the buffers that were handed in are free again.

        Raises:
            StoreFullError, StoreFailedError
        """
        if not self._waiting:
            return
        with self._store.write(durable=False, room=self.waiting_bytes) as writer:
            for kind, oid, frame in self._waiting:
                writer.put(SPACE_OF[kind], oid, frame, overwrite=False)
        self._waiting.clear()
        self.waiting_bytes = 0

    def figures(self, logical: int) -> Figures:
        """What the commit holds and what this save added, as far as it has come."""
        chunks = sum(len(node.chunks) for node in self._nodes.values()) // self._scheme.size
        return Figures(logical, self._new_bytes, self._stored_bytes, chunks, self._new_chunks)

    def publish(self, commit: CommitObject, *, expected: bytes | None, logical: int) -> tuple[bytes, Figures]:
        """Trees, commit, ref, reflog and figures in one transaction; when it returns they are durable.

        expected: what the branch must point to. logical: bytes of the whole state. Returns the commit's id.

        Raises:
            RefMovedError: the branch is elsewhere; the chunks stay in the store for the next try.
            StoreFullError, StoreFailedError
            EvictedError
        """
        self.flush()
        raw = pack_commit(commit)
        oid = self._scheme.digest(Kind.COMMIT, raw)
        unpack_commit(raw, self._scheme.size)  # what could not be read back must not be published
        frame = encode(Kind.COMMIT, oid, raw)
        self._look_again()
        room = len(frame) + sum(len(tree) for tree in self._trees.values() if tree is not None) + 16 * KIB
        with self._store.write(durable=True, room=room) as writer:
            if gc_epoch(writer) != self._epoch:
                for kind, missing, again in self._missing(writer):
                    writer.put(SPACE_OF[kind], missing, again)
            self.published = oid
            for tree, tree_frame in self._trees.items():
                if tree_frame is not None:
                    writer.put(SPACE_OF[Kind.TREE], tree, tree_frame, overwrite=False)
            writer.put(SPACE_OF[Kind.COMMIT], oid, frame)
            figures = self.figures(logical)
            put_figures(writer, oid, figures)
            ref = BRANCH + commit.branch
            move_ref(writer, ref, expected=expected, new=oid, action="commit", revive=False)
        return oid, figures

    def _look_again(self) -> None:
        """Where something was deleted since the last look, find and write what is missing without the writer lock held
        for the search, so that the publishing transaction has little left to do."""
        with self._store.read() as now:
            epoch = gc_epoch(now)
            if epoch == self._epoch:
                return
            for kind, oid, frame in self._missing(now):
                self._take(kind, oid, frame)
                if self.waiting_bytes >= WRITE_BATCH:
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

    def _from_snapshot(self, kind: Kind, oid: bytes) -> memoryview:
        frame = self._snapshot.get(SPACE_OF[kind], oid)
        if frame is None:
            raise EvictedError(f"{kind.name.lower()} {oid.hex()} was collected before it was published")
        return frame
