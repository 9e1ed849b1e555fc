"""What the new store will hold, decided before a byte of it is written: commits, marks, refs, and what is lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from casckpt.history.records import BRANCH, HEAD, TAG, WHOLE, Mark, Move
from casckpt.history.salvage.chunks import Chunks
from casckpt.history.salvage.evidence import Evidence, Position
from casckpt.history.salvage.lines import Lines, ancestors, line_up, tips
from casckpt.history.salvage.remains import DAMAGE, Remains
from casckpt.history.salvage.report import SalvagedRef
from casckpt.history.salvage.states import Hurt, States
from casckpt.limits import DEFAULT_CHUNK_SIZE, MAX_REF_NAME
from casckpt.objects.commit import CommitObject
from casckpt.objects.ids import Kind
from casckpt.store.protocol import Progress

PREFIX: Final = "salvaged/"
_SHORT: Final = 8
_NODES_ASKED: Final = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """marks, hurt: by old ids; marks with what salvage adds. moves: of the reflog, with new ids. refs: with new ids.
    head: the branch that HEAD names. lost: commits that history leads to; complete: whether all that it led to comes
    back."""

    lines: Lines
    states: States
    chunks: Chunks
    marks: dict[bytes, Mark]
    hurt: dict[bytes, Hurt]
    moves: list[Move]
    refs: list[SalvagedRef]
    head: str | None
    lost: tuple[bytes, ...]
    lost_refs: tuple[str, ...]
    left: tuple[bytes, ...]
    complete: bool


def make_plan(remains: Remains, evidence: Evidence, progress: Progress) -> Plan:
    """Look at all that is left, and decide."""
    positions = list(evidence.positions())
    found = _commits(remains, positions, progress)
    marks = {oid: mark for oid, mark in evidence.known_marks() if oid in found}
    states, chunks = States(remains), Chunks(remains)
    for oid, commit in by_state(found):
        states.reach(commit.tree, marks.get(oid, WHOLE))
    chunks.find(states.wanted, progress)
    states.decide(chunks)
    looked = ((oid, states.hurt(commit.tree, marks.get(oid, WHOLE))) for oid, commit in by_state(found))
    hurt = {oid: one for oid, one in looked if one is not None}
    histories = evidence.histories()
    placed = [(position, *_place(position, histories, found)) for position in positions]
    known = ancestors(found, [commit for _, commit, _ in placed if commit is not None])
    left = _leave(found, known, marks, hurt) if evidence.sure else ()
    lines = line_up(found, remains.scheme)
    for oid, one in hurt.items():
        if oid in found:
            marks[oid] = _grown(marks.get(oid, WHOLE), one)
    refs = _refs(placed, lines, known)
    counted = known if evidence.sure else found.keys()
    gone = {parent for oid in counted for parent in found[oid].parents if parent not in found}
    gone |= {position.commit for position in positions if position.commit not in found}
    lost_refs = tuple(position.ref for position, commit, _ in placed if commit is None)
    if evidence.head_lost:
        lost_refs += (HEAD.decode(),)
    return Plan(
        lines=lines,
        states=states,
        chunks=chunks,
        marks=marks,
        hurt={oid: one for oid, one in hurt.items() if oid in found},
        moves=_moves(evidence, lines),
        refs=refs,
        head=_head(evidence, refs, found),
        lost=tuple(sorted(gone)),
        lost_refs=lost_refs,
        left=left,
        complete=not (
            gone
            or lost_refs
            or any(ref.was and ref.doubt for ref in refs)
            or any(oid in hurt or lines.ids[oid] != oid for oid in counted)
        ),
    )


def by_state(commits: Mapping[bytes, CommitObject]) -> list[tuple[bytes, CommitObject]]:
    """Commits in the order in which `States` wants to be asked."""
    return sorted(commits.items(), key=lambda item: item[1].tree)


def usual_chunk_size(remains: Remains) -> int:
    """The chunk size that most nodes have, for a store whose format record is lost."""
    sizes: Counter[int] = Counter()
    for oid in islice(remains.ids(Kind.NODE), _NODES_ASKED):
        with suppress(*DAMAGE):
            sizes[remains.node(oid).chunk_size] += 1
    for size, _ in sizes.most_common():
        if size & (size - 1) == 0:
            return size
    return DEFAULT_CHUNK_SIZE


def _commits(remains: Remains, positions: Iterable[Position], progress: Progress) -> dict[bytes, CommitObject]:
    """Every commit that can be had, and what of their ancestors other stores have."""
    progress("looking at commits", 0, 0)
    found: dict[bytes, CommitObject] = {}
    asked: set[bytes] = set()
    pending = [*remains.ids(Kind.COMMIT), *(position.commit for position in positions)]
    while pending:
        oid = pending.pop()
        if oid not in asked:
            asked.add(oid)
            with suppress(*DAMAGE):
                found[oid] = remains.commit(oid)
                pending += found[oid].parents
    return found


def _place(
    position: Position, histories: Mapping[str, Iterable[bytes]], found: dict[bytes, CommitObject]
) -> tuple[bytes | None, str]:
    """The commit that a ref gets, and why it does not get its own name, or "". None where there is none for it."""
    if position.commit in found:
        return position.commit, position.doubt
    for oid in histories.get(position.ref, ()):
        if oid in found:
            return oid, f"its commit {position.commit.hex()} is lost"
    return None, ""


def _leave(
    found: dict[bytes, CommitObject], known: set[bytes], marks: dict[bytes, Mark], hurt: dict[bytes, Hurt]
) -> tuple[bytes, ...]:
    """Take away commits that were given up, which refs tell for sure, and of which there is not all any more."""
    children = Counter(parent for commit in found.values() for parent in set(commit.parents))
    tips = deque(oid for oid in found if oid not in known and not children[oid])
    left: list[bytes] = []
    while tips:
        oid = tips.popleft()
        if oid in hurt or marks.get(oid, WHOLE).pruned:
            left.append(oid)
            for parent in set(found.pop(oid).parents):
                children[parent] -= 1
                if parent in found and parent not in known and not children[parent]:
                    tips.append(parent)
    return tuple(left)


def _grown(mark: Mark, hurt: Hurt) -> Mark:
    if hurt.parts is None:
        return Mark(True, mark.released)
    return Mark(mark.pruned, tuple(sorted({*mark.released, *hurt.parts})))


# -- names -------------------------------------------------------------------------------------------------------------


def _refs(
    placed: list[tuple[Position, bytes | None, str]],
    lines: Lines,
    known: set[bytes],
) -> list[SalvagedRef]:
    """Each ref under its own name where that is not in doubt, then a branch for each tip to which none leads."""
    refs: list[SalvagedRef] = []
    names = _Names()
    for position, commit, doubt in placed:
        if commit is not None and not doubt:
            kind, _, name = position.ref.partition("/")
            refs.append(SalvagedRef(kind, name, lines.ids[commit].hex(), position.ref, ""))
            names.taken.update([name] if kind + "/" == BRANCH else [])
    for position, commit, doubt in placed:
        if commit is not None and doubt:
            name = names.free(PREFIX + position.ref.removeprefix(BRANCH), commit)
            refs.append(SalvagedRef("branch", name, lines.ids[commit].hex(), position.ref, doubt))
    for oid in tips(lines, known):
        new = lines.ids[oid]
        name = names.free(PREFIX + new.hex()[:_SHORT], new)
        refs.append(SalvagedRef("branch", name, new.hex(), "", "no branch or tag led to it"))
    return refs


class _Names:
    """The names of branches. taken: those that some have. Of many that want the same one, each gets the next number."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self._last: Counter[str] = Counter()

    def free(self, name: str, commit: bytes) -> str:
        """A name that no other branch has."""
        if len(name.encode()) > MAX_REF_NAME - _SHORT:
            name = PREFIX + commit.hex()[:_SHORT]
        while True:
            self._last[name] += 1
            number = self._last[name]
            free = name if number == 1 else f"{name}-{number}"
            if free not in self.taken:
                self.taken.add(free)
                return free


def _head(evidence: Evidence, refs: list[SalvagedRef], found: dict[bytes, CommitObject]) -> str | None:
    """The branch that HEAD named, if it is there; else one that is."""
    branches = [ref.name for ref in refs if ref.kind == "branch"]
    wanted = evidence.head or "main"
    for name in (wanted, PREFIX + wanted, "main"):
        if name in branches:
            return name
    return branches[0] if branches else None


def _moves(evidence: Evidence, lines: Lines) -> list[Move]:
    """The reflog as far as its commits are there."""
    moves: list[Move] = []
    for move in evidence.known_moves():
        if all(oid is None or oid in lines.ids for oid in (move.old, move.new)):
            old, new = (None if oid is None else lines.ids[oid] for oid in (move.old, move.new))
            moves.append(Move(move.seq, move.time, move.ref, old, new, move.action))
    return moves


def ref_of(ref: SalvagedRef) -> str:
    """The key of a ref."""
    return (BRANCH if ref.kind == "branch" else TAG) + ref.name
