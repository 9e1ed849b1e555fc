"""fsck: the pages of the database, then everything small, then the chunks. It changes nothing, and holds no lock.

Pages come first, by plain reads: where they are damaged LMDB may crash, so nothing is asked of LMDB then. Each step
sees what one transaction shows (the last, several), so others may write and collect meanwhile.
"""

from __future__ import annotations

import time

from casckpt.errors import CorruptObjectError
from casckpt.history.bases import all_bases
from casckpt.history.fetch import Objects
from casckpt.history.fsck.data import Data, check_data
from casckpt.history.fsck.findings import Findings
from casckpt.history.fsck.hurt import Search
from casckpt.history.fsck.records import check_format, check_records
from casckpt.history.fsck.report import FsckReport, Looked
from casckpt.history.fsck.structure import ObjectKey, Structure
from casckpt.history.fsck.subset import Subset
from casckpt.objects.ids import IdScheme, Kind
from casckpt.store.protocol import Pages, Progress, Space, Store, no_progress

_ALL = Subset("", share=1.0)


def fsck(
    store: Store,
    scheme: IdScheme,
    *,
    read_data: bool = False,
    subset: Subset | None = None,
    progress: Progress = no_progress,
) -> FsckReport:
    """Check a store.

    read_data: read and hash every chunk too. subset: only this share of them.
    """
    return _Check(store, scheme, progress).run(subset or (_ALL if read_data else None))


class _Check:
    """One check of a store, under way."""

    def __init__(self, store: Store, scheme: IdScheme, progress: Progress) -> None:
        self._store = store
        self._scheme = scheme
        self._progress = progress
        self._findings = Findings()
        self._looked: dict[str, int] = {}
        self._bytes = 0
        self._stopped = ""

    def run(self, subset: Subset | None) -> FsckReport:
        began = time.monotonic()
        pages = self._check_pages(subset is _ALL)
        if self._findings.errors:
            self._stopped = "pages of the database are damaged, so LMDB, which might crash on them, was asked nothing"
        else:
            self._check_contents(pages, subset)
        return FsckReport(
            findings=self._findings.all(),
            counts=dict(self._findings.counts),
            looked=Looked(**self._looked),
            subset=subset.text if subset else "",
            bytes=self._bytes,
            seconds=time.monotonic() - began,
            stopped=self._stopped,
        )

    def _check_pages(self, values: bool) -> Pages | None:
        self._progress("looking at the pages of the database", 0, 0)
        pages = self._store.check_pages(values=values)
        if pages is None:
            return None
        self._looked["pages"] = pages.pages
        self._bytes += pages.read
        self._findings.pages(pages)
        return pages

    def _check_contents(self, pages: Pages | None, subset: Subset | None) -> None:
        try:
            structure = self._check_structure(pages is not None)
            if subset is not None:
                self._check_data(structure, pages, subset)
        except CorruptObjectError as error:  # damage to one object is a finding of its own; this is LMDB's
            self._findings.add("damaged-database", error.problem)
            self._stopped = "LMDB could not read on"

    # -- what is small -------------------------------------------------------------------------------------------------

    def _check_structure(self, in_file: bool) -> Structure:
        self._progress("looking at commits, trees and nodes", 0, 0)
        with self._store.read() as reader:
            objects = _Counting(reader, self._scheme)
            if in_file:
                check_format(reader, self._store, self._findings)
            records = check_records(reader, self._scheme.size, self._findings)
            structure = Structure(objects, records, self._findings)
            structure.run()
            self._bytes += objects.read
            self._looked.update(refs=records.refs, moves=records.moves, records=records.records)
            self._looked.update({f"{kind.name.lower()}s": count for kind, count in structure.counts.items()})
            self._looked["deltas"] = len(structure.bases.base)
            self._report(structure, objects)
        return structure

    def _report(self, structure: Structure, objects: Objects) -> None:
        """Make findings of what is missing or damaged, with whom it hurts."""
        suspects = structure.suspects
        search = Search(objects, suspects.keys(), structure.bases.base)
        if suspects.kept:
            self._progress("looking for what is hurt", 0, 0)
            search.history(structure.commits)
            search.states(structure.states())
        for id, kept in suspects.kept.items():
            for key, problem in kept.items():
                self._add(id, key, problem, search)
            self._findings.count(id, suspects.more.get(id, 0))

    def _add(self, id: str, key: ObjectKey, problem: str, search: Search) -> None:
        kind, oid = key
        what = problem if oid.hex() in problem else f"{kind.name.lower()} {oid.hex()}: {problem}"
        self._findings.add(id, what, object=oid.hex(), hurt=search.hurt(key))

    # -- chunks --------------------------------------------------------------------------------------------------------

    def _check_data(self, structure: Structure, pages: Pages | None, subset: Subset) -> None:
        stored = _stored(pages, self._store)
        choose = subset.chooser(structure.counts[Kind.CHUNK], stored)
        total = round(stored * subset.part(stored))
        self._progress("reading chunks", 0, total)
        data = check_data(self._store, self._scheme, structure.chunks, structure.bases, choose, total, self._progress)
        self._looked["chunks_read"] = data.chunks
        self._bytes += data.read
        if data.found:
            self._report_data(data, structure)

    def _report_data(self, data: Data, structure: Structure) -> None:
        """As `_report`, of what is there still: a chunk that was collected meanwhile hurts nobody."""
        self._progress("looking for what is hurt", 0, 0)
        with self._store.read() as reader:
            there = {
                (Kind.CHUNK, oid)
                for oid in (*data.bad, *data.lengths, *data.records)
                if reader.has(Space.CHUNK, data.missing.get(oid, oid))
            }
            objects = Objects(reader, self._scheme)
            now = Structure(objects, check_records(reader, self._scheme.size, Findings()), Findings())
            now.reach_commits()
            search = Search(objects, there, {**dict(all_bases(reader)), **data.frames})
            search.states(now.states())
            for key in sorted(there):
                oid = key[1]
                if oid in data.lengths:
                    self._add("wrong-length", key, data.lengths[oid], search)
                if oid in data.bad:
                    self._add(_bad(key, data, structure, search), key, data.bad[oid], search)
                if oid in data.records:
                    self._add(data.records[oid][0], key, data.records[oid][1], search)
        self._findings.count("damaged-chunk", len(data.causes) - len(data.bad))


def _bad(key: ObjectKey, data: Data, structure: Structure, search: Search) -> str:
    """The id of a finding on a chunk that cannot be had."""
    if search.hurt(key).commits:
        return "missing-base" if key[1] in data.missing else "damaged-chunk"
    return structure.blame(Kind.CHUNK)


class _Counting(Objects):
    """Objects, with how many bytes of frames were read."""

    read = 0

    def frame(self, kind: Kind, oid: bytes) -> memoryview:
        frame = super().frame(kind, oid)
        self.read += len(frame)
        return frame


def _stored(pages: Pages | None, store: Store) -> int:
    """About how many bytes the chunks take as they are stored."""
    if pages is None:
        return store.size().used
    chunks = pages.trees[Space.CHUNK.value.decode()]
    return (chunks.leaves + chunks.overflow) * pages.page_size
