"""`python -m tests.longrun --hours 12`: try every promise for so long, print the counts, and write a report."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.longrun.recipes import all_recipes
from tests.longrun.report import report, table
from tests.longrun.schedule import run_all
from tests.processes import ROOT
from tests.trials.recipe import tried

PAGE = ROOT / "docs" / "guarantees.md"
MARKED = re.compile(r"(?<=<!-- long run -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main() -> int:
    """The exit code is 1 where a promise was broken."""
    known = all_recipes()
    parser = argparse.ArgumentParser(prog="python -m tests.longrun", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="how long in all (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed of each recipe (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="recipes at a time (default: 2)")
    parser.add_argument("--only", action="append", choices=known, metavar="RECIPE", help="this one; may be repeated")
    parser.add_argument("--report", type=Path, default=Path("longrun"), help="folder for the report (default: longrun)")
    parser.add_argument("--publish", action="store_true", help="put the table into docs/guarantees.md")
    parser.add_argument("--once", action="store_true", help="only the first seed of --only, in this process")
    parser.add_argument("--list", action="store_true", help="only say which recipes there are")
    chosen = parser.parse_args()
    if chosen.list:
        for recipe in known.values():
            print(f"{recipe.name} ({', '.join(recipe.promises)}): {recipe.what}; {recipe.goal:,} {recipe.unit}")
        return 0
    if chosen.once:
        with tempfile.TemporaryDirectory() as folder:
            for name in chosen.only or known:
                print(name, dict(tried(known[name], [chosen.seed], Path(folder))), flush=True)
        return 0
    recipes = [known[name] for name in chosen.only or known]
    began = time.monotonic()
    tallies = run_all(recipes, chosen.hours * 3600, chosen.seed, chosen.jobs, lambda line: print(line, flush=True))
    said = report(tallies, time.monotonic() - began, chosen.seed, chosen.jobs)
    chosen.report.mkdir(parents=True, exist_ok=True)
    (chosen.report / "report.json").write_text(json.dumps(said, indent=2))
    (chosen.report / "report.md").write_text(table(said))
    print(table(said))
    if chosen.publish:
        text = PAGE.read_text()
        assert MARKED.search(text), f"{PAGE} has no place for it"
        PAGE.write_text(MARKED.sub(lambda _: table(said), text))
    return 1 if any(tally.broken for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
