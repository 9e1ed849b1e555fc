"""What a store's chunk size costs and saves: times, and bytes where little changes, for `docs/design/chunk_size.md`.

    python -m benchmarks.chunk_size [--size 400MB] [--repeats 5] [--out DIR]

Smaller chunks find more that stayed as it was; larger ones cost fewer steps of Python. Sizes take turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

import casckpt
from benchmarks import machine
from benchmarks.disk import check_room, remove, settle
from benchmarks.measure import Series, Turn, alternate, seconds_of, timed
from benchmarks.memory import give_back, warm
from benchmarks.peers.casckpt_store import drop_past
from benchmarks.report.figures import amount, number
from benchmarks.report.table import table
from benchmarks.rows.copying import Copy
from benchmarks.size import size
from benchmarks.states import WORKLOADS, State, change_all, dense, nbytes

SIZES = (256 << 10, 512 << 10, 1 << 20, 2 << 20)
SPARSE = ("rows", "lora", "tenth")
SAVES = 3
COPY = "copy"


def times(total: int, repeats: int, folder: Path, sizes: tuple[int, ...] = SIZES) -> dict[str, dict[str, Series]]:
    """Seconds by what was done and chunk size, and of a copy of the same state."""
    state = dense(total, "fp32")
    check_room(folder, (2 + 2 * len(sizes)) * nbytes(state))
    with ExitStack() as stack:
        stores = {
            _name(chunk): stack.enter_context(casckpt.open(folder / str(chunk), chunk_size=chunk)) for chunk in sizes
        }
        for repo in stores.values():
            repo.commit(state)
        copy = Copy(state).turn

        def turns(turn: Callable[[casckpt.Repository, State], Turn]) -> dict[str, Series]:
            made = {COPY: copy} | {name: turn(repo, state) for name, repo in stores.items()}
            return alternate(made, repeats=repeats, warm_up=2)

        found = {"durable commit, nothing changed": turns(_unchanged), "load into fresh memory": turns(_load)}
        found["stall of commit_async, everything changed"] = turns(_stall)
        return found


def _unchanged(repo: casckpt.Repository, state: State) -> Turn:
    def turn() -> float:
        settle()
        return seconds_of(lambda: repo.commit(state))

    return turn


def _load(repo: casckpt.Repository, state: State) -> Turn:
    def turn() -> float:
        give_back()
        warm(nbytes(state))
        return seconds_of(repo.load)

    return turn


def _stall(repo: casckpt.Repository, state: State) -> Turn:
    def turn() -> float:
        change_all(state, 0)
        settle()
        with timed() as watch:
            pending = repo.commit_async(state)
        pending.result()
        drop_past(repo)
        return watch.seconds

    return turn


def stored(total: int, folder: Path, sizes: tuple[int, ...] = SIZES) -> dict[str, dict[str, float]]:
    """Bytes of chunks that a further commit adds, by workload and chunk size: the mean of a few."""
    found: dict[str, dict[str, float]] = {}
    for name in SPARSE:
        workload = WORKLOADS[name]
        found[workload.title] = {}
        for chunk in sizes:
            state = workload.build(total, "fp32")
            place = folder / "sparse"
            with casckpt.open(place, chunk_size=chunk) as repo:
                repo.commit(state)
                new = 0
                for step in range(1, 1 + SAVES):
                    workload.step(state, step)
                    figures = repo.commit(state).figures
                    assert figures is not None
                    new += figures.new
            remove(place)
            found[workload.title][_name(chunk)] = new / SAVES / nbytes(state)
    return found


def _name(chunk: int) -> str:
    return f"{chunk >> 10} KiB" if chunk < 1 << 20 else f"{chunk >> 20} MiB"


def page(seconds: dict[str, dict[str, Series]], shares: dict[str, dict[str, float]], where: dict[str, str]) -> str:
    """Both tables: times as shares of a copy and in ms, then the shares of a state that a commit writes anew."""
    names = list(next(iter(shares.values())))
    first = []
    for what, systems in seconds.items():
        copies = systems[COPY].values
        cells = []
        for name in names:
            ratio = Series(
                "", tuple(mine / base for mine, base in zip(systems[name].values, copies, strict=True))
            ).spread
            cells.append(f"{number(ratio.median)} × ({amount(systems[name].spread.median, 's')})")
        first.append((what, amount(systems[COPY].spread.median, "s"), *cells))
    second = [(what, *(amount(share, "share") for share in by_chunk.values())) for what, by_chunk in shares.items()]
    return "\n\n".join(
        (
            table(("times the copy", COPY, *names), first),
            table(("share of the state written anew", *names), second),
            ", ".join(f"{key} {value}" for key, value in where.items() if key in machine.HARDWARE) + ".",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size, default=400_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), help="a folder, on the disk to be measured"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="running-", dir=options.out) as place:
        shares = stored(options.size // 2, Path(place))
        seconds = times(options.size, options.repeats, Path(place))
    made = page(seconds, shares, machine.describe(options.out))
    (options.out / "chunk_size.md").write_text(made + "\n")
    sys.stdout.write(made + "\n")


if __name__ == "__main__":
    main()
