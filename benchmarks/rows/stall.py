"""How long `commit_async` keeps training waiting, the pool warm, beside a copy and DCP's `async_save`.

What goes on in the background is waited for before the next turn, and is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import casckpt
from benchmarks.disk import check_room, remove, settle
from benchmarks.goals import Goal, Limit
from benchmarks.measure import Turn, alternate, timed
from benchmarks.outcome import Outcome, Setting
from benchmarks.peers.casckpt_store import drop_past
from benchmarks.peers.distributed import AsyncSaver
from benchmarks.rows.copying import Copy
from benchmarks.rows.row import Row
from benchmarks.states import State, change_all, change_another_tenth, change_tenth, dense, nbytes, tenth

DCP, DCP_FRESH = "DCP async_save, stager kept", "DCP async_save"


def casckpt_turn(repo: casckpt.Repository, state: State, change: Callable[[State, int], None]) -> Turn:
    """A turn of commit_async behind a change of the state."""
    number = 0

    def turn() -> float:
        nonlocal number
        number += 1
        change(state, number)
        settle()
        with timed() as watch:
            pending = repo.commit_async(state)
        assert pending is not None
        pending.result()
        drop_past(repo)
        return watch.seconds

    return turn


def dcp_turn(saver: AsyncSaver, state: State, setting: Setting) -> Turn:
    """A turn of async_save behind a change of the state."""

    def turn() -> float:
        change_all(state, 0)
        path = setting.folder / "dcp"
        settle()
        with timed() as watch:
            pending = saver.save(state, path)
        pending.result()
        remove(path)
        return watch.seconds

    return turn


def measure_dense(setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 5 * nbytes(state))
    kept, fresh = AsyncSaver(keep_stager=True), AsyncSaver(keep_stager=False)
    try:
        with casckpt.open(setting.folder / "store") as repo:
            turns = {
                "copy": Copy(state).turn,
                "casckpt": casckpt_turn(repo, state, change_all),
                DCP: dcp_turn(kept, state, setting),
                DCP_FRESH: dcp_turn(fresh, state, setting),
            }
            found = alternate(turns, repeats=setting.repeats, warm_up=2)
    finally:
        kept.close()
    return Outcome(
        {"stall": found},
        note="DCP as called by default, and with a stager that keeps its memory: then each is one copy",
    )


def measure_part(change: Callable[[State, int], None], setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 3 * nbytes(state))
    share = sum(state[name].nbytes for name in tenth(state)) / nbytes(state)
    with casckpt.open(setting.folder / "store") as repo:
        repo.commit_async(state).result()
        turns = {"copy": Copy(state).turn, "casckpt": casckpt_turn(repo, state, change)}
        found = alternate(turns, repeats=setting.repeats, warm_up=2)
    return Outcome({"stall": found}, note=f"{share:.1%} of the bytes change")


DENSE = Row(
    "stall",
    "stall of commit_async, everything changed",
    measure_dense,
    (
        Goal("`commit_async` stall, everything changed, pool warm", "stall", "casckpt", "copy", Limit(1.5), Limit(1.1)),
        *(
            Goal(title, "stall", "casckpt", peer, Limit(0.7), Limit(0.4))
            for title, peer in (
                ("`commit_async` stall against DCP `async_save`, everything changed", DCP_FRESH),
                ("the same, DCP with a stager that keeps its memory", DCP),
            )
        ),
    ),
)

TENTH = Row(
    "stall-tenth",
    "stall of commit_async, 10 % changed",
    partial(measure_part, change_tenth),
    (Goal("`commit_async` stall, 10 % changed", "stall", "casckpt", "copy", Limit(1.2), Limit(0.9)),),
)

ANOTHER_TENTH = Row(
    "stall-another-tenth", "each time another tenth changed", partial(measure_part, change_another_tenth)
)
