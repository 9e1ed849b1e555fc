"""How small chunks of real training states become, how fast, and what that makes of a store.

    python -m benchmarks.codec [--quick] [--repeats 7] [--only streams stores] [--keep DIR] [--out DIR]

Trains a few small models first, which takes some minutes; `--keep` leaves what they left, for the next time. Writes
codec.json, codec.md and codec.png, and says which goals were missed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks import machine
from benchmarks.child import ROOT
from benchmarks.coding import found as kept
from benchmarks.coding import goals, report, runs, speed, stores, streams
from benchmarks.coding.coders import CODERS
from benchmarks.coding.found import Found
from benchmarks.disk import check_room
from benchmarks.report import pages, plots

STREAMS, STORES = "streams", "stores"
REPEATS, REPEATS_QUICK = 7, 1
# How long a turn of a coder takes at least, where one pass of a stream is shorter.
SECONDS, SECONDS_QUICK = 0.06, 0.001
STALL, STALL_QUICK = 200_000_000, 8_000_000
ROOM, ROOM_QUICK = 6_000_000_000, 300_000_000
GOALS, DETAILS = "<!-- codec table -->", "<!-- codec details -->"
PEERS = ("blosc2", "openzl", "pcodec", "zipnn", "zstandard", "torch", "numpy")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__.split("\n")[0])
    made.add_argument("--only", nargs="+", choices=(STREAMS, STORES), default=[STREAMS, STORES], help="a part of it")
    made.add_argument("--repeats", type=int, help="repeats that count, beside the warm-up")
    made.add_argument("--keep", type=Path, metavar="DIR", help="leave what was trained here, or take it from here")
    made.add_argument("--from", type=Path, metavar="FILE.json", dest="source", help="report that run; measure nothing")
    made.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), help="a folder, on the disk to be measured"
    )
    made.add_argument("--pages", action="store_true", help="put the tables into docs/benchmarks.md")
    made.add_argument("--quick", action="store_true", help="tiny models, one repeat: to see that it runs")
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    scale = runs.QUICK if options.quick else runs.FULL
    if options.source:
        found = kept.read(options.source)
    else:
        check_room(options.out, ROOM_QUICK if options.quick else ROOM)
        with tempfile.TemporaryDirectory(prefix="running-", dir=options.out) as place:
            found = _measure(options, scale, Path(place))
    judged = [goals.judge(goal, found) for goal in goals.goals(scale)]
    found.write(options.out / "codec.json", [one.to_dict() for one in judged])
    (options.out / "codec.md").write_text(report.whole(found, judged))
    if plots.available() and found.streams:
        report.draw(found, options.out / "codec.png")
    if options.pages:
        show(found, judged, ROOT)
    print(report.goals(judged))
    return 0


def show(found: Found, judged: list[goals.Judged], root: Path) -> None:
    """Put a run's tables into the page of benchmarks under a folder, the project's own."""
    details = f"{report.beside(found)}\n\n{report.stores(found)}"
    parts = {GOALS: f"{report.goals(judged)}\n\n{report.machine(found)}", DETAILS: details}
    pages.put(root / pages.PAGE, parts)


def _measure(options: argparse.Namespace, scale: runs.Scale, place: Path) -> Found:
    trained = options.keep or place / "trained"
    _train(scale, trained)
    load = os.getloadavg()[0]
    repeats = options.repeats or (REPEATS_QUICK if options.quick else REPEATS)
    settings = {"repeats": repeats, "quick": options.quick, "load": round(load, 1)}
    described = machine.describe(options.out, PEERS, {})
    found = Found(datetime.date.today().isoformat(), described, settings)
    found.missing = {coder.name: why for coder in CODERS if (why := coder.missing()) is not None}
    if STREAMS in options.only:
        for name in runs.RUNS:
            for stream in streams.read(name, trained / _folder(name) / "captured.npz", scale):
                _say(stream.name)
                one = speed.measure(stream, repeats, SECONDS_QUICK if options.quick else SECONDS)
                found.streams[stream.name] = one
    if STORES in options.only:
        _measure_stores(found, scale, options.quick, repeats, trained, place)
    return found


def _measure_stores(found: Found, scale: runs.Scale, quick: bool, repeats: int, trained: Path, place: Path) -> None:
    """Each store is made anew from what was committed in training, so that what was kept may be of another version."""
    for title, run in goals.HISTORIES.items():
        with stores.anew(trained / _folder(run) / runs.HISTORY, place) as path:
            _say(f"size of {title}")
            found.stores |= stores.sizes(title, path, place, () if quick else ("small",))
            if title in goals.LOADS:
                _say(f"loads of {title}")
                what = goals.LOADS[title]
                figures, depth = stores.loads(what, path, place, repeats)
                found.stores |= figures
                found.notes[what] = f"auto: {depth:.2f} deltas under each chunk, in the mean"
    _say("gc")
    with stores.anew(trained / _folder(goals.FP32) / runs.HISTORY, place, scale.pruned) as path:
        found.stores |= stores.collected(path, place)
    _say("stalls")
    found.stores |= stores.stalls(STALL_QUICK if quick else STALL, repeats, place)


def _train(scale: runs.Scale, folder: Path) -> None:
    """What is not there yet of the runs, as many at a time as there are cores."""
    due = [name for name in runs.RUNS if not (folder / _folder(name) / "captured.npz").exists()]
    if not due:
        return
    _say(f"training: {', '.join(due)}")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        jobs = []
        for name in due:
            place = folder / _folder(name)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            jobs.append(pool.submit(runs.run, name, scale, place))
        for job in jobs:
            job.result()


def _folder(run: str) -> str:
    return run.replace(",", "").replace(" ", "-")


def _say(what: str) -> None:
    print(f"{what} …", flush=True, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
