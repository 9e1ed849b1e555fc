"""The load pipeline: root, chosen paths, destinations, frames, checked bytes. All of it in one read transaction (I5).

It gives exact bytes or raises; it never fills in.
"""

from __future__ import annotations

import torch

from casckpt.errors import CorruptObjectError, ReleasedPartError
from casckpt.history.fetch import Objects
from casckpt.objects.codec import decode_into
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode, chunk_bounds
from casckpt.objects.paths import Globs, child, select
from casckpt.objects.tree import expand, references, shallow
from casckpt.objects.values import Map, Value
from casckpt.tensors.inflate import inflate
from casckpt.tensors.memory import Memory


def load(
    objects: Objects, root: bytes, released: tuple[str, ...], globs: Globs | None, device: torch.device | None = None
) -> object:
    """The state under a root tree, or what the globs take of it, with tensors on the device; None: on the CPU.

    Raises:
        ReleasedPartError: a part was released, and the globs don't leave it out.
        CorruptObjectError, MissingObjectError
    """
    return read(objects, read_value(objects, root, released, globs), device)


def read(objects: Objects, value: Value, device: torch.device | None = None) -> object:
    """An expanded value with its bytes, as new objects; what is shared in it is shared again.

    Raises:
        CorruptObjectError, MissingObjectError, UnsupportedTypeError
    """
    for ref in references(value):
        if isinstance(ref, NodeRef):  # before memory is taken for it
            _check_length(objects.node(ref.id), ref)
    memory = Memory.for_value(value)
    for target in memory.targets:
        fill(objects, target.ref, target.out)
    if device is not None:
        memory.move(device)
    return inflate(value, memory)


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


def fill(objects: Objects, ref: NodeRef, out: memoryview, *, differing_only: bool = False) -> int:
    """Write a storage's bytes into `out`, each chunk checked where it landed; returns the bytes written.

    differing_only: hash what is there first, and read and write only the chunks that differ.

    Raises:
        CorruptObjectError, MissingObjectError: `out` is then undefined.
    """
    node = objects.node(ref.id)
    _check_length(node, ref)
    if len(out) != ref.length:
        raise ValueError(f"{len(out)} bytes of memory for {ref.length}")
    written = 0
    for oid, (start, end) in zip(node.ids(), chunk_bounds(node.length, node.chunk_size), strict=True):
        part = out[start:end]
        if differing_only and objects.scheme.digest(Kind.CHUNK, part) == oid:
            continue
        decode_into(objects.scheme, oid, objects.frame(Kind.CHUNK, oid), part)
        written += len(part)
    return written


def _check_length(node: StorageNode, ref: NodeRef) -> None:
    if node.length != ref.length:
        raise CorruptObjectError(f"node {ref.id.hex()} spans {node.length} bytes where {ref.length} are expected")
