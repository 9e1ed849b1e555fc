"""Every row against its peers: `python -m benchmarks`. Writes JSON, a Markdown page and plots, and says what missed.

A row runs in a process of its own, one after the other; within it the systems take turns.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.child import ROOT, Failed, measure_apart
from benchmarks.outcome import Setting
from benchmarks.report import compare, pages, plots, record, table
from benchmarks.report.record import Record
from benchmarks.rows.all import ROWS
from benchmarks.rows.workloads import names as workload_names
from benchmarks.rows.workloads import row_of
from benchmarks.size import size
from benchmarks.states import WORKLOADS

SIZE, SIZE_QUICK = 1_200_000_000, 120_000_000
WORKLOAD_SIZES, WORKLOAD_SIZES_QUICK = (100_000_000,), (4_000_000,)
WORKLOAD_SIZES_FULL = (100_000_000, 1_200_000_000, 4_000_000_000)
BOTH = ("fp32", "bf16")
IN_BOTH = {"dense", "tenth"}  # elsewhere it only halves the bytes, and is left to --full
REPEATS, REPEATS_QUICK = 5, 3
RESULTS = "results.json"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    made.add_argument("--rows", nargs="+", metavar="NAME", help='only these; "workload" stands for all workloads')
    made.add_argument("--size", type=size, help="bytes of the state, such as 1.2GB")
    made.add_argument("--workload-sizes", type=size, nargs="+", help="sizes for the workloads, such as 0.1GB 1GB 4GB")
    made.add_argument("--repeats", type=int, help="repeats that count, beside the warm-up")
    made.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="dense workloads are measured in both")
    made.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), help="a folder, on the disk to be measured"
    )
    made.add_argument("--compare", type=Path, metavar="EARLIER.json", help="show what changed since")
    made.add_argument("--from", type=Path, metavar="FILE.json", dest="source", help="report that run; measure nothing")
    made.add_argument("--readme", action="store_true", help="put the tables into README.md and docs/benchmarks.md")
    made.add_argument("--list", action="store_true", help="say which rows there are")
    made.add_argument(
        "--full", action="store_true", help="workloads of 0.1, 1.2 and 4 GB in both dtypes: takes an hour"
    )
    made.add_argument("--quick", action="store_true", help="smaller states, fewer repeats: to see that it runs")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 where a row failed; that a goal was missed is a result."""
    options = parser().parse_args(arguments)
    chosen = _choose(options)
    if options.list:
        for name in chosen:
            print(f"{name:36}{(ROWS.get(name) or row_of(name)).title}")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    earlier = record.read(options.compare) if options.compare else None
    found = record.read(options.source) if options.source else _measure(options, chosen)
    (options.out / "results.md").write_text(table.whole(found))
    if plots.available():
        plots.draw(found, options.out)
    else:
        print("no plots: matplotlib is not installed", file=sys.stderr)
    print(table.goals(found))
    if earlier is not None:
        print(compare.compare(earlier, found))
    if options.readme:
        pages.show(found, ROOT)
    for name, error in found.failed.items():
        print(f"{name} failed: {error}", file=sys.stderr)
    return 1 if found.failed else 0


def _choose(options: argparse.Namespace) -> dict[str, tuple[int, str]]:
    """The rows that are asked for, in order, with the size and dtype of each."""
    size_of_rows = options.size or (SIZE_QUICK if options.quick else SIZE)
    usual = WORKLOAD_SIZES_FULL if options.full else WORKLOAD_SIZES_QUICK if options.quick else WORKLOAD_SIZES
    sizes = tuple(options.workload_sizes or usual)
    dtypes = {
        name: BOTH if options.full or (name in IN_BOTH and not options.quick) else (options.dtype,)
        for name in WORKLOADS
    }
    every = dict.fromkeys(ROWS, (size_of_rows, options.dtype)) | workload_names(sizes, dtypes)
    if not options.rows:
        return every
    unknown = [name for name in options.rows if not any(_is_asked(one, name) for one in every)]
    if unknown:
        sys.exit(f"no row {', '.join(unknown)}; --list says which there are")
    return {name: value for name, value in every.items() if any(_is_asked(name, asked) for asked in options.rows)}


def _is_asked(name: str, asked: str) -> bool:
    return name == asked or name.startswith(f"{asked}/")


def _measure(options: argparse.Namespace, chosen: dict[str, tuple[int, str]]) -> Record:
    """Measure row by row; what there is so far is on the disk, should somebody stop it."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > cores / 2:
        print(f"the machine is busy (load {load:.1f}, {cores} cores): ratios will be off", file=sys.stderr)
    repeats = options.repeats or (REPEATS_QUICK if options.quick else REPEATS)
    settings = {
        "size": next((nbytes for name, (nbytes, _) in chosen.items() if name in ROWS), 0),
        "repeats": repeats,
        "dtype": options.dtype,
        "quick": options.quick,
        "load": round(load, 1),
    }
    found = Record(datetime.date.today().isoformat(), machine.describe(options.out), settings)
    with tempfile.TemporaryDirectory(prefix="running-", dir=options.out) as place:
        for name, (nbytes, dtype) in chosen.items():
            found.titles[name] = (ROWS.get(name) or row_of(name)).title
            began = time.perf_counter()
            print(f"{name} …", end=" ", flush=True, file=sys.stderr)
            setting = Setting(nbytes, repeats, dtype, options.quick, Path(place).resolve() / "row")
            outcome = measure_apart(name, setting)
            if isinstance(outcome, Failed):
                found.failed[name] = outcome.error
            else:
                found.outcomes[name] = outcome
            record.write(found, options.out / RESULTS)
            print(f"{time.perf_counter() - began:.0f} s", flush=True, file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
