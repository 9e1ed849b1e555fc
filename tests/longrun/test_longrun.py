"""The long run counts what was tried, and tells every promise that was broken, every hang and every death."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.longrun import schedule
from tests.longrun.__main__ import MARKED, PAGE
from tests.longrun.recipes import all_recipes
from tests.longrun.report import report, table
from tests.processes import ROOT

SAMPLES = all_recipes("tests.longrun.samples")


def run(name: str, seconds: float = 60, seed: int = 0) -> schedule.Tally:
    (tally,) = schedule.run_all([SAMPLES[name]], seconds, seed, 2, lambda line: None, "tests.longrun.samples")
    return tally


def test_a_recipe_is_tried_until_its_goal_is_reached() -> None:
    tally = run("holds", seed=5)
    assert tally.outcomes == {"even": 10, "odd": 10} and not tally.broken
    assert tally.next == 25


def test_a_broken_promise_is_told_with_its_seed_and_the_next_one_is_tried() -> None:
    tally = run("breaks", seed=1)
    assert [seed for seed, _ in tally.broken] == list(range(3, 30, 3))
    assert all("three can divide it" in seen for _, seen in tally.broken)
    assert tally.outcomes == {"whole": 20}


def test_a_turn_that_falls_silent_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "PATIENCE", 3.0)
    tally = run("hangs")
    assert [seed for seed, _ in tally.broken] == [2]
    assert "nothing was heard" in tally.broken[0][1]
    assert tally.units >= 18  # those just before it may not have been told yet


def test_a_turn_whose_process_dies_is_told() -> None:
    tally = run("dies")
    assert [(seed, seen.split(":")[0]) for seed, seen in tally.broken] == [(1, "its process ended with 7")]
    assert tally.units >= 19


def test_a_report_has_every_count_and_a_table_for_people() -> None:
    said = report([run("breaks"), run("holds")], 60, 0, 2)
    assert json.loads(json.dumps(said))["recipes"][0]["broken"][0]["seed"] == 0
    text = table(said)
    assert "| breaks | P1 | 18 tries | 20 | 10 | whole (18) |" in text
    assert "| holds | P1 | 20 tries | 20 | 0 | even (10); odd (10) |" in text


def test_the_command_lists_every_recipe_and_the_page_has_them_all() -> None:
    said = subprocess.run([sys.executable, "-m", "tests.longrun", "--list"], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    names = [line.partition(" (")[0] for line in said.stdout.splitlines()]
    assert names == list(all_recipes())
    page = PAGE.read_text()
    shown = MARKED.search(page)
    assert shown is not None
    assert [line.split("|")[1].strip() for line in shown[0].splitlines() if line.startswith("| ")][1:] == names
    tried = [row.split("|")[1:-1] for row in page.partition("## What tries them")[2].splitlines() if row[:3] == "| P"]
    assert sorted(name for row in tried for name in re.findall(r"`([\w-]+)`", row[2])) == sorted(names)
    tests = [name for row in tried for name in re.findall(r"`([\w.]+)`", row[3])]
    assert sorted(tests) == sorted(path.name for path in (ROOT / "tests/trials").glob("test_*.py"))
    for promises, _, recipes, _ in tried:
        for name in re.findall(r"`([\w-]+)`", recipes):
            assert set(all_recipes()[name].promises) <= set(promises.split()), name
    assert {promise for recipe in all_recipes().values() for promise in recipe.promises} == {
        f"P{number}" for number in range(1, 8)
    }
