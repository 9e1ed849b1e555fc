"""Storage nodes: the used span of one storage as the ordered ids of its chunks; and the plan that cuts a span."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from casckpt.errors import CorruptObjectError
from casckpt.limits import INLINE_STORAGE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE


class NodeRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Where a tensor record finds its bytes: the id of a storage node, and the length in bytes of what it spans."""

    id: bytes
    length: int


@dataclass(frozen=True, slots=True)
class StorageNode:
    """The used span of one storage. `chunks` holds the ids one behind the other."""

    length: int
    chunk_size: int
    chunks: bytes

    def ids(self) -> list[bytes]:
        """The chunk ids in order."""
        size = len(self.chunks) // chunk_count(self.length, self.chunk_size)
        return [self.chunks[at : at + size] for at in range(0, len(self.chunks), size)]


def chunk_count(length: int, chunk_size: int) -> int:
    """How many chunks a span of `length` bytes has."""
    return -(-length // chunk_size)


def chunk_bounds(length: int, chunk_size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk: chunk_bounds(5, 2) -> (0, 2), (2, 4), (4, 5)."""
    for start in range(0, length, chunk_size):
        yield start, min(start + chunk_size, length)


def stands_inline(length: int, chunk_size: int) -> bool:
    """Whether a storage is so small that its bytes stand in the tensor record."""
    return length <= min(INLINE_STORAGE, chunk_size)


def pack_node(node: StorageNode) -> bytes:
    """The canonical bytes of a node."""
    return msgspec.msgpack.encode([node.length, node.chunk_size, node.chunks])


def unpack_node(raw: bytes, id_size: int) -> StorageNode:
    """The node in `raw`, checked whole before it is used.

    Raises:
        CorruptObjectError
    """
    try:
        length, chunk_size, chunks = msgspec.msgpack.decode(raw, type=tuple[int, int, bytes])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CorruptObjectError(f"a storage node cannot be read: {error}") from error
    if length < 1 or not MIN_CHUNK_SIZE <= chunk_size <= MAX_CHUNK_SIZE:
        raise CorruptObjectError(f"a storage node of {length} bytes in chunks of {chunk_size}")
    if len(chunks) != chunk_count(length, chunk_size) * id_size:
        raise CorruptObjectError(f"a storage node of {length} bytes has {len(chunks)} bytes of chunk ids")
    return StorageNode(length, chunk_size, chunks)
