"""What a check of a store tells."""

from __future__ import annotations

from dataclasses import dataclass, replace

from casckpt.errors import CasckptError
from casckpt.history.fsck.findings import OPENING, SEVERITIES, SORTS, Finding, Severity, finding


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


def unopened(error: CasckptError) -> FsckReport | None:
    """The report on a store that could not be opened; None where the error says nothing of the store's soundness."""
    if error.kind not in OPENING:
        return None
    nothing = FsckReport((), {}, Looked(), "", 0, 0.0, "the store cannot be opened")
    return nothing.add(finding(error.kind, error.problem))
