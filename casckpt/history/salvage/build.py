"""Writes the new store, bases before deltas and everything before what leads to it, and has all of it checked.

It is handed over only if a check that reads every byte finds no error. Commits that the check blames are marked as
pruned, and it begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from casckpt.errors import CorruptObjectError
from casckpt.history.bases import put_chunk
from casckpt.history.fetch import SPACE_OF, Objects
from casckpt.history.fsck.check import fsck
from casckpt.history.fsck.findings import SORTS, Findings
from casckpt.history.fsck.records import check_records
from casckpt.history.fsck.structure import Structure
from casckpt.history.records import WHOLE, Figures, Mark, add_mark, get_mark, put_figures, put_move, put_ref, set_head
from casckpt.history.salvage.plan import Plan, by_state, ref_of
from casckpt.history.salvage.remains import Remains
from casckpt.limits import KIB, MAX_FINDINGS, WRITE_BATCH
from casckpt.objects.codec import encode
from casckpt.objects.commit import pack_commit
from casckpt.objects.ids import IdScheme, Kind
from casckpt.store.format import COUNTER_KEY, FORMAT_KEY, encode_format
from casckpt.store.lmdb_store import open_store
from casckpt.store.mark import Mark as HighWater
from casckpt.store.protocol import Progress, Space, Store, StoreFormat, Writer

# Bytes of the records beside an object: its key, and those of a delta, in pages that are not full.
_BESIDE = KIB


@dataclass(slots=True)
class Built:
    """What was written, or with a dry run would be: objects, and the bytes of their frames. blamed: commits (new ids)
    that a check found fault with, and the ids of what it found."""

    chunks: int = 0
    trees: int = 0
    nodes: int = 0
    stored: int = 0
    blamed: dict[bytes, tuple[str, ...]] | None = None


def build(
    folder: Path, remains: Remains, plan: Plan, figures: dict[bytes, Figures], format: StoreFormat, progress: Progress
) -> tuple[Built, HighWater]:
    """Make the store in `folder`; returns what was written, and the mark that goes with it."""
    built = Built()
    store = open_store(folder, hash=format.hash, chunk_size=format.chunk_size, codec=format.codec)
    try:
        _put_objects(store, remains, plan, built, progress)
        _put_history(store, remains.scheme, plan, figures)
        built.blamed = _check(store, remains.scheme, progress)
        made = replace(store.format, uuid=format.uuid)
        with store.write(durable=True, room=_BESIDE) as writer:
            writer.put(Space.META, FORMAT_KEY, encode_format(made))
        with store.read() as reader:
            counter = int.from_bytes(reader.get(Space.META, COUNTER_KEY) or b"", "big")
    finally:
        store.close()
    return built, HighWater(format.uuid, counter)


def foresee(remains: Remains, plan: Plan) -> Built:
    """What `build` would write."""
    built = Built(blamed={})
    for kind, _, frame in _frames(remains, plan):
        _count(built, kind, len(frame))
    return built


def _frames(remains: Remains, plan: Plan) -> Iterator[tuple[Kind, bytes, bytes]]:
    """Every object but commits, chunks first."""
    nodes: list[bytes] = []
    trees: list[bytes] = []
    plan.states.give_anew()
    for oid, commit in by_state(plan.lines.commits):
        for kind, key in plan.states.objects(commit.tree, plan.marks.get(oid, WHOLE)):
            (nodes if kind is Kind.NODE else trees).append(key)
    chunks = dict.fromkeys(chunk for oid in nodes for chunk in remains.node(oid).ids())
    for oid in plan.chunks.needed(chunks):
        yield Kind.CHUNK, oid, plan.chunks.frame(oid)
    for kind, ids in ((Kind.NODE, nodes), (Kind.TREE, trees)):
        for oid in ids:
            yield kind, oid, remains.frame(kind, oid)


def _put_objects(store: Store, remains: Remains, plan: Plan, built: Built, progress: Progress) -> None:
    batch: list[tuple[Kind, bytes, bytes]] = []
    size = 0
    for found in _frames(remains, plan):
        batch.append(found)
        size += len(found[2]) + _BESIDE
        if size >= WRITE_BATCH:
            _put(store, plan, batch, size, built)
            batch, size = [], 0
            progress("writing the new store", built.stored, 0)
    _put(store, plan, batch, size, built)


def _put(store: Store, plan: Plan, batch: Iterable[tuple[Kind, bytes, bytes]], size: int, built: Built) -> None:
    with store.write(durable=False, room=size) as writer:
        for kind, oid, frame in batch:
            if kind is Kind.CHUNK:
                put_chunk(writer, oid, frame, partial(plan.chunks.alone, oid))
            else:
                writer.put(SPACE_OF[kind], oid, frame)
            _count(built, kind, len(frame))


def _count(built: Built, kind: Kind, size: int) -> None:
    built.stored += size
    built.chunks += kind is Kind.CHUNK
    built.trees += kind is Kind.TREE
    built.nodes += kind is Kind.NODE


def _put_history(store: Store, scheme: IdScheme, plan: Plan, figures: dict[bytes, Figures]) -> None:
    """Commits with what stands beside them, moves and refs: small, so in one transaction, which also syncs the rest."""
    frames: dict[bytes, bytes] = {}
    for oid, commit in plan.lines.commits.items():
        new = plan.lines.ids[oid]
        frames[new] = encode(Kind.COMMIT, new, pack_commit(commit))
    room = sum(len(frame) + _BESIDE for frame in frames.values()) + _BESIDE * (len(plan.moves) + 4 * len(plan.refs) + 4)
    with store.write(durable=True, room=room) as writer:
        for oid, new in plan.lines.ids.items():
            writer.put(Space.COMMIT, new, frames[new])
            mark = plan.marks.get(oid, WHOLE)
            if mark != WHOLE:
                add_mark(writer, new, mark)
            if oid in figures:
                put_figures(writer, new, figures[oid])
        for move in plan.moves:
            put_move(writer, move)
        _put_refs(writer, plan)


def _put_refs(writer: Writer, plan: Plan) -> None:
    for ref in plan.refs:
        put_ref(writer, ref_of(ref), bytes.fromhex(ref.commit), "salvaged")
    there = {ref_of(ref) for ref in plan.refs}
    for name in sorted({move.ref for move in plan.moves} - there):  # what moves say of it must not stand as its last
        put_ref(writer, name, None, "not salvaged")
    if plan.head is not None:
        set_head(writer, plan.head)


def _check(store: Store, scheme: IdScheme, progress: Progress) -> dict[bytes, tuple[str, ...]]:
    """Read the store to the last byte; what is blamed is marked as pruned, until nothing is.

    Raises:
        CorruptObjectError: there are errors, and no commit to be blamed for them.
    """
    blamed: dict[bytes, tuple[str, ...]] = {}
    while True:
        report = fsck(store, scheme, read_data=True, progress=progress)
        if report.ok:
            return blamed
        new: dict[bytes, set[str]] = {}
        for found in report.findings:
            if SORTS[found.id].severity == "error":
                hurt = [one.id for one in found.hurt.commits]
                for oid in [found.object] if found.id == "impossible-state" else hurt:
                    new.setdefault(bytes.fromhex(oid), set()).add(found.id)
        if report.counts.get("impossible-state", 0) > MAX_FINDINGS:  # of so many not all were named
            for commit in _impossible(store, scheme):
                new.setdefault(commit, set()).add("impossible-state")
        with store.write(durable=False, room=None) as writer:
            fresh = [oid for oid in new if not get_mark(writer, oid).pruned and writer.has(Space.COMMIT, oid)]
            for commit in fresh:
                add_mark(writer, commit, Mark(True, ()))
        if not fresh:
            first = next(one for one in report.findings if one.severity == "error")
            raise CorruptObjectError(
                f"what came back is not sound: {first.id}: {first.what}", remedy="nothing was kept of it; report this"
            )
        blamed.update({oid: tuple(sorted(new[oid])) for oid in fresh})


def _impossible(store: Store, scheme: IdScheme) -> list[bytes]:
    """Every commit whose state contradicts itself."""
    with store.read() as reader:
        structure = Structure(Objects(reader, scheme), check_records(reader, scheme.size, Findings()), Findings())
        structure.reach_commits()
        return [oid for oid, _ in structure.impossible()]
