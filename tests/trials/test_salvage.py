"""A tier of the salvage recipe: every commit that a damaged file still holds comes back; and the oracle can fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from casckpt.errors import CorruptObjectError
from casckpt.history.repository import History
from casckpt.history.salvage import chunks
from casckpt.history.salvage.evidence import Evidence
from casckpt.history.salvage.report import SalvageReport
from casckpt.history.salvage.run import salvage
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit, drifted, noise
from tests.trials import salvage as recipes
from tests.trials.recipe import tried
from tests.trials.salvage import DAMAGES, RECIPES, Left, one

SEEDS = range(4 * len(DAMAGES))


def test_whatever_a_damaged_file_still_holds_comes_back(tmp_path: Path) -> None:
    (recipe,) = RECIPES
    found = tried(recipe, SEEDS, tmp_path)
    assert found.total() == len(SEEDS)
    names = {outcome.partition(":")[0] for outcome in found}
    assert names == {damage.__name__.replace("_", " ") for damage in DAMAGES}
    assert found["zeroed heads: all came back"] == found["nothing: all came back"] == 4
    assert sum(count for outcome, count in found.items() if outcome.endswith("what is left came back")) > 2


def test_what_was_once_lost_or_came_back_wrong_is_right(tmp_path: Path) -> None:
    """A ref whose page no tree led to any more; one at the commit of before, by a root whose counters lay in a page
    that was used again; a chunk whose one good frame lay amid nineteen stale ones, in a store that was sound."""
    seeds = (40989, 41187, 42078, 45004, 45015, 40710)
    assert tried(RECIPES[0], seeds, tmp_path).total() == len(seeds)


def test_the_oracle_tells_a_salvage_that_forgets_deltas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks.Chunks, "_settle", lambda self: None)
    with pytest.raises(AssertionError, match="a whole commit"):
        for seed in SEEDS:
            (tmp_path / str(seed)).mkdir()
            one(seed, tmp_path / str(seed))


def test_the_oracle_tells_a_salvage_that_gives_up_where_a_parent_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def giving_up(path: Path, into: Path) -> SalvageReport:
        report = salvage(path, into)
        if report.rewritten:
            raise CorruptObjectError("a parent is lost")
        return report

    monkeypatch.setattr(recipes, "salvage", giving_up)
    with pytest.raises(AssertionError, match="a parent is lost"):
        for seed in range(DAMAGES.index(recipes.lost_commits), 1000, len(DAMAGES)):
            (tmp_path / str(seed)).mkdir()
            one(seed, tmp_path / str(seed))


def test_the_oracle_tells_a_salvage_that_drops_refs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Evidence.positions
    monkeypatch.setattr(Evidence, "positions", lambda self: (one for one in whole(self) if one.ref == "branch/main"))
    with pytest.raises(AssertionError, match="these refs were dropped"):
        for seed in SEEDS:
            (tmp_path / str(seed)).mkdir()
            one(seed, tmp_path / str(seed))


def test_the_oracle_and_salvage_find_the_same_in_a_large_store(tmp_path: Path) -> None:
    """Values of many pages, in a file of several blocks."""
    with History(open_store(tmp_path / "store", chunk_size=1 << 20)) as history:
        run = noise(1, 3 << 20)
        for step in range(3):
            commit(history, {"model": {"w": run}}, step=step)
            run = run[: 2 << 20] + drifted(run[2 << 20 :], step)
        ids = [one.id for one in history.log()]
    file = tmp_path / "store" / "data.mdb"
    data = bytearray(file.read_bytes())
    data[:8192] = bytes(8192)
    at = random.Random(2).randrange(len(data) // 2)
    data[at : at + 100_000] = bytes(100_000)
    file.write_bytes(data)
    left = Left(bytes(data))
    report = salvage(tmp_path / "store", tmp_path / "new")
    with History(open_store(tmp_path / "new", create=False)) as history:
        there = {one.id: not one.pruned and not one.released for one in history.log(None)}
    assert there == {oid: left.is_whole(oid) for oid in ids if left.has_ancestors(oid)}
    assert not report.complete
