"""Releasing what a policy drops: whole commits, or parts of them. Bytes come back when gc runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from casckpt.history.commits import CommitReader
from casckpt.history.fetch import Objects
from casckpt.history.records import BRANCH, TAG, Mark, add_mark, all_refs, get_mark, reflog_next
from casckpt.history.retention import Candidate, Keep, decide
from casckpt.history.walk import read_top, roots
from casckpt.objects.commit import CommitObject
from casckpt.objects.ids import IdScheme
from casckpt.store.protocol import Reader, Space, Store


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one commit. `reasons` are why it is kept; `released` are the parts that it loses now."""

    id: str
    step: int | None
    message: str
    kept: bool
    reasons: tuple[str, ...]
    released: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a policy decided on every commit that was not pruned already, newest first."""

    dry_run: bool
    decisions: tuple[Decision, ...]

    @property
    def kept(self) -> tuple[Decision, ...]:
        return tuple(decision for decision in self.decisions if decision.kept)

    @property
    def pruned(self) -> tuple[Decision, ...]:
        return tuple(decision for decision in self.decisions if not decision.kept)

    @property
    def changes(self) -> bool:
        """Whether anything is released at all."""
        return any(not decision.kept or decision.released for decision in self.decisions)


def prune(
    store: Store, scheme: IdScheme, known: dict[bytes, CommitObject], keep: Keep, *, dry_run: bool = False
) -> PruneReport:
    """Release what `keep` does not keep, over all lines of history, in one durable transaction.

    Raises:
        StoreFailedError
    """
    with store.read() as reader:
        seen = reflog_next(reader)
        report, marks = _decide_all(reader, scheme, known, keep, dry_run)
    if dry_run or not marks:
        return report
    with store.write(durable=True, room=None) as writer:
        if reflog_next(writer) != seen:  # a commit or tag has come since: it decides too
            report, marks = _decide_all(writer, scheme, known, keep, dry_run)
        for oid, mark in marks.items():
            if writer.has(Space.COMMIT, oid):  # else gc took it meanwhile
                add_mark(writer, oid, mark)
    return report


def _decide_all(
    reader: Reader, scheme: IdScheme, known: dict[bytes, CommitObject], keep: Keep, dry_run: bool
) -> tuple[PruneReport, dict[bytes, Mark]]:
    commits = CommitReader(Objects(reader, scheme), known)
    reasons: dict[bytes, list[str]] = defaultdict(list)
    part_reasons: dict[str, set[bytes]] = {part: set() for part in keep.parts}
    order = list(commits.walk(roots(reader)))
    names = _names(reader)
    candidates: dict[bytes, Candidate] = {}
    marks: dict[bytes, Mark] = {}
    for oid in order:
        marks[oid] = get_mark(reader, oid)
        if not marks[oid].pruned:
            candidates[oid] = Candidate(oid, commits.stored(oid), *names.get(oid, ((), ())))
    for line in _lines(commits, order, {oid for oid, (_, branches) in names.items() if branches}):
        members = [candidates[oid] for oid in line if oid in candidates]
        kept = decide(keep, members)
        for oid, found in kept.items():
            reasons[oid] += [reason for reason in found if reason not in reasons[oid]]
        for part, policy in keep.parts.items():
            whole = [c for c in members if c.id in kept and part not in marks[c.id].released]
            part_reasons[part].update(decide(policy, whole))
    changed: dict[bytes, Mark] = {}
    decisions: list[Decision] = []
    for oid, candidate in candidates.items():
        released: tuple[str, ...] = ()
        if oid not in reasons:
            changed[oid] = Mark(True, marks[oid].released)
        else:
            gone = [p for p, kept_ids in part_reasons.items() if oid not in kept_ids and p not in marks[oid].released]
            if gone:
                held = _parts(commits.objects, candidate.commit.tree)
                released = tuple(part for part in gone if part in held)
            if released:
                changed[oid] = Mark(False, (*marks[oid].released, *released))
        commit = candidate.commit
        why = tuple(reasons.get(oid, ()))
        decisions.append(Decision(oid.hex(), commit.step, commit.message, oid in reasons, why, released))
    return PruneReport(dry_run, tuple(decisions)), changed


def _names(reader: Reader) -> dict[bytes, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Tags and branches by the commit that they point to."""
    found: dict[bytes, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for ref, oid in all_refs(reader):
        tags, branches = found.get(oid, ((), ()))
        if ref.startswith(TAG):
            found[oid] = ((*tags, ref.removeprefix(TAG)), branches)
        else:
            found[oid] = (tags, (*branches, ref.removeprefix(BRANCH)))
    return found


def _lines(commits: CommitReader, order: list[bytes], tips: set[bytes]) -> list[list[bytes]]:
    """Every line of history: from each branch's tip, and from each commit that nothing else follows."""
    followed = {parent for oid in order for parent in commits.stored(oid).parents}
    starts = [oid for oid in order if oid in tips or oid not in followed]
    return [list(commits.line(start)) for start in starts]


def _parts(objects: Objects, root: bytes) -> set[str]:
    """The top-level str keys of a state."""
    return {key for key, _ in read_top(objects, root).entries or () if isinstance(key, str)}
