"""The tier of CI of full disks: each operation with each measure of room."""

from __future__ import annotations

from pathlib import Path

from tests.trials.full import LEFT, RECIPES, WORKS
from tests.trials.recipe import tried


def test_a_disk_that_fills_up_is_a_typed_error_loses_nothing_and_is_cured_by_prune_and_gc(tmp_path: Path) -> None:
    found = tried(RECIPES[0], range(len(WORKS) * len(LEFT)), tmp_path)
    assert found.total() == len(WORKS) * len(LEFT)
    outcomes = " ".join(found)
    assert "FullError" in outcomes and "success" in outcomes
    assert sum(count for outcome, count in found.items() if outcome.startswith("gc")) == len(LEFT)
