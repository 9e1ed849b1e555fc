"""kill -9 before and after every single call by which an operation changes a file: at none of them it does harm."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.native import AFTER, BEFORE, build
from tests.native.faults import Faults
from tests.trials.kill import checked
from tests.trials.model import Act, Model
from tests.trials.recipe import Recipe
from tests.trials.stages import WORKS, stage
from tests.trials.story import Story, small_batches
from tests.trials.warm import fork, in_child, warm

STRIDE = 8
"""A trial takes every eighth call, from one that its seed says."""
ROUND = len(WORKS) * 2 * STRIDE
"""Seeds in which every call of every work has its turn, before and after; the next round is of other states."""


def seed_of(work: str, when: int, offset: int) -> int:
    """The seed, of the first round, of a trial at the calls 1 + offset + n * STRIDE."""
    return (list(WORKS).index(work) * 2 + (when == AFTER)) * STRIDE + offset


def trial(seed: int, folder: Path) -> Counter[str]:
    """One work is killed at every eighth of its calls, until it comes to its end."""
    turn, place = divmod(seed, ROUND)
    place, offset = divmod(place, STRIDE)
    work, when = list(WORKS)[place // 2], AFTER if place % 2 else BEFORE
    ready = stage(folder, work, turn)
    seen: Counter[str] = Counter()
    n = 1 + offset
    ended = False
    while not ended:
        path, model = ready.copy(folder / "run")
        ended = not killed(path, model, ready.act, n, when)
        try:
            said, _ = in_child(checked, path, model)
        except AssertionError as error:
            raise AssertionError(
                f"{work}, killed {'after' if when == AFTER else 'before'} call {n}: {error}"
            ) from error
        seen[f"{work} {'through' if ended else 'killed'}: {said}"] += 1
        n += STRIDE
    return seen


def killed(path: Path, model: Model, act: Act, n: int, when: int) -> bool:
    """Do the act in a child that dies at its n-th call; the model hears of it. False: it has fewer calls."""
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        os.close(reading)
        signal.alarm(30)
        try:
            small_batches()
            story = Story(path, model, lambda line: os.write(writing, line))
            if act.name != "open":
                story.do(Act("open"))
            story.make_way(act)
            faults = Faults()
            faults.arm(path.parent, n, when)
            story.do(act)
            os._exit(0 if faults.count < n else 3)
        finally:
            os._exit(4)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        for line in pipe:
            model.hear(line)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), f"the worker ended with {ended} at call {n} of {act}"
    return ended != 0


def trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    """Under the shim, which is built first."""
    with TemporaryDirectory() as built:
        yield from warm("tests.trials.whitebox:trial", build("faults", Path(built)))(seeds, folder)


RECIPES = (
    Recipe(
        name="white-box",
        promises=("P1", "P2", "P3", "P4"),
        what="an operation is killed (SIGKILL) before or after each single call by which it changes a file",
        unit="kills",
        goal=10_000,
        trials=trials,
    ),
)
