"""Stores for the command line's tests, made without torch: states of plain bytes, and histories of any length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from casckpt.history.commits import Commit
from casckpt.history.ingest import Ingest
from casckpt.history.plain import to_map
from casckpt.history.records import BRANCH, Figures, get_ref, move_ref, put_figures
from casckpt.history.repository import History
from casckpt.objects.codec import encode
from casckpt.objects.commit import CommitObject, pack_commit
from casckpt.objects.ids import Kind
from casckpt.objects.node import StorageNode, chunk_bounds
from casckpt.objects.tree import write_tree
from casckpt.objects.values import Map, TensorRecord
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space

SECOND = 1_000_000_000
BEGAN = 1_700_000_000 * SECOND


def make_history(path: Path) -> History:
    """A new store, its chunks so small that a test sees several."""
    return History(open_store(path, chunk_size=4096, codec="none"))


def commit(
    history: History,
    parts: Mapping[str, bytes],
    message: str = "",
    *,
    step: int | None = None,
    metrics: Mapping[str, float] | None = None,
    branch: str = "main",
    meta: Mapping[str, object] | None = None,
    time: int | None = None,
) -> Commit:
    """The next commit of a branch, of a state that has one tensor of bytes in each part."""
    scheme = history.scheme
    with history.store.read() as reader:
        parent = get_ref(reader, BRANCH + branch)
    with Ingest(history.store, scheme) as ingest:
        entries = []
        for name, raw in parts.items():
            ids = []
            for start, end in chunk_bounds(len(raw), 4096):
                oid = scheme.digest(Kind.CHUNK, raw[start:end])
                if ingest.claim_chunk(oid):
                    ingest.add_chunk(oid, encode(Kind.CHUNK, oid, raw[start:end], "none"), end - start)
                ids.append(oid)
            ref = ingest.add_node(StorageNode(len(raw), 4096, b"".join(ids)))
            entries.append((name, Map((("weight", TensorRecord("uint8", (len(raw),), None, 0, ref, None, 0)),))))
        tree = write_tree(Map(tuple(entries)), [], ingest.add_tree)
        made = CommitObject(
            tree=tree,
            parents=() if parent is None else (parent,),
            branch=branch,
            step=step,
            metrics=tuple((metrics or {}).items()),
            message=message,
            time=BEGAN + (step or 0) * SECOND if time is None else time,
            host="node",
            meta=to_map(meta or {}),
        )
        oid, _ = ingest.publish(made, expected=parent, logical=sum(map(len, parts.values())))
    if branch == history.current_branch:
        history.switch(branch)  # this handle's tip is where the branch is now
    return history.resolve(oid.hex())


def long_history(path: Path, commits: int) -> None:
    """A store whose main branch has that many commits, published at once."""
    with make_history(path) as history:
        scheme = history.scheme
        parent: bytes | None = None
        with history.store.write(durable=True, room=commits * 1024) as writer:
            tree = write_tree(Map(()), [], lambda raw: scheme.digest(Kind.TREE, raw))
            writer.put(Space.TREE, tree, encode(Kind.TREE, tree, b"\x91\x03"))
            for number in range(commits):
                raw = pack_commit(
                    CommitObject(
                        tree=tree,
                        parents=() if parent is None else (parent,),
                        branch="main",
                        step=number,
                        metrics=(("loss", 1 / (number + 1)),),
                        message=f"commit {number}",
                        time=BEGAN + number * SECOND,
                        host="node",
                        meta=Map(()),
                    )
                )
                parent = scheme.digest(Kind.COMMIT, raw)
                writer.put(Space.COMMIT, parent, encode(Kind.COMMIT, parent, raw))
                put_figures(writer, parent, Figures(1000, 10, 10, 3, 1))
            move_ref(writer, "branch/main", expected=None, new=parent, action="commit", revive=False)
