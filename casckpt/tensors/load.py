"""The load pipeline, in the order in which bytes travel: the root, the nodes, memory, chunks cut into runs, and each
chunk looked up, put where it belongs and checked there. All of it in one read transaction (I5).

It gives exact bytes or raises; it never fills in. When it raises, no thread of it writes any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from casckpt.errors import CorruptObjectError, ReleasedPartError
from casckpt.history.fetch import Objects
from casckpt.limits import MAX_CHAIN, MIB
from casckpt.objects.chain import Chain, decode_into, read_chain, verified
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode, chunk_count
from casckpt.objects.paths import Globs, child, select
from casckpt.objects.tree import expand, references, shallow
from casckpt.objects.values import Map, Record, TensorRecord, Value
from casckpt.store.protocol import Space
from casckpt.tensors import huge_pages
from casckpt.tensors.inflate import inflate
from casckpt.tensors.memory import Memory
from casckpt.tensors.read_ahead import ReadAhead
from casckpt.tensors.reuse import Reuse
from casckpt.tensors.shared_bases import SharedBases
from casckpt.tensors.workers import each, thread_count

# What a thread takes on at a time: at most so many bytes and so many chunks, so that they end at about the same time.
_RUN_BYTES: Final = 4 * MIB
_RUN_CHUNKS: Final = 256


def load(
    objects: Objects,
    root: bytes,
    released: tuple[str, ...],
    globs: Globs | None,
    device: torch.device | None = None,
    reuse: Reuse | None = None,
) -> object:
    """The state under a root tree, or what the globs take of it, with tensors on the device; None: on the CPU.

    reuse: memory to load tensors on the CPU into where it fits; its contents are undefined after an error.

    Raises:
        ReleasedPartError: a part was released, and the globs don't leave it out.
        CorruptObjectError, MissingObjectError
    """
    return read(objects, read_value(objects, root, released, globs), device, reuse)


def read_value(objects: Objects, root: bytes, released: tuple[str, ...], globs: Globs | None) -> Value:
    """The expanded value under a root tree, or what the globs take of it; no chunk is read."""
    value = shallow(objects.tree(root), objects.tree)
    if released and isinstance(value, Map):
        wanted = tuple(
            part
            for part in released
            if globs is None or globs.match(child("", part)) or globs.may_match_under(child("", part))
        )
        if wanted:
            raise ReleasedPartError(
                f"retention released {', '.join(wanted)} of this commit",
                parts=wanted,
                remedy='load the parts that are left by paths, such as paths=["model.*"]',
            )
        value = Map(tuple([(key, item) for key, item in value.entries if key not in released]))
    if globs is not None:
        value = select(value, globs, objects.tree)
    return expand(value, objects.tree)


def read(objects: Objects, value: Value, device: torch.device | None = None, reuse: Reuse | None = None) -> object:
    """An expanded value with its bytes, as new objects; what is shared in it is shared again.

    Raises:
        CorruptObjectError, MissingObjectError, UnsupportedTypeError
    """
    nodes: Nodes = {ref: node_of(objects, ref) for ref in references(value) if isinstance(ref, NodeRef)}
    if device is not None and device.type != "cpu":
        memory = Memory.for_value(value, take=_ToDevice(objects, nodes, device).take)
    else:
        memory = Memory.for_value(value, reuse=reuse)
    huge_pages.prefer([target.out for target in memory.targets if target.fresh])
    fill(objects, [Region(nodes[target.ref], target.out) for target in memory.targets])
    if device is not None:
        memory.move(device)
    return inflate(value, memory)


Nodes: TypeAlias = dict[NodeRef, StorageNode]


def node_of(objects: Objects, ref: NodeRef) -> StorageNode:
    """The node that a record refers to.

    Raises:
        CorruptObjectError: it is damaged, or of another length than the record says.
        MissingObjectError
    """
    node = objects.node(ref.id)
    if node.length != ref.length:
        raise CorruptObjectError(f"node {ref.id.hex()} spans {node.length} bytes where {ref.length} are expected")
    return node


class _ToDevice:
    """Brings storages to a device one by one, by way of one buffer: there is never a second state in host memory."""

    def __init__(self, objects: Objects, nodes: Nodes, device: torch.device) -> None:
        self._objects = objects
        self._nodes = nodes
        self._device = device
        self._buffer: torch.Tensor | None = None

    def take(self, record: Record, path: str) -> torch.UntypedStorage | None:
        """The storage of a tensor, filled; of anything else, which stays in host memory, None."""
        if not isinstance(record, TensorRecord) or not isinstance(record.storage, NodeRef):
            return None
        if self._buffer is None:
            largest = max(ref.length for ref in self._nodes)
            self._buffer = torch.empty(largest, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            if not self._buffer.is_pinned():  # else its pages are there, and stay where they are
                huge_pages.prefer([self._buffer.numpy().data])
        host = self._buffer[: record.storage.length]
        fill(self._objects, [Region(self._nodes[record.storage], host.numpy().data)])
        return torch.empty(len(host), dtype=torch.uint8, device=self._device).copy_(host).untyped_storage()


# -- chunks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of a saved storage, from `start` on as many as `out` has, and the memory that they go to.

    Raises:
        CorruptObjectError: the storage does not reach so far.
    """

    node: StorageNode
    out: memoryview
    start: int = 0

    def __post_init__(self) -> None:
        if self.end > self.node.length:
            raise CorruptObjectError(f"a storage node spans {self.node.length} bytes where {self.end} are expected")

    @property
    def end(self) -> int:
        """Where its bytes end in the storage."""
        return self.start + len(self.out)


