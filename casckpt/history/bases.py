"""Which chunk is a delta of which. It must never let a delta be without what it is based on (I2).

Whatever is committed, every delta in the store has its base in the store, that one's base too, and so on to a chunk
that stands by itself. So a chunk that is there can be read, and whoever finds one there may rely on it. Two small
records say what is based on what, so that nobody has to look into frames to find out:

- a delta is put only where its base is, in that same transaction; else what is put stands by itself. A chunk that is
  being put is not there yet, so no chain that is there leads over it: none ever closes to a circle.
- a chunk is deleted only where nothing in the store is a delta of it, in that same transaction.
- a frame is replaced only after the whole chain of its new base was followed in that same transaction.

Where a store was damaged, `mend_chunk` and `mend_records` bring that back, for repair alone: the frames tell.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from casckpt.errors import CorruptObjectError, NewerFormatError
from casckpt.limits import MAX_CHAIN
from casckpt.objects.frame import read_frame, read_head
from casckpt.store.protocol import Reader, Space, Writer

if TYPE_CHECKING:
    from typing_extensions import Buffer


def base_of(reader: Reader, oid: bytes) -> bytes | None:
    """The chunk that a chunk is stored as a delta of; None where it stands by itself."""
    found = reader.get(Space.BASE, oid)
    return None if found is None else bytes(found)


def all_bases(reader: Reader) -> Iterator[tuple[bytes, bytes]]:
    """Every delta with its base."""
    for oid, base in reader.items(Space.BASE):
        yield oid, bytes(base)


def dependants(reader: Reader, oid: bytes) -> Iterator[bytes]:
    """The chunks that are stored as deltas of a chunk."""
    for key in reader.keys(Space.DEPENDANT, oid):
        if not key.startswith(oid):
            return
        yield key[len(oid) :]


def depth_of(reader: Reader, oid: bytes) -> int:
    """The deltas that a chunk lies over.

    Raises:
        CorruptObjectError: more than any writer leaves.
    """
    depth = 0
    base = base_of(reader, oid)
    while base is not None:
        depth += 1
        if depth > MAX_CHAIN:
            raise CorruptObjectError(f"chunk {oid.hex()} is a delta over more than {MAX_CHAIN} others, or over itself")
        base = base_of(reader, base)
    return depth


def height_of(reader: Reader, oid: bytes, most: int = MAX_CHAIN, among: Container[bytes] | None = None) -> int:
    """The longest chain of deltas that lies over a chunk; counted no further than `most`.

    among: only chains of these chunks; None: of any.
    """
    height = 0
    level = met = {oid}
    while height < most:
        # what was met before lies over itself, which only damaged records say
        level = {above for one in level for above in dependants(reader, one) if among is None or above in among} - met
        if not level:
            break
        met = met | level
        height += 1
    return height


def put_chunk(writer: Writer, oid: bytes, frame: Buffer, alone: Callable[[], Buffer]) -> bool:
    """Put the frame of a chunk, unless the chunk is there; returns whether it was put.

    alone: makes a frame of the chunk that stands by itself, for where its base is gone, or a frame under that, or where
    the chain would become longer than any reader follows.
    """
    if writer.has(Space.CHUNK, oid):
        return False
    base = _base_in(frame)
    if base is not None:
        over = _depth_without(writer, base, oid)
        if over is None or over >= MAX_CHAIN:
            frame, base = alone(), None
    _put(writer, oid, frame, base)
    return True


def delete_chunk(writer: Writer, oid: bytes) -> bool:
    """Delete a chunk, unless another is a delta of it; returns whether it is gone."""
    if next(dependants(writer, oid), None) is not None:
        return False
    _untie(writer, oid)
    writer.delete(Space.CHUNK, oid)
    return True


def replace_chunk(writer: Writer, oid: bytes, frame: Buffer, *, before: bytes | None, depth: int) -> bool:
    """Put another frame of a chunk in the place of the one that is there; returns whether that could be done.

    It cannot where the chunk is gone, where its base is not `before` any more, where the new base is gone or leads to
    the chunk itself, or where a chain over it would become longer than it is, and than `depth` deltas.
    """
    if not writer.has(Space.CHUNK, oid) or base_of(writer, oid) != before:
        return False
    base = _base_in(frame)
    if base is not None:
        over = _depth_without(writer, base, oid)
        if over is None:
            return False
        held = -1 if before is None else _depth_without(writer, before, oid)
        is_deeper = held is None or over > held
        if is_deeper and over + 1 + height_of(writer, oid, max(0, depth - over)) > depth:
            return False
    _untie(writer, oid)
    _put(writer, oid, frame, base)
    return True


def mend_chunk(writer: Writer, oid: bytes, frame: Buffer) -> None:
    """Put a frame that stands by itself, whatever is there of the chunk: nothing, or what cannot be read."""
    assert _base_in(frame) is None
    _untie(writer, oid)
    _put(writer, oid, frame, None)


def record_at_fault(reader: Reader, space: Space, key: bytes, id_size: int) -> tuple[bytes, bytes | None] | None:
    """By a key among the chunks, or of a record of deltas: the chunk, where something else is recorded of it than the
    head of its frame says, with a base that is recorded only by that base, or None. A chunk whose head cannot be read
    says nothing."""
    if space is Space.CHUNK:
        with suppress(CorruptObjectError, NewerFormatError):
            base = _said(reader, key)
            if base_of(reader, key) != base or (base is not None and not reader.has(Space.DEPENDANT, base + key)):
                return key, None
    elif space is Space.BASE:
        if not reader.has(Space.CHUNK, key):
            return key, None
    elif len(key) == 2 * id_size and base_of(reader, key[id_size:]) != key[:id_size]:
        return key[id_size:], key[:id_size]
    return None


def mend_records(writer: Writer, oid: bytes, stray: bytes | None) -> bool:
    """Record of a chunk what the head of its frame says; returns whether something was changed.

    stray: what else is said to be its base.
    """
    recorded = base_of(writer, oid)
    base: bytes | None = None
    if writer.has(Space.CHUNK, oid):
        try:
            base = _said(writer, oid)
        except (CorruptObjectError, NewerFormatError):
            return False
    changed = recorded != base or (base is not None and not writer.has(Space.DEPENDANT, base + oid))
    if changed:
        _untie(writer, oid)
    if changed and base is not None:
        writer.put(Space.BASE, oid, base)
        writer.put(Space.DEPENDANT, base + oid, b"")
    if stray is not None and stray != base and writer.delete(Space.DEPENDANT, stray + oid):
        return True
    return changed


def _said(reader: Reader, oid: bytes) -> bytes | None:
    """The base of a chunk as the head of its frame says it."""
    head, _ = read_head(reader.get(Space.CHUNK, oid) or memoryview(b""))
    return head.base


def _base_in(frame: Buffer) -> bytes | None:
    head, _ = read_frame(memoryview(frame).cast("B"))
    return head.base


def _put(writer: Writer, oid: bytes, frame: Buffer, base: bytes | None) -> None:
    writer.put(Space.CHUNK, oid, frame)
    if base is not None:
        writer.put(Space.BASE, oid, base)
        writer.put(Space.DEPENDANT, base + oid, b"")


def _untie(writer: Writer, oid: bytes) -> None:
    base = base_of(writer, oid)
    if base is not None:
        writer.delete(Space.BASE, oid)
        writer.delete(Space.DEPENDANT, base + oid)


def _depth_without(reader: Reader, oid: bytes, avoided: bytes) -> int | None:
    """The deltas that a chunk lies over, its whole chain being there; None where it is not, or leads over another."""
    depth = 0
    at: bytes | None = oid
    while at is not None:
        if at == avoided or depth > MAX_CHAIN or not reader.has(Space.CHUNK, at):
            return None
        at = base_of(reader, at)
        depth += 1
    return depth - 1
