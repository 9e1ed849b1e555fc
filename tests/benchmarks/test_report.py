"""What is made of figures: the file, the tables, the pages that show them, and the comparison of two runs."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import machine
from benchmarks.measure import BYTES, RATE, SECONDS, SHARE, Series
from benchmarks.outcome import Outcome, Setting
from benchmarks.report import compare, figures, pages, plots, record, table
from benchmarks.report.record import NotARecordError, Record
from benchmarks.rows.all import ROWS
from tests.processes import ROOT

NAMES = st.text(min_size=1, max_size=8)
SERIES = st.builds(
    Series,
    st.sampled_from([SECONDS, BYTES, RATE, SHARE]),
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=5).map(tuple),
)
OUTCOMES = st.builds(
    Outcome,
    st.dictionaries(NAMES, st.dictionaries(NAMES, SERIES, max_size=3), max_size=3),
    st.dictionaries(NAMES, NAMES, max_size=2),
    st.text(max_size=20),
)
WORKLOAD = Outcome(
    {
        "first save": {"casckpt": Series(SECONDS, (0.2,))},
        "save": {"casckpt": Series(SECONDS, (0.1, 0.2))},
        "load": {"casckpt": Series(SECONDS, (0.05,))},
        "stored": {"casckpt": Series(BYTES, (2e6,))},
    },
    {"restic": machine.NOT_INSTALLED},
    "3 tensors",
)


def made(outcomes: dict[str, Outcome], failed: dict[str, str] | None = None) -> Record:
    described = dict.fromkeys((*machine.HARDWARE, "python", "torch"), "1")
    settings = {"size": 1200, "repeats": 3, "dtype": "fp32", "quick": False, "load": 0.1}
    return Record("2026-11-21", described, settings, {}, outcomes, failed or {})


def every_row() -> Record:
    """A run in which each figure was 1."""
    outcomes: dict[str, Outcome] = {}
    for name, row in ROWS.items():
        found: dict[str, dict[str, Series]] = {}
        for goal in row.goals:
            for system in (goal.of, goal.to):
                if system is not None:
                    found.setdefault(goal.quantity, {})[system] = Series(SECONDS, (1.0, 1.0))
        outcomes[name] = Outcome(found)
    return made(outcomes)


@given(OUTCOMES)
def test_an_outcome_comes_through_json_as_it_was(outcome: Outcome) -> None:
    assert Outcome.from_dict(json.loads(json.dumps(outcome.to_dict()))) == outcome


def test_a_setting_comes_through_json_as_it_was(tmp_path: Path) -> None:
    setting = Setting(10, 3, "bf16", True, tmp_path)
    assert Setting.from_dict(json.loads(json.dumps(setting.to_dict()))) == setting


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = made(every_row().outcomes, {"another": "OSError: no room"})
    record.write(kept, tmp_path / "results.json")
    again = record.read(tmp_path / "results.json")
    assert (again.outcomes, again.machine, again.settings, again.failed) == (
        kept.outcomes,
        kept.machine,
        kept.settings,
        kept.failed,
    )
    assert table.goals(again) == table.goals(kept)


def test_the_file_says_what_it_is_and_holds_what_was_judged(tmp_path: Path) -> None:
    record.write(every_row(), tmp_path / "results.json")
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(found) == {"format", "made", "machine", "settings", "rows", "failed", "goals"}
    assert found["format"] == record.FORMAT
    assert [one["title"] for one in found["goals"]] == [goal.title for row in ROWS.values() for goal in row.goals]
    assert set(found["goals"][0]) == {"title", "of", "to", "status", "ratio", "must", "aim", "unit"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "rows": 3}'])
def test_what_is_no_record_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(NotARecordError):
        record.read(path)


def test_a_row_that_failed_stands_in_the_table_as_not_measured() -> None:
    shown = table.whole(made({}, {"restore": "OSError: no room"}))
    assert "OSError: no room" in shown
    assert [line for line in table.goals(made({}, {"restore": "…"})).splitlines() if "not measured" in line]


def test_a_peer_that_is_not_installed_is_said_to_be() -> None:
    shown = table.workloads(made({"workload/dense/fp32/1 MB": WORKLOAD}))
    assert "| casckpt | restic |" in shown
    assert "150 ms · 50.0 ms · 2.00 MB | not installed |" in shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0123456, SECONDS, "12.3 ms"),
        (1.5, SECONDS, "1.50 s"),
        (0.9999, SECONDS, "1.00 s"),
        (1.2e9, BYTES, "1.20 GB"),
        (12, BYTES, "12 B"),
        (0.0321, SHARE, "3.21 %"),
        (123.4, RATE, "123 steps/s"),
        (0, SECONDS, "0 ms"),
    ],
)
def test_figures_have_three_digits_and_a_unit(value: float, unit: str, shown: str) -> None:
    assert figures.amount(value, unit) == shown


@pytest.mark.parametrize(
    ("was", "now", "unit", "said"),
    [
        ((1.0, 2.0), (3.0, 4.0), SECONDS, compare.WORSE),
        ((3.0, 4.0), (1.0, 2.0), SECONDS, compare.BETTER),
        ((3.0, 4.0), (1.0, 2.0), RATE, compare.WORSE),
        ((1.0, 3.0), (2.0, 4.0), SECONDS, compare.SAME),
    ],
)
def test_a_change_counts_where_no_figures_overlap(
    was: tuple[float, ...], now: tuple[float, ...], unit: str, said: str
) -> None:
    assert compare.verdict(Series(unit, was), Series(unit, now)) == said


def test_two_runs_are_compared_row_by_row_and_other_machines_named() -> None:
    then = made({"restore": Outcome({"time": {"casckpt": Series(SECONDS, (1.0, 1.1))}})})
    now = made({"restore": Outcome({"time": {"casckpt": Series(SECONDS, (2.0, 2.2))}})})
    now.machine["cpu"] = "another"
    shown = compare.compare(then, now)
    assert "| restore | casckpt, time | 1.05 s | 2.10 s | 2.00 | worse |" in shown
    assert "The runs differ in: cpu." in shown


def test_neither_a_host_nor_a_path_is_told(tmp_path: Path) -> None:
    told = json.dumps(machine.describe(tmp_path))
    assert socket.gethostname() not in told.replace('"', " ").split()
    assert str(tmp_path) not in told and str(Path.home()) not in told


def test_plots_are_drawn_or_said_to_be_impossible(tmp_path: Path) -> None:
    if plots.available():
        written = plots.draw(made({**every_row().outcomes, "workload/dense/fp32/1 MB": WORKLOAD}), tmp_path)
        assert [path.name for path in written] == ["goals.png", "workload-dense-fp32-1MB.png"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_the_pages_get_the_tables_and_nothing_else_changes(tmp_path: Path) -> None:
    for name in (pages.README, pages.PAGE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    pages.show(every_row(), tmp_path)
    once = (tmp_path / pages.README).read_text()
    assert table.goals(every_row()) in once
    pages.show(every_row(), tmp_path)
    assert (tmp_path / pages.README).read_text() == once
    before = (ROOT / pages.README).read_text()
    assert _around(once) == _around(before)


@pytest.mark.parametrize("page", [pages.README, pages.PAGE])
def test_a_page_shows_the_table_that_the_command_makes(page: str) -> None:
    shown = pages.between((ROOT / page).read_text(), pages.GOALS).split("\n\n")[0].splitlines()
    expected = table.goals(every_row()).splitlines()
    assert [_form(line) for line in shown] == [_form(line) for line in expected]


def _around(text: str) -> list[str]:
    """What stands before and behind the table."""
    head, rest = text.split(pages.GOALS)
    return [head, rest.split(pages.END, 1)[1]]


def _form(line: str) -> list[str]:
    """A line without its figures: what it is about, and its limits."""
    return [cell.strip() for cell in line.strip("|").split("|")][:3]
