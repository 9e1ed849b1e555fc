"""What a check can find: a stable id for each kind, how bad it is, what it means and what to do.

`docs/reference/findings.md` says the same for people. An id, once released, never comes to mean something else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from casckpt.errors import CorruptObjectError, NewerFormatError
from casckpt.limits import MAX_FINDINGS

if TYPE_CHECKING:
    from casckpt.store.protocol import Pages

Severity = Literal["error", "warning", "info"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")

# What reading something damaged raises. Whatever else it raises is no finding: it ends the check.
DAMAGE: Final = (CorruptObjectError, NewerFormatError)


@dataclass(frozen=True, slots=True)
class Sort:
    """What all findings of one id have in common."""

    severity: Severity
    meaning: str
    remedy: str


_BACKUP = "Restore the store from a backup, or make a new one of what it still holds: `casckpt salvage`."
_STOP = (
    "Stop writing to the store. Restore it from a backup, or make a new one of what it still holds: `casckpt salvage`, "
    "`--with` the backup."
)
_ELSEWHERE = (
    "Fetch it from a backup: `casckpt fsck --repair-from`. Or load another commit, or the parts that are not hurt, or "
    "make a new store of all that is whole: `casckpt salvage`."
)
_LINE = (
    "Fetch it from a backup: `casckpt fsck --repair-from`. Or make a new store without it: `casckpt salvage`. Commits "
    "that do not lead here can still be loaded and exported."
)

SORTS: Final[dict[str, Sort]] = {
    # -- opening: the kinds of the errors that opening a store raises
    "truncated-store": Sort("error", "The file ends before its contents do: it was cut short.", _BACKUP),
    "history-lost": Sort(
        "error",
        "Changes that were acknowledged are not in the file, or the file is that of another store.",
        "Restore the store from a backup, or go on from what is there with `casckpt fsck --accept-loss`.",
    ),
    "corrupt-object": Sort("error", "The heads of the file, or the record of its format, cannot be read.", _BACKUP),
    "not-a-store": Sort("error", "Something else than a store is at this path.", "Give the path of a store."),
    "newer-format": Sort(
        "error",
        "The store was written by a later casckpt.",
        "Use that one, or a later one. Where none ever wrote to it, the number of its format is damaged: make a new "
        "store of what it holds with `casckpt salvage`.",
    ),
    "store-lock-lost": Sort(
        "error",
        "Other processes have the store open, but LMDB's lock is gone: writing now would tear the store.",
        "End those processes, then check again. Copy a store with `casckpt backup` only.",
    ),
    "loss-accepted": Sort(
        "warning",
        "Acknowledged changes are missing, and that was accepted: the store goes on from what it holds.",
        "Look with `casckpt log` and `casckpt reflog` at what is there.",
    ),
    # -- the pages of the database
    "damaged-page": Sort("error", "A page is not as LMDB writes it: LMDB may crash on it, or show nonsense.", _STOP),
    "shared-page": Sort("error", "A page is reached in two ways: changing the one thing changes the other.", _STOP),
    "disordered-keys": Sort("error", "Keys are not where LMDB looks for them, so it does not find them.", _STOP),
    "wrong-tree-figures": Sort("error", "A tree has other pages or entries than its head says.", _STOP),
    "missing-database": Sort("error", "One of the store's sub-databases is not there.", _STOP),
    "unknown-database": Sort("error", "There is a sub-database that no casckpt makes.", _STOP),
    "damaged-free-list": Sort("error", "The list of pages that may be used again cannot be.", _STOP),
    "free-page-in-use": Sort("error", "A page in use is on the free list: what is written next destroys it.", _STOP),
    "damaged-database": Sort("error", "LMDB cannot read on, though each page by itself is well-formed.", _STOP),
    "leaked-pages": Sort(
        "info", "Pages are neither in use nor free. Nothing is wrong but their room.", "`casckpt compact` drops them."
    ),
    # -- the records
    "damaged-format": Sort(
        "error", "The record of the store's format is not what it was: the store cannot be opened again.", _STOP
    ),
    "damaged-ref": Sort("error", "HEAD, or the name of a branch or tag, cannot be read.", _BACKUP),
    "dangling-ref": Sort(
        "error",
        "A branch or tag leads to a commit that is not there.",
        "Fetch the commit from a backup: `casckpt fsck --repair-from`. Or find where it was with `casckpt reflog`, and "
        "delete it: `casckpt branch --delete`, `casckpt tag --delete`.",
    ),
    "ref-at-pruned-commit": Sort(
        "info", "A branch or tag is at a commit whose state is no longer kept.", "Nothing, or move or delete it."
    ),
    "unborn-head": Sort(
        "info", "HEAD names a branch that has no commit yet.", "Nothing, or choose one with `casckpt switch`."
    ),
    "damaged-reflog-entry": Sort("error", "A move in the reflog cannot be read; gc refuses to run.", _BACKUP),
    "dangling-reflog-entry": Sort(
        "error",
        "A move in the reflog leads to a commit that is not there; gc refuses to run.",
        "Fetch the commit from a backup: `casckpt fsck --repair-from`. Or expire it: `casckpt reflog --expire`.",
    ),
    "ref-against-reflog": Sort(
        "warning",
        "A branch or tag is not where the reflog last saw it go.",
        "Compare `casckpt reflog` with `casckpt branch` and `casckpt tag`; make it anew where it should be.",
    ),
    "damaged-mark": Sort("error", "What retention released of a commit cannot be read.", _BACKUP),
    "damaged-figures": Sort("error", "The figures of a commit cannot be read, and so the log cannot.", _BACKUP),
    "damaged-counter": Sort("error", "A counter cannot be read, or is behind what it counts.", _BACKUP),
    "stray-record": Sort(
        "info", "Marks or figures of commits that are gone, as an interrupted gc leaves them.", "`casckpt gc`."
    ),
    "stray-key": Sort(
        "warning",
        "An entry stands under a key that is none of ours.",
        "gc leaves it where it is. If nobody put it there, a bit of its key flipped, and what is missing under the "
        "right one is only here: restore the store from a backup, or make a new one of what it still holds: "
        "`casckpt salvage`.",
    ),
    # -- the objects
    "missing-commit": Sort("error", "A commit that history leads to is not there.", _LINE),
    "damaged-commit": Sort("error", "A commit is not what its id says.", _LINE),
    "missing-tree": Sort("error", "A part of a kept state's tree is not there.", _ELSEWHERE),
    "damaged-tree": Sort("error", "A part of a kept state's tree is not what its id says.", _ELSEWHERE),
    "missing-node": Sort("error", "The list of a storage's chunks is not there.", _ELSEWHERE),
    "damaged-node": Sort("error", "The list of a storage's chunks is not what its id says.", _ELSEWHERE),
    "missing-chunk": Sort("error", "Bytes of a kept state are not there.", _ELSEWHERE),
    "damaged-chunk": Sort("error", "Bytes of a kept state are not what their id says.", _ELSEWHERE),
    "missing-base": Sort("error", "A chunk that chunks of kept states are deltas of is not there.", _ELSEWHERE),
    "endless-chain": Sort(
        "error", "Chunks of kept states are deltas over too many others, or over themselves.", _ELSEWHERE
    ),
    "missing-base-record": Sort(
        "error",
        "It is not recorded what a chunk is a delta of, so that gc could delete what it needs.",
        "Run no gc and no prune. Have it mended: `casckpt fsck --repair-from` a backup, or `casckpt salvage`.",
    ),
    "stray-base-record": Sort(
        "warning",
        "A chunk is recorded as a delta of another, and is none.",
        "Nothing is lost by it; the other may be kept for longer than it is needed.",
    ),
    "wrong-length": Sort("error", "A storage, or a chunk of one, has another length than it must have.", _ELSEWHERE),
    "impossible-state": Sort("error", "A state's parts contradict each other, so it cannot be loaded.", _ELSEWHERE),
    "damaged-unreferenced": Sort(
        "warning", "An object that nothing leads to is not what its id says.", "`casckpt gc` removes it."
    ),
    "unreferenced-objects": Sort(
        "info",
        "Objects that nothing leads to: of saves that never ended or are under way, or released by prune.",
        "`casckpt gc` gives back what is not of a save under way.",
    ),
}

# Kinds of errors of opening a store that say that something is wrong with it, rather than with here and now.
OPENING: Final = frozenset(
    {"truncated-store", "history-lost", "corrupt-object", "not-a-store", "newer-format", "store-lock-lost"}
)


@dataclass(frozen=True, slots=True)
class HurtCommit:
    """A commit that a finding hurts: its id in hex, and its step."""

    id: str
    step: int | None


@dataclass(frozen=True, slots=True)
class Hurt:
    """What a finding hurts. commits: the newest first. paths: into their states, "" being all of a state. more_*: how
    many at least are not named here."""

    commits: tuple[HurtCommit, ...] = ()
    more_commits: int = 0
    paths: tuple[str, ...] = ()
    more_paths: int = 0


NOTHING: Final = Hurt()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    id: what sort of thing, by a name that stays. what: the very thing, in words. object: its id in hex, where it is an
    object. hurt: which commits, and what in them.
    """

    id: str
    severity: Severity
    what: str
    meaning: str
    remedy: str
    object: str = ""
    hurt: Hurt = NOTHING


