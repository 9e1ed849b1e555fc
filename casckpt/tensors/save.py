"""The save pipeline, in the order in which the bytes travel: live memory, staging buffer, id, frame, store.

What is stored is hashed in the buffer that it is written from. The hash of live memory only decides what to copy:
another thread may write to it in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from casckpt.history.ingest import Base, Ingest
from casckpt.limits import WRITE_BATCH
from casckpt.objects.codec import encode_in_place
from casckpt.objects.frame import head_size
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import NodeRef, StorageNode, chunk_bounds, stands_inline
from casckpt.objects.paths import escape, leaves
from casckpt.objects.tree import expand, shallow, write_tree
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, TensorRecord
from casckpt.tensors.flatten import Flat, Span

Nodes = dict[str, StorageNode]
"""The storage nodes of one commit, by the path of the first leaf that uses each."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a state became: the id of its root tree, its nodes, and its bytes as they were in memory."""

    tree: bytes
    nodes: Nodes
    logical: int


class Staging:
    """The buffer that chunks are copied to, hashed in and written from. Its memory is taken on first use."""

    def __init__(self) -> None:
        self._memory = memoryview(b"")
        self._used = 0

    def reserve(self, size: int) -> None:
        """Have at least min(size, WRITE_BATCH) bytes; whatever is in it must have been written."""
        size = min(size, WRITE_BATCH)
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8).data

    def take(self, size: int) -> memoryview | None:
        """The next `size` bytes; None where that much is not left."""
        if self._used + size > len(self._memory):
            if self._used == 0:  # one chunk larger than the whole buffer
                self._memory = np.empty(size, np.uint8).data
            else:
                return None
        found = self._memory[self._used : self._used + size]
        self._used += size
        return found

    def give_back(self, size: int) -> None:
        """Free the bytes taken last: they are not needed after all."""
        self._used -= size

    def clear(self) -> None:
        """Free everything: what was in it has been written."""
        self._used = 0


def base_nodes(ingest: Ingest, base: Base) -> Nodes:
    """The storage nodes of the commit that a save is compared with, without those of released parts."""
    root = shallow(ingest.objects.tree(base.tree), ingest.objects.tree)
    if isinstance(root, Map):
        root = Map(tuple([(key, item) for key, item in root.entries if key not in base.released]))
    found: Nodes = {}
    for path, leaf in leaves(expand(root, ingest.objects.tree)):
        if isinstance(leaf, (TensorRecord, ArrayRecord, BlobRecord)) and isinstance(leaf.storage, NodeRef):
            found.setdefault(path, ingest.objects.node(leaf.storage.id))
    return found


def without_parts(nodes: Nodes, released: tuple[str, ...]) -> Nodes:
    """The nodes that are not under these top-level keys."""
    heads = tuple(escape(part) + "." for part in released)
    return {path: node for path, node in nodes.items() if not f"{path}.".startswith(heads)} if heads else nodes


def save(
    ingest: Ingest, flat: Flat, scheme: IdScheme, base: Nodes, chunk_size: int, codec: str, staging: Staging
) -> Saved:
    """Bring a flattened state into the store, all but its publication.

    base: the nodes to compare with; every chunk of theirs must be held by the store as `ingest` sees it.

    Raises:
        StoreFullError, StoreFailedError
    """
    saver = _Saver(ingest, scheme, chunk_size, codec, staging)
    staging.clear()
    staging.reserve(sum(span.length + span.length // 64 for span in flat.spans))
    storages = [saver.storage(span, base.get(span.path)) for span in flat.spans]
    saver.flush()
    tree = write_tree(flat.value, storages, ingest.add_tree)
    return Saved(tree, saver.nodes, sum(span.length for span in flat.spans))


class _Saver:
    def __init__(self, ingest: Ingest, scheme: IdScheme, chunk_size: int, codec: str, staging: Staging) -> None:
        self._ingest = ingest
        self._scheme = scheme
        self._chunk_size = chunk_size
        self._codec = codec
        self._staging = staging
        self._head = head_size(scheme.size)
        self.nodes: Nodes = {}

    def storage(self, span: Span, base: StorageNode | None) -> bytes | NodeRef:
        """One span's bytes: in the record where they are few, else as the reference to a node."""
        live = span.host()
        if stands_inline(span.length, self._chunk_size):
            return bytes(live)
        before: list[bytes] = []
        if base is not None and base.chunk_size == self._chunk_size:
            before = base.ids()
        ids: list[bytes] = []
        for index, (start, end) in enumerate(chunk_bounds(span.length, self._chunk_size)):
            part = live[start:end]
            if index < len(before) and self._scheme.digest(Kind.CHUNK, part) == before[index]:
                ids.append(before[index])
            else:
                ids.append(self._store(part))
        node = self.nodes[span.path] = StorageNode(span.length, self._chunk_size, b"".join(ids))
        return self._ingest.add_node(node)

    def _store(self, part: memoryview) -> bytes:
        size = self._head + len(part)
        buffer = self._staging.take(size)
        if buffer is None:
            self.flush()
            buffer = self._staging.take(size)
            assert buffer is not None  # an empty buffer grows to what is asked for
        buffer[self._head :] = part
        oid = self._scheme.digest(Kind.CHUNK, buffer[self._head :])
        if self._ingest.holds_chunk(oid):
            self._staging.give_back(size)
            return oid
        frame = encode_in_place(oid, buffer, self._codec)
        if frame is not buffer:
            self._staging.give_back(size)
        self._ingest.add_chunk(oid, frame, len(part))
        if self._ingest.waiting_bytes >= WRITE_BATCH:
            self.flush()
        return oid

    def flush(self) -> None:
        """Write what waits; the staging buffer is free afterwards."""
        self._ingest.flush()
        self._staging.clear()
