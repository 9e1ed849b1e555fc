"""The report of a long run: what was tried, how often, and what was seen; as JSON, and as a table for people."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

from tests.longrun.schedule import Tally
from tests.processes import ROOT

_PACKAGES = ("torch", "numpy", "lmdb", "zstandard", "xxhash")
# Outcomes that the table names of each recipe; the JSON has all.
_NAMED = 6


def report(tallies: list[Tally], seconds: float, seed: int, jobs: int) -> dict[str, Any]:
    """All that is known of a run."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": _machine(),
        "commit": _commit(),
        "seconds": round(seconds),
        "seed": seed,
        "jobs": jobs,
        "recipes": [
            {
                "name": tally.recipe.name,
                "promises": tally.recipe.promises,
                "what": tally.recipe.what,
                "unit": tally.recipe.unit,
                "count": tally.units,
                "goal": tally.recipe.goal,
                "seconds": round(tally.seconds),
                "outcomes": dict(tally.outcomes.most_common()),
                "broken": [{"seed": at, "seen": seen} for at, seen in tally.broken],
            }
            for tally in tallies
        ],
    }


def table(said: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    hours = said["seconds"] / 3600
    lines = [
        f"{said['date']}, {said['machine']}; {hours:.1f} hours, {said['jobs']} recipes at a time, seed {said['seed']}.",
        "",
        "| recipe | promises | tried | of a full run's | broken | what was seen most |",
        "|---|---|---|---|---|---|",
    ]
    for one in said["recipes"]:
        seen = [f"{name} ({count:,})" for name, count in list(one["outcomes"].items())[:_NAMED]]
        more = len(one["outcomes"]) - _NAMED
        if more > 0:
            seen.append(f"{more} more")
        lines.append(
            f"| {one['name']} | {' '.join(one['promises'])} | {one['count']:,} {one['unit']} | {one['goal']:,} "
            f"| {len(one['broken'])} | {'; '.join(seen).replace('|', '/')} |"
        )
    return "\n".join(lines) + "\n"


def _machine() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return (
        f"{os.cpu_count()} cores, {pages:.0f} GiB, {platform.system()} {platform.release().split('-')[0]} "
        f"{platform.machine()}, Python {platform.python_version()}, {versions}"
    )


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return asked.stdout.strip()
