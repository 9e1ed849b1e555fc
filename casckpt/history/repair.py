"""Heals a store by what another one holds: objects that are bad or missing are fetched by id, and put in one by one.

It must never put anything that does not hash to its id, and never leave a delta without its base: what it puts stands
by itself. Others may read and write meanwhile, in both stores, so no transaction outlives a batch; gc, repack and
compact wait.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from casckpt.errors import NotAStoreError, StoreSettingsError
from casckpt.history.bases import dependants, mend_chunk, mend_records, record_at_fault
from casckpt.history.fetch import SPACE_OF, Objects
from casckpt.history.fsck.check import fsck
from casckpt.history.fsck.findings import DAMAGE, Finding
from casckpt.history.fsck.report import FsckReport
from casckpt.limits import CHECK_BATCH, CHECK_KEYS, KIB, MAX_FINDINGS, WRITE_BATCH
from casckpt.objects.codec import encode
from casckpt.objects.commit import unpack_commit
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import NodeRef, unpack_node
from casckpt.objects.tree import decode_tree, references
from casckpt.store.protocol import Progress, Reader, Space, Store, no_progress

ObjectKey = tuple[Kind, bytes]

# What findings of an id are about that another store may have.
_KINDS: Final = {f"{how}-{kind.name.lower()}": kind for how in ("missing", "damaged") for kind in Kind} | {
    "missing-base": Kind.CHUNK,
    "endless-chain": Kind.CHUNK,
    "dangling-ref": Kind.COMMIT,
    "dangling-reflog-entry": Kind.COMMIT,
}
_OF_CHUNKS: Final = [id for id, kind in _KINDS.items() if kind is Kind.CHUNK]
_RECORDS: Final = ("missing-base-record", "stray-base-record")


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What repair did, or with `dry_run` would do.

    healed: objects that were put, by kind ("chunk", "node", "tree", "commit"); objects: these, a kind and an id in hex
    each. records: records of deltas that were mended. lost: objects that are wanted and that the other store has not
    got, or has damaged, in the same form. before: what a check of all data found; after: what it finds now, with
    `dry_run` the same as before.
    """

    dry_run: bool
    other: str
    healed: dict[str, int]
    objects: tuple[str, ...]
    records: int
    lost: tuple[str, ...]
    before: FsckReport
    after: FsckReport
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is no error any more, or with `dry_run`, whether there would be none of what is lost."""
        return not self.lost and not self.after.stopped if self.dry_run else self.after.ok


def repair(
    store: Store, scheme: IdScheme, other: Store, *, dry_run: bool = False, progress: Progress = no_progress
) -> RepairReport:
    """Fetch what is bad or missing in a store out of another one, until nothing more can be healed.

    Raises:
        StoreSettingsError: the other names its objects by another hash.
        NotAStoreError: it is the same store.
        StoreBusyError: gc, repack or compact is under way.
        StoreFullError: what was put is put.
    """
    if other.format.hash != scheme.name:
        raise StoreSettingsError(
            f"it names its objects by {other.format.hash}, and not by {scheme.name}",
            store=other.path,
            remedy="give a backup, or another store with the same hash",
        )
    if other.path == store.path:
        raise NotAStoreError("this is the store itself", store=other.path, remedy="give another one, such as a backup")
    with store.maintenance():
        return _Repair(store, scheme, other, dry_run, progress).run()


class _Repair:
    def __init__(self, store: Store, scheme: IdScheme, other: Store, dry_run: bool, progress: Progress) -> None:
        self._store = store
        self._scheme = scheme
        self._other = other
        self._dry_run = dry_run
        self._progress = progress
        self._healed: dict[ObjectKey, None] = {}
        self._lost: dict[ObjectKey, None] = {}
        self._records = 0

    def run(self) -> RepairReport:
        began = time.monotonic()
        before = after = self._check()
        while not after.stopped:
            done = len(self._healed) + self._records
            self._heal([key for found in after.findings for key in _keys(found)])
            if any(after.counts.get(id, 0) > MAX_FINDINGS for id in _OF_CHUNKS):  # of so many not all were named
                self._heal(list(self._bad_chunks()))
            if any(id in after.counts for id in _RECORDS):
                self._mend_records()
            if self._dry_run or len(self._healed) + self._records == done:
                break
            after = self._check()
        wanted = {found.object for found in after.findings}  # what was tried beside those is no loss
        return RepairReport(
            dry_run=self._dry_run,
            other=self._other.path,
            healed={name.lower(): count for name, count in Counter(kind.name for kind, _ in self._healed).items()},
            objects=tuple(map(_named, self._healed)),
            records=self._records,
            lost=tuple(_named(key) for key in self._lost if key not in self._healed and key[1].hex() in wanted),
            before=before,
            after=after,
            seconds=time.monotonic() - began,
        )

    def _check(self) -> FsckReport:
        return fsck(self._store, self._scheme, read_data=True, progress=self._progress)

    def _bad_chunks(self) -> Iterator[ObjectKey]:
        """Every chunk that is damaged, or that a node leads to and is not there."""
        self._progress("looking for all damaged chunks", 0, 0)
        for reader, oid in self._keys(Space.NODE, CHECK_KEYS * self._scheme.size):  # so many ids are looked up
            with suppress(*DAMAGE):
                ids = Objects(reader, self._scheme).node(oid).ids()
                yield from ((Kind.CHUNK, one) for one in ids if not reader.has(Space.CHUNK, one))
        for reader, oid in self._keys(Space.CHUNK):
            try:
                Objects(reader, self._scheme).chunk(oid)
            except DAMAGE:
                yield Kind.CHUNK, oid

    def _keys(self, space: Space, most: int = CHECK_BATCH) -> Iterator[tuple[Reader, bytes]]:
        """Every key of a sub-database, each with a transaction, which ends after `most` bytes of values."""
        start: bytes | None = b""
        while start is not None:
            with self._store.read() as reader:
                size = 0
                keys, start = reader.keys(space, start), None
                for looked, key in enumerate(keys):
                    if size >= most or looked >= CHECK_KEYS:
                        start = key
                        break
                    size += reader.size(space, key) or 0
                    yield reader, key

    # -- objects -------------------------------------------------------------------------------------------------------

    def _heal(self, keys: list[ObjectKey]) -> None:
        """Fetch these, and whatever they lead to that is not there."""
        asked = set(keys) | self._lost.keys()
        pending = [key for key in keys[::-1] if key not in self._lost]
        while pending:
            batch: list[tuple[ObjectKey, bytes]] = []
            size = looked = 0
            with self._other.read() as reader:
                objects = Objects(reader, self._scheme)
                while pending and size < WRITE_BATCH and looked < CHECK_KEYS:
                    looked += 1
                    key = pending.pop()
                    if key in self._healed:
                        continue
                    try:
                        raw = _fetch(objects, key)
                    except DAMAGE:
                        self._lost[key] = None
                        more = [(Kind.CHUNK, oid) for oid in self._needing(key)]
                    else:
                        batch.append((key, encode(key[0], key[1], raw)))
                        size += len(batch[-1][1]) + KIB
                        self._healed[key] = None
                        more = [one for one in _leads_to(key, raw, self._scheme) if not self._has(one)]
                    more = [one for one in dict.fromkeys(more) if one not in asked]
                    asked.update(more)
                    pending += more
                    self._progress("fetching objects", len(self._healed), 0)
            self._put(batch, size)

    def _needing(self, key: ObjectKey) -> list[bytes]:
        """What is a delta over a chunk that is not to be had: the other store may hold these by themselves."""
        if key[0] is not Kind.CHUNK:
            return []
        with self._store.read() as reader:
            return list(dependants(reader, key[1]))

    def _has(self, key: ObjectKey) -> bool:
        with self._store.read() as reader:
            return reader.has(SPACE_OF[key[0]], key[1])

    def _put(self, batch: list[tuple[ObjectKey, bytes]], size: int) -> None:
        if self._dry_run or not batch:
            return
        with self._store.write(durable=True, room=size) as writer:
            for (kind, oid), frame in batch:
                if kind is Kind.CHUNK:
                    mend_chunk(writer, oid, frame)
                else:
                    writer.put(SPACE_OF[kind], oid, frame)

    # -- records -------------------------------------------------------------------------------------------------------

    def _mend_records(self) -> None:
        """Have it recorded what is a delta of what, as the frames say."""
        self._progress("looking at records of deltas", 0, 0)
        doubtful: list[tuple[bytes, bytes | None]] = []
        for space in (Space.CHUNK, Space.BASE, Space.DEPENDANT):
            found = (record_at_fault(reader, space, key, self._scheme.size) for reader, key in self._keys(space))
            doubtful += [one for one in found if one is not None]
        if self._dry_run:
            self._records += len(doubtful)
            return
        for at in range(0, len(doubtful), _RECORDS_AT_ONCE):
            some = doubtful[at : at + _RECORDS_AT_ONCE]
            with self._store.write(durable=True, room=KIB * len(some)) as writer:
                self._records += sum(mend_records(writer, oid, base) for oid, base in some)


_RECORDS_AT_ONCE: Final = 4096


def _fetch(other: Objects, key: ObjectKey) -> bytes:
    kind, oid = key
    return bytes(other.chunk(oid)) if kind is Kind.CHUNK else other.raw(kind, oid)


def _keys(found: Finding) -> Iterator[ObjectKey]:
    kind = _KINDS.get(found.id)
    if kind is not None and found.object:
        yield kind, bytes.fromhex(found.object)


def _leads_to(key: ObjectKey, raw: bytes, scheme: IdScheme) -> Iterator[ObjectKey]:
    """What an object that was fetched refers to."""
    kind, _ = key
    with suppress(*DAMAGE):  # it is what its id says; that it makes no sense is told by the check
        if kind is Kind.COMMIT:
            commit = unpack_commit(raw, scheme.size)
            yield Kind.TREE, commit.tree
            yield from ((Kind.COMMIT, parent) for parent in commit.parents)
        elif kind is Kind.TREE:
            for found in references(decode_tree(raw, scheme.size)):
                yield (Kind.NODE if isinstance(found, NodeRef) else Kind.TREE), found.id
        elif kind is Kind.NODE:
            yield from ((Kind.CHUNK, chunk) for chunk in unpack_node(raw, scheme.size).ids())


def _named(key: ObjectKey) -> str:
    return f"{key[0].name.lower()} {key[1].hex()}"
