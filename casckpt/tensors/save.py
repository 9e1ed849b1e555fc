"""The save pipeline, in the order in which the bytes travel: live memory, staging pool, id, frame, store.

Training stands still only in `take`, until what changed is in the pool. What is stored is hashed in the memory that it
is written from: the hash of live memory only decides what to copy, since another thread may write to it in between.

A chunk whose probe differs from the last commit's has changed, and is copied at once; any other is hashed first, which
is cheaper than a copy, and copied only if that differs too. So no more is copied than what changed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import xxhash

from casckpt.errors import CorruptObjectError
from casckpt.history.counterpart import Counterparts
from casckpt.history.ingest import Ingest
from casckpt.limits import KIB, MIB
from casckpt.objects.chain import decode_into
from casckpt.objects.codec import encode_in_place
from casckpt.objects.encoding import Base, depth_limit, encode_chunk
from casckpt.objects.frame import head_size
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import NodeRef, StorageNode, chunk_count, stands_inline
from casckpt.objects.scratch import Working, scratch
from casckpt.objects.tree import write_tree
from casckpt.store.format import FORMAT_VERSION
from casckpt.tensors.device import DeviceCopies, can_pin, pinned
from casckpt.tensors.flatten import Flat, Span
from casckpt.tensors.known import Known, Nodes
from casckpt.tensors.staging import Bytes, Piece, Pool
from casckpt.tensors.workers import each, thread_count
from casckpt.tensors.writer import Writer

# Neighbouring chunks that a thread works on at a time, in bytes.
_RUN: Final = 8 * MIB
# A state with less to look at is saved by one thread: to begin another takes as long.
_ALONE: Final = 4 * MIB
# What is looked at of a chunk to see that it has changed: so many bytes from its middle, if it is larger than that by
# far. A dense update changes them; a few changed rows elsewhere do not, and are found by hashing the whole.
_PROBE: Final = 4 * KIB
_PROBED: Final = 64 * KIB
# Where a chunk begins in a piece of the pool: behind room for its frame's head, and at a cache line.
_LEAD: Final = 64


@dataclass(frozen=True, slots=True)
class Saved:
    """What a state became: the id of its root tree, what the next commit is compared with, and its bytes in memory."""

    tree: bytes
    known: Known
    logical: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How a store wants its chunks. chunk_size: bytes. version: of its format, which says what codecs it has."""

    scheme: IdScheme
    chunk_size: int
    codec: str
    version: int = FORMAT_VERSION


class _Part:
    """One span on its way: what is known of its chunks, before and now."""

    __slots__ = ("before", "flat", "ids", "length", "live", "path", "probes", "seen", "words")

    def __init__(self, span: Span, count: int, before: list[bytes], seen: list[int]) -> None:
        self.path = span.path
        self.length = span.length
        self.words = span.words()
        self.before = before
        self.seen = seen
        self.ids = [b""] * count
        self.probes = [0] * count
        # its bytes, where they are; only until they are taken, since they keep the memory of the state
        self.live: Bytes | None = np.frombuffer(span.host(), np.uint8) if span.on_host else None
        self.flat: torch.Tensor | None = None if span.on_host else span.flat()


@dataclass(frozen=True, slots=True)
class _Taken:
    """A chunk in the pool. ready: waits until it is there; None: it is."""

    part: _Part
    index: int
    piece: Piece
    ready: Callable[[], object] | None


