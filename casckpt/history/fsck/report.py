"""What a check of a store tells."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from casckpt.errors import CasckptError, CorruptObjectError, StoreBusyError, TruncatedStoreError
from casckpt.history.fsck.findings import OPENING, SEVERITIES, SORTS, Finding, Findings, Severity, finding

if TYPE_CHECKING:
    from casckpt.store.protocol import Pages

# Kinds of errors of opening a store whose cause may be in the pages of its database.
_OF_PAGES: Final = frozenset({CorruptObjectError.kind, TruncatedStoreError.kind})


@dataclass(frozen=True, slots=True)
class Looked:
    """How much was looked at: of each thing, how many the store holds; of chunks also how many were read and hashed.

    refs: branches and tags. moves: of the reflog. records: marks and figures of commits. deltas: of the chunks, those
    that are stored as one. pages: 0 where there is no file, or its pages could not be counted.
    """

    pages: int = 0
    refs: int = 0
    moves: int = 0
    records: int = 0
    commits: int = 0
    trees: int = 0
    nodes: int = 0
    chunks: int = 0
    deltas: int = 0
    chunks_read: int = 0


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What `fsck` found, the worst first.

    findings: at most MAX_FINDINGS of each id. counts: of all, by id. subset: the share of the data that was read, in
    the words in which it was asked for ("" where all or none). bytes: that were read. stopped: why the check ended
    before it was through, or "".
    """

    findings: tuple[Finding, ...]
    counts: dict[str, int]
    looked: Looked
    subset: str
    bytes: int
    seconds: float
    stopped: str

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings and infos may be."""
        return not self.number("error")

    def number(self, severity: Severity) -> int:
        """How many findings of a severity there are."""
        return sum(count for id, count in self.counts.items() if SORTS[id].severity == severity)

    def add(self, found: Finding) -> FsckReport:
        """This report with one more finding."""
        findings = sorted((found, *self.findings), key=lambda one: SEVERITIES.index(one.severity))
        counts = {**self.counts, found.id: self.counts.get(found.id, 0) + 1}
        return replace(self, findings=tuple(findings), counts=counts)


def unopened(error: CasckptError, path: str | os.PathLike[str]) -> FsckReport | None:
    """The report on a store that could not be opened; None where the error says nothing of the store's soundness.

    The pages of its database are looked at all the same, by plain reads.
    """
    if error.kind not in OPENING:
        return None
    began = time.monotonic()
    report = FsckReport((), {}, Looked(), "", 0, 0.0, "the store cannot be opened")
    pages = _pages(Path(path) / "data.mdb") if error.kind in _OF_PAGES else None
    if pages is None or not pages.found or error.kind == TruncatedStoreError.kind:
        report = report.add(finding(error.kind, error.problem))
    if pages is None:
        return report
    findings = Findings()
    findings.pages(pages)
    for found in findings.all():
        report = report.add(found)
    report = replace(report, counts={**report.counts, **findings.counts})
    return replace(report, looked=Looked(pages=pages.pages), bytes=pages.read, seconds=time.monotonic() - began)


def _pages(data: Path) -> Pages | None:
    from casckpt.store.pages import examine

    try:
        return examine(data, values=True)
    except (StoreBusyError, OSError):
        return None