def finding(id: str, what: str, *, object: str = "", hurt: Hurt = NOTHING) -> Finding:
    """A finding with what all of its id have in common."""
    sort = SORTS[id]
    return Finding(id, sort.severity, what, sort.meaning, sort.remedy, object, hurt)


class Findings:
    """What was found so far: the first MAX_FINDINGS of each id, and how many there are of each."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Finding]] = {}
        self.counts: Counter[str] = Counter()

    def add(self, id: str, what: str, *, object: str = "", hurt: Hurt = NOTHING) -> None:
        self.counts[id] += 1
        kept = self._kept.setdefault(id, [])
        if len(kept) < MAX_FINDINGS:
            kept.append(finding(id, what, object=object, hurt=hurt))

    def count(self, id: str, more: int) -> None:
        """So many more of an id, of which nothing else is known."""
        if more:
            self.counts[id] += more

    def pages(self, pages: Pages) -> None:
        """What a look at the pages of the database found."""
        for fault in pages.faults:
            self.add(fault.kind, f"page {fault.page} ({fault.tree}): {fault.problem}")
        self.count("damaged-page", pages.found - len(pages.faults))
        if pages.leaked and not pages.found:
            self.add("leaked-pages", f"{pages.leaked} pages of {pages.page_size} bytes")

    @property
    def errors(self) -> bool:
        """Whether there is an error among them."""
        return any(SORTS[id].severity == "error" for id in self.counts)

    def all(self) -> tuple[Finding, ...]:
        """What was kept, the worst first, those of one id together."""
        order = sorted(self._kept, key=lambda name: SEVERITIES.index(SORTS[name].severity))
        return tuple([found for id in order for found in self._kept[id]])