class Save:
    """One state on its way into the store, all but its publication: `take`, then `finish`; or `abandon`.

    base: what to compare with; every chunk of it must be held by the store as `ingest` sees it.
    deferred: whether `take` does no more than it must, as far as the pool has room; else everything is done at once.
    limit: bytes of the pool that it makes do with; None: as many as it takes.
    """

    def __init__(
        self,
        ingest: Ingest,
        flat: Flat,
        settings: Settings,
        base: Known,
        pool: Pool,
        *,
        deferred: bool = False,
        limit: int | None = None,
    ) -> None:
        self._ingest = ingest
        self._value = flat.value
        self._spans = flat.spans
        self._settings = settings
        self._digest = settings.scheme.digest
        self._head = head_size(settings.scheme.size)
        self._base = base
        self._counterparts: Counterparts | None = None
        self._pool = pool
        self._deferred = deferred
        self._limit = limit
        self._parts: list[_Part | None] = []
        self._inline: dict[int, bytes] = {}
        self._taken: deque[_Taken] = deque()  # copied, and put off
        self._writer = Writer(ingest, pool, settings.chunk_size)
        self._counting = threading.Lock()
        self.logical = sum(span.length for span in flat.spans)
        self.compared = 0  # bytes of live memory that were hashed
        self.copied = 0  # bytes that went into the pool, to be hashed there
        self.seconds: dict[str, float] = {}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    # -- while training stands still -----------------------------------------------------------------------------------

    def take(self) -> None:
        """Get hold of everything that changed; when this returns, training may change the state.

        Raises:
            StoreFullError, StoreFailedError: where it could not all be put off.
        """
        with self._timed("take"):
            size = self._settings.chunk_size
            host: list[tuple[_Part, int, int]] = []
            device: list[tuple[_Part, int, int]] = []
            for index, span in enumerate(self._spans):
                if stands_inline(span.length, size):
                    self._inline[index] = span.copied()
                    self._parts.append(None)
                    continue
                part = self._part(span)
                self._parts.append(part)
                step = max(1, _RUN // size)
                runs = [(part, at, min(at + step, len(part.ids))) for at in range(0, len(part.ids), step)]
                (host if span.on_host else device).extend(runs)
            self._take_from_devices(device)
            threads = 1 if self.logical < _ALONE else thread_count()
            each(self._take_run, host, threads=threads)
            for taken in self._parts:
                if taken is not None:
                    taken.live = taken.flat = None
            self._spans = []

    def _part(self, span: Span) -> _Part:
        path: str | None = span.path
        if path not in self._base.nodes:
            if self._counterparts is None:
                self._counterparts = Counterparts({path: node.length for path, node in self._base.nodes.items()})
            path = self._counterparts.of(span.path, span.length)
        node = None if path is None else self._base.nodes[path]
        count = chunk_count(span.length, self._settings.chunk_size)
        if path is None or node is None or node.chunk_size != self._settings.chunk_size:
            return _Part(span, count, [], [])
        return _Part(span, count, node.ids(), self._base.probes.get(path, []))

    def _bounds(self, part: _Part, index: int) -> tuple[int, int]:
        start = index * self._settings.chunk_size
        return start, min(start + self._settings.chunk_size, part.length)

    def _take_run(self, run: tuple[_Part, int, int]) -> None:
        try:
            self._take_chunks(*run)
        except BaseException as error:
            self._writer.fail(error)  # an interrupt may have kept the others from being woken, and they are waited for
            raise

    def _take_chunks(self, part: _Part, first: int, last: int) -> None:
        live = part.live
        assert live is not None
        compared = copied = 0
        for index in range(first, last):
            start, end = self._bounds(part, index)
            chunk = live[start:end]
            if index < len(part.before):
                seen = part.seen[index] if index < len(part.seen) else 0
                probe = _probe(chunk)
                if seen == probe or not seen:
                    compared += len(chunk)
                    if self._digest(Kind.CHUNK, chunk.data) == part.before[index]:
                        part.ids[index], part.probes[index] = part.before[index], probe
                        continue
            piece = self._room(len(chunk))
            np.copyto(piece.memory[_LEAD:], chunk)
            copied += len(chunk)
            self._put_off(_Taken(part, index, piece, None))
        self._count(compared, copied)

    def _take_from_devices(self, runs: list[tuple[_Part, int, int]]) -> None:
        """What is not in host memory cannot be looked at there, and is copied whole, in the order of the device."""
        if not runs:
            return
        copies = DeviceCopies()
        try:
            for part, first, last in runs:
                flat = part.flat
                assert flat is not None
                if can_pin(flat.device):
                    self._pool.use(pinned)
                for index in range(first, last):
                    start, end = self._bounds(part, index)
                    piece = self._room(end - start)
                    ready = copies.copy(flat[start:end], piece.memory[_LEAD:])
                    self._put_off(_Taken(part, index, piece, ready))
                self._count(0, self._bounds(part, last - 1)[1] - self._bounds(part, first)[0])
        except BaseException:
            copies.wait()  # the memory that they write to may be freed now
            raise
        copies.let_go_on()

    def _room(self, size: int) -> Piece:
        """Memory for a chunk; where the pool has none left, what was put off is done now, and what is done is waited
        for."""
        while True:
            freed = self._pool.freed
            piece = self._pool.take(_LEAD + size, self._limit)
            if piece is not None:
                return piece
            try:
                self._finish(self._taken.popleft())
            except IndexError:
                self._writer.make_room(freed, lambda: bool(self._taken))

    def _put_off(self, taken: _Taken) -> None:
        if self._deferred:
            self._taken.append(taken)
            if self._writer.is_hurried:
                self._pool.wake()
        else:
            self._finish(taken)

    def _count(self, compared: int, copied: int) -> None:
        with self._counting:
            self.compared += compared
            self.copied += copied

    # -- afterwards, beside training -----------------------------------------------------------------------------------

    def finish(self) -> Saved:
        """Store what was taken.

        Raises:
            StoreFullError, StoreFailedError
        """
        with self._timed("store"):
            left = range(len(self._taken))
            threads = 1 if len(left) * self._settings.chunk_size < _ALONE else thread_count()
            each(lambda _: self._finish(self._taken.popleft()), left, threads=threads)
            self._writer.end()
        with self._timed("trees"):
            nodes: Nodes = {}
            probes: dict[str, list[int]] = {}
            storages: list[bytes | NodeRef] = []
            for index, part in enumerate(self._parts):
                if part is None:
                    storages.append(self._inline[index])
                    continue
                node = nodes[part.path] = StorageNode(part.length, self._settings.chunk_size, b"".join(part.ids))
                probes[part.path] = part.probes
                storages.append(self._ingest.add_node(node))
            tree = write_tree(self._value, storages, self._ingest.add_tree)
        return Saved(tree, Known(nodes, probes), self.logical)

    def _finish(self, taken: _Taken) -> None:
        """One chunk: its id, where the pool has it; its frame, if the store does not have it; and on to the writer."""
        part, index, piece = taken.part, taken.index, taken.piece
        try:
            if taken.ready is not None:
                taken.ready()
            raw = piece.memory[_LEAD:]
            oid = self._digest(Kind.CHUNK, raw.data)
            part.ids[index], part.probes[index] = oid, _probe(raw)
            before = part.before[index] if index < len(part.before) else None
            if oid == before or not self._ingest.claim_chunk(oid):
                piece.release()
                return
            frame = self._encoded(oid, piece.memory[_LEAD - self._head :].data, part, before)
        except BaseException:
            piece.release()
            raise
        self._ingest.add_chunk(oid, frame, len(raw), piece.release)
        self._writer.look()

    def _encoded(self, oid: bytes, buffer: memoryview, part: _Part, before: bytes | None) -> memoryview:
        """The frame of a chunk, in the memory of the pool that it lies in: the pool's limit holds for it too."""
        mode = self._settings.codec
        if self._settings.version == 1:
            return encode_in_place(oid, buffer, mode)
        deepest = depth_limit(mode, part.words)
        if before is None or not deepest:
            return encode_chunk(oid, buffer, part.words, mode)
        with Working():
            base = self._base_of(before, len(buffer) - self._head, deepest)
            return encode_chunk(oid, buffer, part.words, mode, base)

    def _base_of(self, before: bytes, length: int, deepest: int) -> Base | None:
        """A chunk that a delta may be taken to, in this thread's memory, if it is near enough and what its id says."""
        with self._ingest.chain(before, length, deepest - 1) as chain:
            if chain is None:
                return None
            raw = scratch("base", length).data
            try:
                decode_into(self._settings.scheme, chain, raw)
            except CorruptObjectError:  # told by whoever loads or checks it; a delta to it would be lost with it
                return None
            return Base(before, raw, len(chain.links) - 1, chain.head)

    def abandon(self) -> None:
        """Let go of everything; nothing of it will be published. Two threads may do it at once."""
        try:
            self._writer.stop()
        finally:
            with suppress(IndexError):
                while True:
                    taken = self._taken.popleft()
                    if taken.ready is not None:
                        taken.ready()  # until then the device writes to it
                    taken.piece.release()
            self._ingest.drop()


def _probe(chunk: Bytes) -> int:
    """A hash of the bytes in the middle of a chunk; 0 where it is too small for that to be worth anything."""
    if len(chunk) < _PROBED:
        return 0
    middle = (len(chunk) - _PROBE) // 2
    return xxhash.xxh3_64_intdigest(chunk[middle : middle + _PROBE].data) or 1
