"""The tier of CI of the random kills, and that the oracle does see what is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trials.kill import KILLS, RECIPES
from tests.trials.recipe import tried
from tests.trials.warm import warm


def test_killed_at_any_moment_a_store_keeps_what_was_acknowledged_and_goes_on(tmp_path: Path) -> None:
    found = tried(RECIPES[0], range(30), tmp_path)
    assert found.total() == 30 * KILLS == 300
    acts = {outcome.partition(":")[0] for outcome in found}
    assert acts >= {f"killed in {act}" for act in ("open", "commit", "commit behind", "gc", "compact")}
    endings = [outcome.partition(": ")[2] for outcome in found]
    assert {"no newer", "as before"} <= set(endings) and {"one newer", "two newer", "done", "half of it"} & set(endings)


@pytest.mark.parametrize(
    ("life", "breaks"),
    [("acknowledge_too_early", "lost steps"), ("collect_what_is_live", "MissingObjectError|damaged|findings")],
)
def test_the_oracle_sees_what_is_lost(tmp_path: Path, life: str, breaks: str) -> None:
    trials = warm("tests.trials.kill:trial", None, life)(range(1, 6), tmp_path)
    with pytest.raises(AssertionError, match=breaks):  # on a busy machine not by the first
        list(trials)
    trials.close()
