"""What a store must show: a pure model, moved on by what a story announces and by what is acknowledged to it.

It knows commits by their steps, of which no two are the same, and learns their ids. It must not ask casckpt anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec


@dataclass(frozen=True, slots=True)
class Act:
    """One operation of a story: all that it takes to do it, and to say what it changes.

    step: of the first commit that it makes, `count` one after the other. at: the step of the commit that it is about.
    ref: the branch or tag that it is about. keep: how many commits a policy keeps.
    """

    name: str
    step: int = 0
    count: int = 1
    at: int = 0
    ref: str = ""
    keep: int = 0
    codec: str | None = None


class _Said(msgspec.Struct, omit_defaults=True):
    act: Act | None = None
    ids: list[str] | None = None


_decode = msgspec.json.Decoder(_Said).decode


def announcement(act: Act) -> bytes:
    """A line that says that an act is about to begin."""
    return msgspec.json.encode(_Said(act=act)) + b"\n"


def acknowledgement(ids: list[str]) -> bytes:
    """A line that says that it is done, with the ids of the commits that it made."""
    return msgspec.json.encode(_Said(ids=ids)) + b"\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """A commit. parent: its step. id: hex; empty while only the store knows."""

    parent: int | None
    branch: str
    id: str = ""
    pruned: bool = False
    released: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Shown:
    """A commit as a store shows it. parents: their ids."""

    step: int | None
    parents: tuple[str, ...]
    branch: str
    message: str
    pruned: bool
    released: frozenset[str]


@dataclass(frozen=True, slots=True)
class View:
    """All that a store shows of its history. refs: "branch/NAME" or "tag/NAME" to an id; moves: the oldest first."""

    head: str
    refs: dict[str, str]
    moves: list[tuple[str, str | None, str | None]]
    commits: dict[str, Shown]


def message_of(step: int) -> str:
    """What the commit of a step is called."""
    return f"at step {step}"


THINNED = "optimizer"
"""The part that "thin" releases."""


@dataclass(slots=True)
class Model:
    """What was acknowledged of a story, and the act in flight. `seed` determines the story and its states."""

    seed: int
    turn: int = 0
    next: int = 0
    """The step of the next commit."""
    made: bool = False
    """Whether it was acknowledged that there is a store."""
    open: bool = False
    head: str = "main"
    commits: dict[int, Entry] = field(default_factory=dict)
    refs: dict[str, int] = field(default_factory=dict)
    moves: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    copied: Model | None = None
    """What the newest backup must show."""
    exported: int | None = None
    """The step whose state the exported file must hold."""
    doing: Act | None = None

    # -- what is told --------------------------------------------------------------------------------------------------

    def hear(self, line: bytes) -> None:
        """Take in an announcement or an acknowledgement."""
        said = _decode(line)
        if said.act is not None:
            self.announce(said.act)
        else:
            self.acknowledge(said.ids or [])

    def announce(self, act: Act) -> None:
        """This begins now."""
        assert self.doing is None
        self.doing = act
        self.turn += 1

    def acknowledge(self, ids: list[str]) -> None:
        """What was announced is done; ids: of the commits that it made."""
        act = self.doing
        assert act is not None
        self.become(self.stages()[-1])
        for step, oid in enumerate(ids, act.step):
            self.commits[step] = replace(self.commits[step], id=oid)

    def become(self, other: Model) -> None:
        """Be as one of `stages`, with nothing in flight."""
        self.made, self.open, self.head, self.next = other.made, other.open, other.head, other.next
        self.commits, self.refs, self.moves = other.commits, other.refs, other.moves
        self.copied, self.exported, self.doing = other.copied, other.exported, None

    def copy(self) -> Model:
        """One that can be moved on by itself."""
        return replace(self, commits=dict(self.commits), refs=dict(self.refs), moves=list(self.moves))

    def stages(self) -> list[Model]:
        """What may be there while the act in flight is done, from all as before to all done."""
        now = self.copy()
        found = [now.copy()]
        for _ in () if self.doing is None else now._do(self.doing):
            found.append(now.copy())
        return found

    # -- what acts do --------------------------------------------------------------------------------------------------

    def _do(self, act: Act) -> Iterator[None]:
        """Do it, and stop where it is seen by others."""
        if act.name == "open":
            self.open = self.made = True
        elif act.name == "close":
            self.open = False
        elif act.name in ("commit", "commit behind"):
            for step in range(act.step, act.step + act.count):
                yield from self._commit(step)
            return
        elif act.name in ("branch", "tag"):
            self._move(f"{act.name}/{act.ref}", act.at)
        elif act.name == "switch":
            self.head = act.ref
        elif act.name == "switch to new":
            self._move(f"branch/{act.ref}", self.refs[f"branch/{self.head}"])
            yield
            self.head = act.ref
        elif act.name == "rollback":
            self._move(f"branch/{self.head}", act.at)
        elif act.name == "delete branch":
            self._move(f"branch/{act.ref}", None)
        elif act.name == "delete tag":
            self._move(f"tag/{act.ref}", None)
        elif act.name == "expire":
            self.moves = [move for move in self.moves if act.ref and move[0] != f"branch/{act.ref}"]
        elif act.name == "prune":
            self._prune(act.keep)
        elif act.name == "thin":
            self._thin(act.keep)
        elif act.name == "backup":
            self.copied = replace(self.copy(), copied=None, exported=None, doing=None, open=False)
        elif act.name == "export":
            self.exported = act.at
        else:
            assert act.name in ("gc", "compact", "repack"), act
        yield

    def _commit(self, step: int) -> Iterator[None]:
        ref = f"branch/{self.head}"
        self.commits[step] = Entry(self.refs.get(ref), self.head)
        self._move(ref, step)
        self.next = step + 1
        yield

    def _move(self, ref: str, to: int | None) -> None:
        self.moves.append((ref, self.refs.get(ref), to))
        if to is None:
            del self.refs[ref]
        else:
            self.refs[ref] = to

    def _prune(self, last: int) -> None:
        kept = self._named()
        for line in self._lines():
            kept.update([step for step in line if not self.commits[step].pruned][:last])
        for step in self.reachable() - kept:
            self.commits[step] = replace(self.commits[step], pruned=True)

    def _thin(self, last: int) -> None:
        kept = self._named()
        whole = [step for step in self.reachable() if not self.commits[step].pruned]
        for line in self._lines():
            kept.update([step for step in line if step in whole and not self.commits[step].released][:last])
        for step in whole:
            if step not in kept:
                self.commits[step] = replace(self.commits[step], released=frozenset({THINNED}))

    # -- what is there -------------------------------------------------------------------------------------------------

    def reachable(self) -> set[int]:
        """The commits that a ref or the reflog leads to."""
        left = [*self.refs.values(), *[step for move in self.moves for step in move[1:] if step is not None]]
        found: set[int] = set()
        while left:
            step = left.pop()
            if step not in found:
                found.add(step)
                parent = self.commits[step].parent
                left += [] if parent is None else [parent]
        return found

    def whole(self) -> list[int]:
        """The commits whose state is there, but for released parts; in order."""
        return sorted(step for step in self.reachable() if not self.commits[step].pruned)

    def names(self, kind: str) -> list[str]:
        """Of all branches or tags."""
        return [ref.partition("/")[2] for ref in self.refs if ref.startswith(f"{kind}/")]

    def _named(self) -> set[int]:
        return set(self.refs.values())

    def _lines(self) -> Iterator[list[int]]:
        """Over first parents: from each branch, and from each commit that nothing follows; the newest first."""
        there = self.reachable()
        tips = {step for ref, step in self.refs.items() if ref.startswith("branch/")}
        for start in tips | (there - {self.commits[step].parent for step in there}):
            line, step = [], start
            while step is not None:
                line.append(step)
                step = self.commits[step].parent
            yield line

    # -- what a store shows --------------------------------------------------------------------------------------------

    def differs(self, view: View) -> str:
        """How a store is not as this model, in words; empty where it is. Where it is, ids not yet known are learned."""
        ids: dict[int | None, str] = {}
        for oid, shown in view.commits.items():
            if shown.step in ids:
                return f"step {shown.step} was committed twice: {ids[shown.step]}, {oid}"
            ids[shown.step] = oid
        there = self.reachable()
        if set(ids) != there:
            return f"lost steps {sorted(there - set(ids))}, extra steps {sorted(map(str, set(ids) - there))}"
        for step in there:
            entry, oid = self.commits[step], ids[step]
            if entry.id and entry.id != oid:
                return f"step {step} is {oid}, not {entry.id}"
            parents = () if entry.parent is None else (ids[entry.parent],)
            expected = Shown(step, parents, entry.branch, message_of(step), entry.pruned, entry.released)
            if view.commits[oid] != expected:
                return f"{oid} shows {view.commits[oid]}, not {expected}"
        if view.refs != (refs := {ref: ids[step] for ref, step in self.refs.items()}):
            return f"refs are {view.refs}, not {refs}"
        moves = [(ref, *[None if step is None else ids[step] for step in (old, new)]) for ref, old, new in self.moves]
        if view.moves != moves:
            return f"the reflog is {view.moves}, not {moves}"
        if view.head != self.head:
            return f"HEAD is {view.head}, not {self.head}"
        for step in there:
            self.commits[step] = replace(self.commits[step], id=ids[step])
        return ""
