"""The tier of CI of failing calls: every eighth of every operation, every one of compact; and that a loss is seen."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.trials.faults import CODES, RECIPES, STRIDE, TIMES, seed_of, trials
from tests.trials.recipe import tried
from tests.trials.stages import WORKS


def test_whatever_call_fails_it_is_a_typed_error_and_nothing_is_lost(tmp_path: Path) -> None:
    cases = [(work, code) for work in WORKS for code in CODES]
    seeds = [
        seed_of(work, code, list(TIMES)[at % len(TIMES)], 3 * at % STRIDE) for at, (work, code) in enumerate(cases)
    ]
    found = tried(RECIPES[0], seeds, tmp_path)
    assert found["none any more"] == len(cases), "each trial came to where there is no such call any more"
    assert found.total() > 4 * len(cases)
    assert sum(count for outcome, count in found.items() if outcome.startswith("again")) > 10, "faults on the way back"
    for code in CODES:
        assert any(outcome.startswith(f"{code}: success") for outcome in found)
        assert any(outcome.startswith(f"{code}: Store") for outcome in found)


def test_whatever_call_of_compact_fails_it_leaves_a_whole_file_and_a_store_that_goes_on(tmp_path: Path) -> None:
    codes = ("EIO", "ENOSPC")
    found = tried(RECIPES[0], [seed_of("compact", code, "on", at) for code in codes for at in range(STRIDE)], tmp_path)
    assert found["none any more"] == len(codes) * STRIDE
    assert found.total() > len(codes) * (30 + STRIDE)


@pytest.mark.parametrize(("how", "seen"), [((), "called done"), (("again",), "synced again")], ids=["at all", "twice"])
def test_a_store_that_takes_no_notice_of_a_failed_sync_is_found_out(
    tmp_path: Path, how: tuple[str, ...], seen: str
) -> None:
    seeds = [seed_of("save", "EIO", "once", offset) for offset in range(STRIDE)]
    made = trials(seeds, tmp_path, "tests.trials.faults:swallowing", *how)
    with closing(made), pytest.raises(AssertionError, match=seen):
        list(made)


def test_no_call_that_changes_a_file_goes_unseen(tmp_path: Path) -> None:
    with closing(trials(range(len(WORKS)), tmp_path, "tests.trials.unseen:denied")) as made:
        assert sum(found.total() for found in made) == len(WORKS)


def test_a_call_that_goes_unseen_is_noticed(tmp_path: Path) -> None:
    made = trials([0], tmp_path, "tests.trials.unseen:denied", "unseen")
    with closing(made), pytest.raises(AssertionError, match=r"changed \['store/mark'\] by calls that are not seen"):
        list(made)
