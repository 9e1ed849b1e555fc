"""Stores with more free pages than used ones, made of real commits, and a look whether they hold all of them."""

from __future__ import annotations

from pathlib import Path
from random import Random

from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from tests.history.world import State, commit, load

KEPT = 4
"""Commits on main, at the steps 0 to 3."""


def state(step: int, size: int = 400_000, parts: int = 2) -> State:
    """The state of a step: a frozen run of bytes, and `parts` that are new in each step."""
    new = {f"layer {number}": Random(f"{step} {number}").randbytes(size // parts) for number in range(parts)}
    return {"model": {"frozen": Random("frozen").randbytes(size), **new}, "optimizer": {"m": b"%d" % step * 3}}


def open_history(path: Path | str, chunk_size: int | None = None) -> History:
    return History(open_store(path, chunk_size=chunk_size, codec=None if chunk_size is None else "none"))


def commit_steps(history: History, first: int, last: int, **shape: int) -> None:
    """Steps `first` to `last` - 1, at times that are the same in every run, so that their ids are too."""
    for step in range(first, last):
        commit(history, state(step, **shape), f"at {step}", step=step, time=10**18 + step)


def waste(history: History, commits: int = 3 * KEPT, **shape: int) -> None:
    """Commits on a branch that is taken away again, and collected."""
    home = history.current_branch
    history.switch("waste", create=True)
    commit_steps(history, 1000, 1000 + commits, **shape)
    history.switch(home)
    history.delete_branch("waste")
    history.expire_reflog(branch="waste")
    assert history.gc().commits == commits


def make(path: Path, chunk_size: int = 16384, **shape: int) -> None:
    """A store with `KEPT` commits, and the free pages of three times as many."""
    with open_history(path, chunk_size) as history:
        commit_steps(history, 0, KEPT, **shape)
        waste(history, **shape)


def check(history: History, steps: int = KEPT, branch: str = "main", **shape: int) -> None:
    """Look that every commit of the branch is there, and every byte of it."""
    found = list(history.log(branch))
    assert [one.step for one in found] == list(range(steps))[::-1]
    for one in found:
        assert one.step is not None
        assert load(history, one.id) == state(one.step, **shape)


def sound(history: History) -> bool:
    """Whether fsck finds no trouble, having read every page and every chunk; a commit in flight is none."""
    report = history.fsck(read_data=True)
    return report.number("error") == report.number("warning") == 0
