"""Damage to what a store holds, done behind the history's back, for tests of what finds it."""

from __future__ import annotations

import msgspec

from casckpt.history.fsck.report import FsckReport
from casckpt.history.ingest import Ingest
from casckpt.history.repository import History
from casckpt.objects.codec import decode, encode
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode
from casckpt.objects.tree import write_tree
from casckpt.objects.values import Map, TensorRecord
from casckpt.store.protocol import Space, Store
from tests.history.world import describe

A, B, C = b"a" * 700, b"b" * 700, b"c" * 700
KINDS = {Space.COMMIT: Kind.COMMIT, Space.TREE: Kind.TREE, Space.NODE: Kind.NODE, Space.CHUNK: Kind.CHUNK}
NOWHERE = b"\7" * 16


def errors(report: FsckReport) -> set[str]:
    """Ids of what is wrong: errors and warnings."""
    return {found.id for found in report.findings if found.severity != "info"}


def put(store: Store, space: Space, key: bytes, value: bytes | None) -> None:
    """Put a value under a key, or with None take it away, behind the history's back."""
    with store.write(durable=True, room=None) as writer:
        if value is None:
            writer.delete(space, key)
        else:
            writer.put(space, key, value)


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
    with Ingest(history.store, history.scheme, "none") as ingest:
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


def bytes_of(store: Store, history: History, space: Space, oid: bytes) -> bytes:
    with store.read() as reader:
        frame = reader.get(space, oid)
        assert frame is not None
        return decode(history.scheme, KINDS[space], oid, frame)
