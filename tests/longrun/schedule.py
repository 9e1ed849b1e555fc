"""Shares a time out among recipes, and sums up what each of their turns says."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.longrun.recipes import TRIALS
from tests.longrun.turn import IN_HAND
from tests.processes import ROOT
from tests.trials.recipe import Recipe

PATIENCE = 300.0
"""Seconds without a word after which a turn is held to hang: no trial takes so long."""

# The same while Python starts and imports torch.
_START = 300.0
# A turn shorter than this would spend most of its time on getting ready.
_SHORTEST = 20.0
# A recipe that has broken its promises so often is not tried any more.
_ENOUGH = 10


@dataclass(slots=True)
class Tally:
    """What has become of a recipe so far. next: the first seed that was not tried. broken: seeds, and what was seen."""

    recipe: Recipe
    package: str
    next: int
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    broken: list[tuple[int, str]] = field(default_factory=list)

    @property
    def units(self) -> int:
        return self.outcomes.total()

    @property
    def is_done(self) -> bool:
        return self.units >= self.recipe.goal or len(self.broken) >= _ENOUGH


def run_all(
    recipes: Iterable[Recipe],
    seconds: float,
    seed: int,
    jobs: int,
    tell: Callable[[str], None],
    package: str = TRIALS,
) -> list[Tally]:
    """Try the recipes for so long, so many at a time.

    Each gets the same share of the time; what one that reaches its goal leaves goes to the others.

    package: where the recipes are from.
    """
    tallies = [Tally(recipe, package, seed) for recipe in recipes]
    end = time.monotonic() + seconds
    while open := [tally for tally in tallies if not tally.is_done]:
        left = end - time.monotonic()
        if left < min(_SHORTEST, seconds):
            break
        # Half of what is left: the rest is shared out again among those that have not reached their goals by then.
        share = left * min(jobs, len(open)) / len(open)
        _round(open, share if share < 2 * _SHORTEST else share / 2, end, jobs, tell)
    return tallies


def _round(tallies: list[Tally], share: float, end: float, jobs: int, tell: Callable[[str], None]) -> None:
    waiting = tallies[::-1]
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting or time.monotonic() >= end:
                    return
                tally = waiting.pop()
            before, began, known = tally.units, time.monotonic(), len(tally.broken)
            _turns(tally, min(share, end - began))
            took = time.monotonic() - began
            tally.seconds += took
            tell(
                f"{tally.recipe.name}: {tally.units - before:,} {tally.recipe.unit} in {took:.0f} s, "
                f"{tally.units:,} in all, {len(tally.broken)} broken promises"
            )
            for seed, seen in tally.broken[known:]:
                tell(f"BROKEN: {tally.recipe.name}, seed {seed}:\n{seen}")

    workers = [threading.Thread(target=work) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _turns(tally: Tally, seconds: float) -> None:
    """Turns of a recipe: another begins behind each broken promise."""
    end = time.monotonic() + seconds
    while not tally.is_done and (left := end - time.monotonic()) > 0:
        broken = len(tally.broken)
        with tempfile.TemporaryDirectory(prefix="casckpt-longrun-", ignore_cleanup_errors=True) as folder:
            _turn(tally, left, Path(folder))
        if len(tally.broken) == broken:
            return


def _turn(tally: Tally, seconds: float, folder: Path) -> None:
    most = tally.recipe.goal - tally.units
    arguments = [tally.package, tally.recipe.name, tally.next, most, seconds, folder]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.longrun.turn", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(errors := tempfile.TemporaryFile()),  # noqa: SIM115 - closed below
        start_new_session=True,  # so that all that it started can be ended
    )
    try:
        is_silent = _listen(process, tally)
        if is_silent:
            _break(tally, _in_hand(tally, folder), f"nothing was heard of it for {PATIENCE:.0f} s")
        elif process.wait(PATIENCE):
            errors.seek(0)
            said = errors.read()[-4000:].decode(errors="replace")
            _break(tally, _in_hand(tally, folder), f"its process ended with {process.returncode}: {said}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        errors.close()
        assert process.stdout is not None
        process.stdout.close()


def _break(tally: Tally, seed: int, how: str) -> None:
    tally.broken.append((seed, how))
    tally.next = seed + 1


def _in_hand(tally: Tally, folder: Path) -> int:
    """The seed at which a turn stood that did not come to its end."""
    path = folder / IN_HAND
    return int.from_bytes(path.read_bytes(), "big") if path.exists() else tally.next


def _listen(process: subprocess.Popen[bytes], tally: Tally) -> bool:
    """Take down what a turn says until it ends; returns whether it fell silent instead."""
    assert process.stdout is not None
    rest = b""
    is_ready = False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(PATIENCE if is_ready else _START):
            is_ready = True
            block = os.read(process.stdout.fileno(), 1 << 16)
            if not block:
                return False
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                _take_down(json.loads(line), tally)
    return True


def _take_down(said: dict[str, Any], tally: Tally) -> None:
    if "broken" in said:
        _break(tally, said["seed"], said["broken"])
    elif "seed" in said:
        tally.next = said["seed"] + 1
        tally.outcomes.update(said["outcomes"])
