"""Small stores to play on, with all that a race may be about: deltas, branches, tags, what is pruned, what is dead.

Made once, copied for each game.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit
from tests.trials.races.moves import CHUNK, state

COUNT = 4


@dataclass(slots=True)
class Ledger:
    """What is known of the commits of a store. states: by id, the number of the state. released: ids that prune said it
    released. dead: ids that nothing led to any more when the game began. maybe: states of commits that a process was
    making when it was killed. is_any_released: whether one was killed that pruned."""

    states: dict[str, int] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    dead: list[str] = field(default_factory=list)
    maybe: list[int] = field(default_factory=list)
    is_any_released: bool = False

    def copy(self) -> Ledger:
        return Ledger(dict(self.states), set(self.released), list(self.dead))


def make(path: Path, number: int) -> Ledger:
    """The template of that number."""
    ledger = Ledger()
    with History(open_store(path, chunk_size=CHUNK, codec=("auto", "small")[number % 2])) as history:

        def save(*states: int) -> None:
            for one in states:
                codec = history.store.format.codec
                ledger.states[commit(history, state(one), step=one, codec=codec).id] = one

        def begin(branch: str, at: str, *states: int) -> None:
            history.branch(branch, at=at)
            history.switch(branch)
            save(*states)

        save(0, 1, 2, 3, 4)
        begin("a", "HEAD~2", 3, 6)
        begin("b", "main", 5, 6, 7)
        if number >= 2:
            ledger.released |= {one.id for one in history.prune(Keep(last=2)).pruned}
        begin("left", "a", 8, 9, 1, 10)
        ledger.dead = [one.id for one in history.log("left", limit=4)]
        history.switch("main")
        history.tag("v1", at="main")
        if number % 2:  # a line that only the reflog remembers
            save(11, 7)
            history.rollback("HEAD~2")
        history.delete_branch("left")
        _forget(history, keep="main" if number % 2 else None)
    return ledger


def _forget(history: History, keep: str | None) -> None:
    """Expire the reflog, but for that of one branch."""
    for branch in ("main", "a", "b", "left"):
        if branch != keep:
            history.expire_reflog(branch=branch)


def copy(template: Path, path: Path) -> None:
    """A store like the template, which nobody has open."""
    path.mkdir()
    for name in ("data.mdb", "gate", "mark"):
        shutil.copy(template / name, path / name)
