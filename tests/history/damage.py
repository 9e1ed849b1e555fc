"""Damage to what a store holds, done behind the history's back, for tests of what finds it."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec

from casckpt.history.bases import base_of, replace_chunk
from casckpt.history.fsck.report import FsckReport
from casckpt.history.ingest import Ingest
from casckpt.history.repository import History
from casckpt.objects.chain import read_chain, verified
from casckpt.objects.codec import encode
from casckpt.objects.encoding import Base, encode_chunk
from casckpt.objects.frame import head_size, read_frame
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode
from casckpt.objects.tree import write_tree
from casckpt.objects.values import Map, TensorRecord
from casckpt.objects.words import Words
from casckpt.store.checked import CHECKED_SPACES, COUNTERS, with_check
from casckpt.store.format import FORMAT_KEY, encode_format
from casckpt.store.protocol import Space, Store
from tests.history.world import commit, describe

A, B, C = b"a" * 700, b"b" * 700, b"c" * 700
KINDS = {Space.COMMIT: Kind.COMMIT, Space.TREE: Kind.TREE, Space.NODE: Kind.NODE, Space.CHUNK: Kind.CHUNK}
NOWHERE = b"\7" * 16


def errors(report: FsckReport) -> set[str]:
    """Ids of what is wrong: errors and warnings."""
    return {found.id for found in report.findings if found.severity != "info"}


def put(store: Store, space: Space, key: bytes, value: bytes | None) -> None:
    """Put a value under a key, or with None take it away, behind the history's back; a record with its check."""
    if value is not None and (space in CHECKED_SPACES or key in COUNTERS):
        value = with_check(space, key, value)
    with store.write(durable=True, room=None) as writer:
        if value is None:
            writer.delete(space, key)
        else:
            writer.put(space, key, value)


def as_format(store: Store, version: int) -> None:
    """Make a store of today's one of an earlier format, as its record has it; to be opened again."""
    with store.write(durable=True, room=None) as writer:
        for space in CHECKED_SPACES:
            for key, record in writer.items(space):
                writer.put(space, key, record[:-8])
        for key in COUNTERS:
            writer.put(Space.META, key, (writer.get(Space.META, key) or bytes(16))[:-8])
        writer.put(Space.META, FORMAT_KEY, encode_format(replace(store.format, version=version)))


def flip(store: Store, space: Space, key: bytes) -> None:
    """Flip a bit of the last byte of a stored value."""
    with store.read() as reader:
        value = bytearray(reader.get(space, key) or b"")
    value[-1] ^= 1
    put(store, space, key, bytes(value))


def keys(store: Store, space: Space) -> list[bytes]:
    with store.read() as reader:
        return list(reader.keys(space))


def tip(history: History) -> bytes:
    return bytes.fromhex(history.resolve("main").id)


def publish(history: History, root: Map, nodes: list[StorageNode] = []) -> None:  # noqa: B006
    """Commit a tree as it is, right or wrong, and nodes with it."""
    with Ingest(history.store, history.scheme) as ingest:
        for node in nodes:
            ingest.add_node(node)
        tree = write_tree(root, (), ingest.add_tree)
        described = describe(history, tree, history._tip, "by hand", None)
        history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)


def record(length: int, storage: bytes | NodeRef, alias: int | None = None) -> TensorRecord:
    return TensorRecord("uint8", (length,), None, 0, storage, alias, 0)


def put_tree(history: History, item: object) -> bytes:
    """Store a tree object of these very bytes, right or wrong."""
    raw = msgspec.msgpack.encode(item)
    oid = history.scheme.digest(Kind.TREE, raw)
    put(history.store, Space.TREE, oid, encode(Kind.TREE, oid, raw, "none"))
    return oid


def abandon(history: History) -> None:
    history.rollback("HEAD~1")
    history.expire_reflog()


def bytes_of(store: Store, history: History, oid: bytes) -> bytes:
    """A chunk's."""
    with store.read() as reader:

        def look_up(at: bytes) -> memoryview:
            frame = reader.get(Space.CHUNK, at)
            assert frame is not None
            return frame

        return bytes(verified(history.scheme, read_chain(oid, look_up)))


# -- deltas ------------------------------------------------------------------------------------------------------------


def steps(count: int, seed: int = 0) -> list[bytes]:
    """Runs of three chunks, each with one other word in each of them than the one before."""
    run = bytearray(random.Random(seed).randbytes(3 * 256))
    found = [bytes(run)]
    for step in range(1, count):
        for at in (0, 256, 512):
            run[at + 4 * step % 256] ^= 1 + step % 255
        found.append(bytes(run))
    return found


def delta_of(history: History, raw: bytes, base: bytes) -> bytes:
    """A frame of some bytes as a delta of others."""
    oid, below = (history.scheme.digest(Kind.CHUNK, one) for one in (raw, base))
    room = memoryview(bytearray(head_size(len(oid))) + bytearray(raw))
    frame = encode_chunk(oid, room, Words(4, False), "small", Base(below, memoryview(base), 0))
    assert read_frame(frame)[0].base == below
    return bytes(frame)


def make_delta(history: History, raw: bytes, base: bytes) -> tuple[bytes, bytes]:
    """Store a chunk that is there as a delta of another; returns the ids of both."""
    oid, below = (history.scheme.digest(Kind.CHUNK, one) for one in (raw, base))
    with history.store.write(durable=True, room=None) as writer:
        before = base_of(writer, oid)
        assert replace_chunk(writer, oid, delta_of(history, raw, base), before=before, depth=64)
    return oid, below


def chained(history: History, count: int, part: str = "model") -> list[bytes]:
    """Commit so many states, the chunks of each deltas of those of the one before; returns the ids of their first
    chunks."""
    runs = steps(count)
    for step, run in enumerate(runs):
        commit(history, {part: {"w": run}}, step=step)
        for at in (0, 256, 512) if step else ():
            make_delta(history, run[at : at + 256], runs[step - 1][at : at + 256])
    return [history.scheme.digest(Kind.CHUNK, run[:256]) for run in runs]
