"""The tier of CI of commands that are cut short: some calls of each; and that what they must not do is seen."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.native import AFTER, BEFORE
from tests.trials.commands import COMMANDS
from tests.trials.interrupted import BREAKS, RECIPES, seed_to_fail, seed_to_kill, trials
from tests.trials.recipe import tried

KILLED, FAILING = RECIPES


def test_a_command_that_is_killed_leaves_nothing_half_made_and_is_done_when_it_is_given_again(tmp_path: Path) -> None:
    seeds = [seed_to_kill(name, (BEFORE, AFTER)[at % 2], 2 * at + 1) for at, name in enumerate(COMMANDS)]
    found = tried(KILLED, [*seeds, seed_to_kill("repair", None, 0), seed_to_kill("salvage", None, 0)], tmp_path)
    for name in COMMANDS:
        assert found[f"{name} through: done"], f"{name} came to its end"
        endings = {outcome.rpartition(": ")[2] for outcome in found if outcome.startswith(f"{name} killed")}
        assert endings & {"as before", "a part of it"} and endings <= {"as before", "a part of it", "done"}


def test_a_command_of_which_a_call_fails_says_so_and_is_done_when_it_is_given_again(tmp_path: Path) -> None:
    codes = ("EIO", "ENOSPC", "short", "EDQUOT", "EIO", "ENOSPC")
    times = ("on", "once")
    cases = enumerate(zip(COMMANDS, codes, strict=True))
    seeds = [seed_to_fail(name, code, times[at % 2], 2 * at + 1) for at, (name, code) in cases]
    found = tried(FAILING, seeds, tmp_path)
    assert found["none any more"] == len(COMMANDS)
    for name in COMMANDS:
        assert any(outcome.startswith(f"{name}: ") and "Error" in outcome for outcome in found), name


def test_a_command_that_breaks_a_promise_is_found_out(tmp_path: Path) -> None:
    with closing(trials([0], tmp_path, "broken")) as made:
        assert set(next(made)) == {f"{name}: {words}" for name, (_, words) in BREAKS.items()}
