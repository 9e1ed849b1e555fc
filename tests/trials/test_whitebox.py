"""The tier of CI of the white box: every call of save, gc and compact, every eighth of all else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native import AFTER, BEFORE
from tests.trials.recipe import tried
from tests.trials.stages import WORKS
from tests.trials.whitebox import RECIPES, STRIDE, seed_of

FIRST = ("save", "gc", "compact")


@pytest.mark.parametrize("work", FIRST)
def test_killed_at_any_call_that_changes_a_file_the_store_is_whole(tmp_path: Path, work: str) -> None:
    seeds = [seed_of(work, BEFORE, offset) for offset in range(STRIDE)] + [seed_of(work, AFTER, 3)]
    found = tried(RECIPES[0], seeds, tmp_path)
    assert found[f"{work} through: as acknowledged"] == STRIDE + 1, "each trial came to the end of it"
    assert found.total() > 24 + STRIDE
    if work == "save":
        assert found["save killed: no newer"] and found["save killed: one newer"]


def test_killed_at_calls_of_all_other_operations_the_store_is_whole(tmp_path: Path) -> None:
    works = [work for work in WORKS if work not in FIRST]
    seeds = [seed_of(work, when, number % STRIDE) for number, work in enumerate(works) for when in (BEFORE, AFTER)]
    found = tried(RECIPES[0], seeds, tmp_path)
    assert all(found[f"{work} through: as acknowledged"] == 2 for work in works)
    assert {f"{work} killed" for work in works} <= {outcome.partition(":")[0] for outcome in found} | {"close killed"}
