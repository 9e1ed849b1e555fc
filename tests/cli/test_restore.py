"""`casckpt restore`: an earlier state as a new commit, said as it is."""

from __future__ import annotations

from casckpt.history.repository import History
from casckpt.history.retention import Keep
from tests.cli.conftest import Casckpt


def test_restore_makes_a_commit_and_says_how_to_take_it_back(at: Casckpt, history: History) -> None:
    before = history.resolve("main")
    assert at("restore", "v1", "--dry-run").out.startswith("main would have a new commit with ")
    assert history.resolve("main") == before
    ran = at("restore", "v1", "-m", "before the spike")
    assert ran.code == 0
    made = history.resolve("main")
    assert (made.parents, made.tree, made.step) == ((before.id,), history.resolve("v1").tree, 30)
    assert made.message == "before the spike"
    assert made.id[:8] in ran.out
    assert ran.out.splitlines()[1] == "take it back with: casckpt rollback 'main@{1}'"
    at("rollback", "main@{1}")
    assert history.resolve("main") == before


def test_restore_of_parts_for_programs(at: Casckpt, history: History) -> None:
    told = at("restore", "step:20", "--part", "optimizer", "--json").json
    made = history.resolve("main")
    assert told["commit"]["id"] == made.id
    assert (told["from"]["step"], told["parts"], told["branch"], told["dry_run"]) == (20, ["optimizer"], "main", False)
    assert (made.step, made.metrics) == (50, {})
    assert {change.path for change in history.diff("main~1", "main")} == {"optimizer.weight"}
    assert history.diff("step:20", "main", paths="optimizer") == []


def test_what_cannot_be_restored_is_named(at: Casckpt, history: History) -> None:
    history.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    before = history.resolve("main")
    for arguments, code, named in (
        (["main~5"], 6, "pruned"),
        (["main~1"], 6, "optimizer"),
        (["main~1", "--part", "ema"], 7, "it has model"),
        (["nope"], 4, "'nope'"),
    ):
        ran = at("restore", *arguments)
        assert ran.code == code, arguments
        assert named in ran.err
    assert history.resolve("main") == before
    assert at("restore", "main~1", "--part", "model").code == 0