def fill(objects: Objects, regions: Sequence[Region]) -> None:
    """Write the regions' bytes to where they go, by several threads.

    Raises:
        CorruptObjectError, MissingObjectError: the regions are then undefined.
    """
    _each_chunk(objects, regions, _Chunk.put)


def update(objects: Objects, regions: Sequence[Region], changed: set[int]) -> None:
    """As `fill`, but what is there is hashed first, and only chunks that differ are read and written.

    changed: gets the indices of the regions that are written to, also where this raises.
    """

    def work(chunk: _Chunk, chunks: _Chunks) -> None:
        if chunk.differs(chunks):
            changed.add(chunk.region)
            chunk.put(chunks)

    _each_chunk(objects, regions, work)


class _Chunks:
    """The chunks that a transaction shows, for several threads: it may be used by one at a time only."""

    def __init__(self, objects: Objects, regions: Sequence[Region]) -> None:
        self.scheme = objects.scheme
        self._objects = objects
        self._lock = threading.Lock()
        self._shared = SharedBases(objects.reader, _ids(regions, objects.scheme.size))
        self._ahead = [ReadAhead() for _ in range(MAX_CHAIN + 2)]  # a chunk's own frame and its bases lie far apart

    def chain(self, oid: bytes, length: int) -> Chain:
        """The stored frames of a chunk, whose pages are in memory by then; views that end with the transaction."""
        aheads = iter(self._ahead)

        def frame(at: bytes) -> memoryview:
            found = self._objects.frame(Kind.CHUNK, at)
            next(aheads).looked_up(found)
            return found

        with self._lock:
            chain = read_chain(oid, frame, length)
        return self._shared.cut(chain, self._decoded)

    def _decoded(self, chain: Chain) -> memoryview:
        raw = memoryview(bytearray(chain.length))
        decode_into(self.scheme, chain, raw)
        return raw

    def give_back(self) -> None:
        """Leave the transaction to the calling thread: it counts as that of the last one that used it."""
        self._objects.reader.has(Space.META, b"format")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk of `length` bytes, of which those behind the first `skipped` go to `out`, as many as that has.

    region: the index of the region that it belongs to.
    """

    oid: bytes
    length: int
    skipped: int
    out: memoryview
    region: int

    def differs(self, chunks: _Chunks) -> bool:
        """Whether other bytes are in `out`. A chunk that is wanted as a whole is not read to tell."""
        if len(self.out) == self.length:
            return chunks.scheme.digest(Kind.CHUNK, self.out) != self.oid
        return not np.array_equal(np.frombuffer(self.out, np.uint8), self._part(chunks))

    def put(self, chunks: _Chunks) -> None:
        """Write its bytes to `out`, and check them there; a part is cut out of what was checked."""
        if len(self.out) == self.length:
            decode_into(chunks.scheme, chunks.chain(self.oid, self.length), self.out)
        else:
            np.copyto(np.frombuffer(self.out, np.uint8), self._part(chunks))

    def _part(self, chunks: _Chunks) -> np.ndarray[Any, np.dtype[np.uint8]]:
        raw = verified(chunks.scheme, chunks.chain(self.oid, self.length))
        return np.frombuffer(raw, np.uint8)[self.skipped : self.skipped + len(self.out)]


def _each_chunk(objects: Objects, regions: Sequence[Region], work: Callable[[_Chunk, _Chunks], None]) -> None:
    """Do something with every chunk of the regions; when this ends, however it does, no thread is at work any more."""
    chunks = _Chunks(objects, regions)
    width = objects.scheme.size

    def go_through(run: _Run) -> None:
        for index, first, last in run:
            for number in range(first, last):
                work(_chunk(regions[index], index, number, width), chunks)

    try:
        each(go_through, _runs(regions), threads=thread_count())
    finally:
        chunks.give_back()


_Run: TypeAlias = list[tuple[int, int, int]]
"""Neighbouring chunks: the index of a region, and of its storage's chunks the first and that behind the last."""


def _runs(regions: Sequence[Region]) -> Iterator[_Run]:
    """All chunks of the regions, in runs of about the same size."""
    run: _Run = []
    room = _RUN_CHUNKS
    for index, region in enumerate(regions):
        size = region.node.chunk_size
        at, end = region.start // size, chunk_count(region.end, size)
        worth = max(1, _RUN_CHUNKS * size // _RUN_BYTES)  # of one chunk, where a whole run is worth _RUN_CHUNKS
        while at < end:
            taken = min(end - at, max(1, room // worth))
            run.append((index, at, at + taken))
            at += taken
            room -= taken * worth
            if room <= 0:
                yield run
                run, room = [], _RUN_CHUNKS
    if run:
        yield run


def _ids(regions: Sequence[Region], width: int) -> Iterator[bytes]:
    """The chunks of the regions."""
    for region in regions:
        size = region.node.chunk_size
        for number in range(region.start // size, chunk_count(region.end, size)):
            yield region.node.chunks[number * width : (number + 1) * width]


def _chunk(region: Region, index: int, number: int, width: int) -> _Chunk:
    node = region.node
    low = number * node.chunk_size
    high = min(low + node.chunk_size, node.length)
    first, last = max(low, region.start), min(high, region.end)
    out = region.out[first - region.start : last - region.start]
    return _Chunk(node.chunks[number * width : (number + 1) * width], high - low, first - low, out, index)
