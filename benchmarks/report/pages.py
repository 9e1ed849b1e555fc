"""The README and the page of benchmarks show the tables that a run made, between markers; nothing else is touched."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.report import table
from benchmarks.report.record import Record

END = "<!-- end -->"
GOALS, DETAILS, WORKLOADS = ("<!-- benchmark table -->", "<!-- benchmark details -->", "<!-- benchmark workloads -->")
README, PAGE = "README.md", "docs/benchmarks.md"


def show(record: Record, root: Path) -> None:
    """Put a run's tables into the pages under a folder, the project's own."""
    put(root / README, {GOALS: goals(record)})
    put(root / PAGE, {GOALS: goals(record), DETAILS: table.details(record), WORKLOADS: table.workloads(record)})


def goals(record: Record) -> str:
    """What both pages show of a run."""
    return f"{table.goals(record)}\n\n{table.machine(record)}"


def between(text: str, marker: str) -> str:
    """What stands between a marker and the end that follows it."""
    found = re.search(f"{re.escape(marker)}\n(.*?)\n*{re.escape(END)}", text, re.DOTALL)
    if found is None:
        raise ValueError(f"no {marker} with an {END} behind it")
    return found[1]


def put(path: Path, parts: dict[str, str]) -> None:
    """Put each part behind its marker in a page, in the place of what is there up to the marker of its end."""
    text = path.read_text()
    for marker, content in parts.items():
        between(text, marker)
        head, rest = text.split(f"{marker}\n", 1)
        text = f"{head}{marker}\n{content.strip()}\n{END}{rest.split(END, 1)[1]}"
    path.write_text(text)
