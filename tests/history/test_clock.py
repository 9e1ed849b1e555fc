"""Whatever the clock does, what is live stays, and the order of things is the order in which they came (I2)."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from casckpt.errors import UnknownRevisionError
from casckpt.history.records import Move, older
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from tests.history.world import commit, load

HOUR = 3600 * 10**9
NOW = time.time_ns()


def state(number: int) -> dict[str, dict[str, bytes]]:
    return {"model": {"w": bytes([number]) * 700}}


def at(history: History, number: int, when: int) -> str:
    return commit(history, state(number), step=number, time=when).id


def test_a_parent_that_is_dated_after_its_children_is_kept_and_shown_behind_them(history) -> None:
    dates = [NOW, NOW - 500 * HOUR, NOW + 9000 * HOUR, NOW - HOUR, 0, NOW + HOUR]
    made = [at(history, number, when) for number, when in enumerate(dates)]
    assert [one.id for one in history.log()] == made[::-1]
    assert history.resolve("HEAD~3").id == made[2] and history.resolve("step:1").id == made[1]
    history.prune(Keep(last=3))
    history.expire_reflog()
    assert history.gc().chunks > 0
    assert [one.pruned for one in history.log()] == [False] * 3 + [True] * 3
    for number in (3, 4, 5):
        assert load(history, made[number]) == state(number)


def test_what_is_committed_after_the_clock_was_set_back_is_kept_by_its_own_spans(history) -> None:
    day = [NOW + hour * HOUR for hour in range(4)]
    made = [at(history, number, when) for number, when in enumerate([*day, *day])]  # the second four: set back by 4 h
    assert not history.prune(Keep(every="1h")).pruned
    again = [at(history, 10 + number, NOW + number * HOUR + 60 * 10**9) for number in range(4)]
    twice = [at(history, 20 + number, NOW + 3 * HOUR + number * 10**9 + HOUR // 2) for number in range(3)]
    pruned = {one.id for one in history.prune(Keep(every="1h", branches=False)).pruned}
    assert not pruned & {*made, *again} and pruned <= set(twice)
    assert not history.prune(Keep(every="1h", branches=False)).pruned  # twice is once


@pytest.fixture
def clock(monkeypatch) -> list[int]:
    """What the clock shows."""
    shown = [NOW]
    monkeypatch.setattr(time, "time_ns", lambda: shown[0])
    return shown


def test_moves_that_a_clock_set_back_dates_long_ago_are_not_forgotten_as_old(history, clock) -> None:
    made = []
    for number, when in enumerate([NOW - 900 * HOUR, NOW - HOUR, NOW - 5000 * HOUR, NOW - 4999 * HOUR]):
        clock[0] = when
        made.append(at(history, number, when))
    history.rollback("HEAD~3")
    assert history.expire_reflog(older_than=timedelta(days=2)) == 1  # the first: what follows the second is younger
    assert history.gc().commits == 0
    for number, oid in enumerate(made):
        assert load(history, oid) == state(number)


def test_moves_that_are_dated_in_the_future_keep_no_others_and_stay(history, clock) -> None:
    clock[0] = NOW + 5000 * HOUR
    at(history, 0, NOW)
    clock[0] = NOW - 5000 * HOUR
    at(history, 1, NOW)
    clock[0] = NOW - 4000 * HOUR
    at(history, 2, NOW)
    assert history.expire_reflog(older_than=timedelta(days=2)) == 2
    assert len(history.reflog()) == 1
    assert history.expire_reflog() == 1


def test_older_is_what_came_before_the_first_that_is_younger() -> None:
    def move(seq: int, when: float) -> Move:
        return Move(seq, int(when * 1e9), "branch/main", None, None, "commit")

    dates = [10.0, 500.0, 20.0, 90.0, 30.0]
    moves = [move(seq, when) for seq, when in enumerate(dates)]
    assert [one.seq for one in older(moves, 50.0, 100.0)] == [0, 2]
    assert [one.seq for one in older(moves, 95.0, 100.0)] == [0, 2, 3, 4]
    assert [one.seq for one in older(moves, 5.0, 100.0)] == []


def test_a_place_in_the_reflog_behind_a_gap_is_unknown_and_never_another_commit(history, clock) -> None:
    made = []
    for number, when in enumerate([NOW + 5000 * HOUR, NOW - 5000 * HOUR, NOW - HOUR]):
        clock[0] = when
        made.append(at(history, number, when))
    assert history.resolve("main@{2}").id == made[0]
    history.expire_reflog(older_than=timedelta(days=2))
    assert history.resolve("main@{1}").id == made[1]
    with pytest.raises(UnknownRevisionError, match="does not go back that far"):
        history.resolve("main@{2}")
