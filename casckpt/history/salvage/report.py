"""What salvage tells: what came back, under which names, and what did not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SalvagedRef:
    """A branch or tag of the new store. was: the name that it had; "" for a branch that is made for a commit to which
    no other leads. doubt: why it has not its own name, or not its own commit; "" where it has both."""

    kind: str
    name: str
    commit: str
    was: str
    doubt: str


@dataclass(frozen=True, slots=True)
class HurtState:
    """A commit of which not all of the state came back.

    commit: its id in the new store. parts: the parts that are lost, and marked as released; () where all of it is, and
    the commit is marked pruned. lost: objects that are, "chunk" and an id in hex and so on; at most 100.
    """

    commit: str
    step: int | None
    parts: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SalvageReport:
    """What salvage did, or with `dry_run` would do. Ids are hex.

    source, destination: paths. bytes: of the file. commits: that came back; whole: of these, those whose state did, as
    far as retention had not released it. chunks, trees, nodes: that came back. stored_bytes: of their frames. taken: of
    all, those that came from other stores. format_found: whether the format record was found, so that nothing of it is
    guessed. refs: what the new store has. lost_refs: names of which no commit is left; "HEAD" where it is lost which
    branch that named. hurt: commits that lost something of their state. lost_commits: that history leads to, and that
    are nowhere. rewritten: old id to new one, of commits whose ancestors are not all there. left: commits to which
    nothing led any more, and whose state is not whole; they were left out. complete: whether all that history led to
    came back, under its own names.
    """

    dry_run: bool
    source: str
    destination: str
    bytes: int
    commits: int
    whole: int
    trees: int
    nodes: int
    chunks: int
    stored_bytes: int
    taken: int
    format_found: bool
    refs: tuple[SalvagedRef, ...]
    lost_refs: tuple[str, ...]
    hurt: tuple[HurtState, ...]
    lost_commits: tuple[str, ...]
    rewritten: dict[str, str]
    left: tuple[str, ...]
    complete: bool
    seconds: float
