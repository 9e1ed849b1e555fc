"""A run of the benchmarks as a JSON file: machine, settings, and all figures, from which every table is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.goals import Judged, judge
from benchmarks.measure import Spread
from benchmarks.outcome import Outcome
from benchmarks.rows.all import ROWS

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """made: the day. machine: what `machine.describe` says. failed: rows that raised, and how."""

    made: str
    machine: dict[str, str]
    settings: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def judged(self) -> list[Judged]:
        """Every goal of the rows that were asked for, in the order of the table."""
        return [
            judge(goal, self.outcomes.get(name, Outcome()))
            for name, row in ROWS.items()
            if name in self.outcomes or name in self.failed
            for goal in row.goals
        ]


class NotARecordError(ValueError):
    """A file that this program did not write, or a later one did."""


def write(record: Record, path: Path) -> None:
    """Keep a record. What is judged is written along, for people and other programs; it is never read back."""
    kept = {
        "format": FORMAT,
        "made": record.made,
        "machine": record.machine,
        "settings": record.settings,
        "rows": {
            name: {"title": record.titles.get(name, name), **outcome.to_dict()}
            for name, outcome in record.outcomes.items()
        },
        "failed": record.failed,
        "goals": [_judged(one) for one in record.judged()],
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")


def read(path: Path) -> Record:
    """A record as it was written.

    Raises:
        NotARecordError
    """
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise NotARecordError(f"{path} has format {found['format']}, and this program knows {FORMAT}")
        return Record(
            found["made"],
            found["machine"],
            found["settings"],
            {name: row["title"] for name, row in found["rows"].items()},
            {name: Outcome.from_dict(row) for name, row in found["rows"].items()},
            found["failed"],
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise NotARecordError(f"{path} is not a record of benchmarks: {error!r}") from error


def _judged(one: Judged) -> Mapping[str, Any]:
    goal = one.goal
    return {
        "title": goal.title,
        "of": goal.of,
        "to": goal.to,
        "status": one.status,
        "ratio": _spread(one.ratio),
        "must": {"factor": goal.must.factor, "plus": goal.must.plus},
        "aim": {"factor": goal.aim.factor, "plus": goal.aim.plus},
        "unit": one.unit,
    }


def _spread(found: Spread | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {"median": found.median, "least": found.least, "most": found.most, "iqr": found.iqr}
