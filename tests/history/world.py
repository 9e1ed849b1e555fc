"""States of plain bytes, saved and loaded without torch: history is tested by itself."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

from casckpt.errors import PrunedCommitError
from casckpt.history.commits import Commit
from casckpt.history.ingest import Ingest
from casckpt.history.records import Mark, add_mark, check_not_pruned, get_mark
from casckpt.history.repository import History
from casckpt.limits import DEPTHS
from casckpt.objects.chain import verified
from casckpt.objects.commit import CommitObject
from casckpt.objects.encoding import Base, encode_chunk
from casckpt.objects.frame import head_size
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode, chunk_bounds, stands_inline
from casckpt.objects.tree import expand, shallow, write_tree
from casckpt.objects.values import Map, TensorRecord
from casckpt.objects.words import BYTES

State = Mapping[str, Mapping[str, bytes]]
"""Parts of a state, each with named runs of bytes."""


def put_state(
    ingest: Ingest, history: History, state: State, parent: bytes | None = None, codec: str = "none"
) -> tuple[bytes, int]:
    """Bring a state into the store, all but its publication; returns its tree and its bytes.

    parent: the commit whose chunks may be the bases of deltas.
    """
    before = nodes_of(ingest, parent) if DEPTHS[codec] else {}
    storages: list[bytes | NodeRef] = []
    size = history.store.format.chunk_size
    parts: list[tuple[Any, Any]] = []
    total = 0
    for part, runs in state.items():
        records: list[tuple[Any, Any]] = []
        for name, run in runs.items():
            records.append((name, TensorRecord("uint8", (len(run),), None, 0, len(storages), None, 0)))
            total += len(run)
            if stands_inline(len(run), size):
                storages.append(run)
                continue
            ids: list[bytes] = []
            held = before.get((part, name))
            there = held.ids() if held is not None and held.length == len(run) else []
            for start, end in chunk_bounds(len(run), size):
                oid = history.scheme.digest(Kind.CHUNK, run[start:end])
                if ingest.claim_chunk(oid):
                    base = there[len(ids)] if there else None
                    ingest.add_chunk(oid, frame(ingest, oid, run[start:end], base, codec), end - start)
                ids.append(oid)
            storages.append(ingest.add_node(StorageNode(len(run), size, b"".join(ids))))
        parts.append((part, Map(tuple(records))))
    ingest.flush()
    return write_tree(Map(tuple(parts)), storages, ingest.add_tree), total


def nodes_of(ingest: Ingest, commit: bytes | None) -> dict[tuple[str, str], StorageNode]:
    """The nodes of a commit by part and name, if a save may build on it."""
    base = ingest.base(commit)
    if base is None:
        return {}
    objects = ingest.objects
    return {
        (part, name): objects.node(record.storage.id)
        for part, value in shallow(objects.tree(base.tree), objects.tree).entries
        if part not in base.released
        for name, record in expand(value, objects.tree).entries
        if isinstance(record.storage, NodeRef)
    }


def frame(ingest: Ingest, oid: bytes, raw: bytes, before: bytes | None, codec: str) -> bytes:
    """A chunk encoded as a save does it."""
    buffer = memoryview(bytearray(head_size(len(oid))) + raw)
    if before is None or not DEPTHS[codec]:
        return bytes(encode_chunk(oid, buffer, BYTES, codec))
    with ingest.chain(before, len(raw), DEPTHS[codec] - 1) as chain:
        if chain is None:
            return bytes(encode_chunk(oid, buffer, BYTES, codec))
        base = Base(before, verified(ingest.objects.scheme, chain), len(chain.links) - 1)
        return bytes(encode_chunk(oid, buffer, BYTES, codec, base))


def describe(history: History, tree: bytes, parent: bytes | None, message: str, step: int | None, **more: Any) -> Any:
    """A commit object on the handle's branch."""
    return CommitObject(
        tree=tree,
        parents=() if parent is None else (parent,),
        branch=history.current_branch,
        step=step,
        metrics=tuple(more.get("metrics", {}).items()),
        message=message,
        time=more.get("time", time.time_ns()),
        host="here",
        meta=Map(()),
    )


def commit(
    history: History, state: State, message: str = "", step: int | None = None, codec: str = "none", **more: Any
) -> Commit:
    """Save a state as the next commit of the handle's branch."""
    parent = history._tip
    with Ingest(history.store, history.scheme) as ingest:
        tree, total = put_state(ingest, history, state, parent, codec)
        described = describe(history, tree, parent, message, step, **more)
        oid, _ = ingest.publish(described, expected=parent, logical=total)
    history._tip = oid
    return history.resolve(oid.hex())


def load(history: History, revision: str) -> dict[str, dict[str, bytes]]:
    """The state of a commit without its released parts, every object checked.

    Raises:
        PrunedCommitError
    """

    def work(commits: Any) -> dict[str, dict[str, bytes]]:
        objects = commits.objects
        oid = bytes.fromhex(history.resolve(revision).id)
        check_not_pruned(objects.reader, oid)
        released = get_mark(objects.reader, oid).released
        root = shallow(objects.tree(commits.stored(oid).tree), objects.tree)
        found: dict[str, dict[str, bytes]] = {}
        for part, value in root.entries:
            if part in released:
                continue
            found[part] = {}
            for name, record in expand(value, objects.tree).entries:
                if isinstance(record.storage, bytes):
                    found[part][name] = record.storage
                    continue
                run = bytearray()
                for chunk in objects.node(record.storage.id).ids():
                    run += objects.chunk(chunk)
                found[part][name] = bytes(run)
        return found

    return history.reading(work)


def is_pruned(history: History, revision: str) -> bool:
    try:
        load(history, revision)
    except PrunedCommitError:
        return True
    return False


def noise(seed: int, size: int) -> bytes:
    """Bytes that no codec makes smaller."""
    return random.Random(seed).randbytes(size)


def drifted(run: bytes, seed: int, by: int = 1) -> bytes:
    """Bytes of which each went up a little, or not: a delta to what they were is small."""
    up = random.Random(seed).choices(range(by + 1), k=len(run))
    return bytes([(byte + more) & 255 for byte, more in zip(run, up, strict=True)])


def release(history: History, commits: Iterable[Commit]) -> None:
    """Prune these commits."""
    with history.store.write(durable=True, room=None) as writer:
        for one in commits:
            add_mark(writer, bytes.fromhex(one.id), Mark(True, ()))
