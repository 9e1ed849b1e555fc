"""Whatever the order in which processes come to one store, nothing is lost; the long run tries far more of the same."""

from __future__ import annotations

import pytest

from tests.trials.races import COPIES, CROWD, FORCED, INTERLEAVINGS, THREADS
from tests.trials.races.children import BrokenPromiseError
from tests.trials.races.controls import BREAKS, CONTROLS
from tests.trials.races.copies import copies
from tests.trials.races.crowd import ROUND, crowd
from tests.trials.races.forced import RACES, play
from tests.trials.races.interleavings import game_of, table
from tests.trials.recipe import tried

# What the games at a table do not try.
OF_OTHERS = ("what is there is called pruned", "nobody looks whether it is whole")


def test_processes_come_in_any_order_and_nothing_is_lost(tmp_path) -> None:
    outcomes = tried(INTERLEAVINGS, range(60), tmp_path)
    assert outcomes.total() == 60
    assert sum(count for label, count in outcomes.items() if "gc took chunks" in label) > 30
    for refusal in ("PrunedCommitError", "RefMovedError", "StoreBusyError", "one was killed"):
        assert any(refusal in label for label in outcomes), f"nobody met: {refusal}"


def test_each_race_is_forced_and_nothing_is_lost(tmp_path) -> None:
    outcomes = tried(FORCED, range(70), tmp_path)
    assert outcomes.total() == 70
    came = {race: [label for label in outcomes if label.startswith(f"{race}: ")] for race in RACES}
    for race, labels in came.items():
        assert any("held, gc took chunks" in label for label in labels), f"never a race: {race}"
    for race in ("a hit on what gc deletes", "collected under a hit"):
        assert any("held, gc took chunks, hit" in label for label in came[race]), f"no hit: {race}"
    assert any("base" in label.partition(": ")[2] for label in came["a base released under a save"])


def test_a_copy_of_the_folder_made_by_cp_while_others_write_is_whole_or_refused(tmp_path) -> None:
    outcomes = tried(COPIES, range(25), tmp_path)
    assert outcomes.total() == 25 and outcomes["opened: whole"] >= 5
    assert sum(count for label, count in outcomes.items() if label.startswith("refused")) >= 5


def test_threads_that_share_a_repository_and_children_that_are_forked_amid_them_lose_nothing(tmp_path) -> None:
    outcomes = tried(THREADS, range(3), tmp_path)
    assert outcomes.total() == 3 and outcomes["closed under its threads"] == 1


@pytest.mark.parametrize("control", [one for one in CONTROLS if one not in OF_OTHERS])
def test_what_would_lose_something_is_seen(tmp_path, control) -> None:
    with table(tmp_path, control) as at, pytest.raises(BrokenPromiseError, match=BREAKS[control]):
        for seed in range(150):
            at.play(game_of(seed, at.ledger))


def test_a_forced_race_sees_what_would_lose_something(tmp_path) -> None:
    control = "gc does not look again"
    with table(tmp_path, control) as at, pytest.raises(BrokenPromiseError, match=BREAKS[control]):
        for seed in range(0, 10 * len(RACES), len(RACES)):  # a hit on what gc deletes
            play(at, seed)


def test_a_crowd_sees_what_would_lose_something(tmp_path) -> None:
    control = "a ref moves without a look"
    lost = "what the writers committed to one branch is not what is there|commit .* is missing from the store"
    with pytest.raises(BrokenPromiseError, match=lost):
        for seed in range(5):
            crowd(seed, tmp_path, 3, control)


def test_a_crowd_sees_that_what_is_there_is_called_gone(tmp_path) -> None:
    control = "what is there is called pruned"
    with pytest.raises(BrokenPromiseError, match=BREAKS[control]):
        for seed in range(10):
            crowd(seed, tmp_path, 2, control)


def test_a_copied_folder_that_nobody_looks_through_is_seen(tmp_path) -> None:
    control = "nobody looks whether it is whole"
    with pytest.raises(AssertionError, match=BREAKS[control]):
        list(copies(range(100), tmp_path, control))


def test_a_crowd_on_one_store_for_a_minute_loses_nothing(tmp_path) -> None:
    outcomes = tried(CROWD, range(3), tmp_path)
    assert outcomes.total() == 3 * ROUND and any("contended" in label for label in outcomes)
