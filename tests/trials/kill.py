"""kill -9 at any moment: of each operation, of opening and closing, and of what mends the kill before.

A worker lives through a story; at some moment after it has announced something it is killed. Then the oracle looks, and
the next worker goes on with the same store: what survived ten kills must survive the eleventh.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

from casckpt.history.walk import Live
from casckpt.store.protocol import Space
from tests.trials.model import Act, Model, message_of
from tests.trials.oracle import check, clear
from tests.trials.recipe import Recipe
from tests.trials.story import Say, Story, small_batches, state
from tests.trials.warm import fork, in_child, warm

KILLS = 10
"""Kills of one store, one after the other."""
_ACTS = 6  # that a worker does before it is killed, at most

# Seconds that acts of a name last take, by which a moment within one is drawn.
_took: defaultdict[str, float] = defaultdict(lambda: 0.01)


def trial(seed: int, folder: Path, life: str = "live") -> Counter[str]:
    """`KILLS` of the workers of one store. life: the function of this module that a worker lives."""
    path = folder / "store"
    model = Model(seed)
    seen: Counter[str] = Counter()
    for number in range(KILLS):
        chance = Random(f"kill {seed} {number}")
        _killed(path, model, chance, life)
        doing = "at rest" if model.doing is None else f"in {model.doing.name}"
        said, model = in_child(checked, path, model)
        seen[f"killed {doing}: {said}"] += 1
    clear(path)
    return seen


def checked(path: Path, model: Model) -> tuple[str, Model]:
    """What the oracle says, and the model of what is there afterwards."""
    return check(path, model), model


def live(path: Path, model: Model, say: Say) -> None:
    """The life of a worker: the story, for ever."""
    small_batches()
    Story(path, model, say).go_on(1 << 30)


def acknowledge_too_early(path: Path, model: Model, say: Say) -> None:
    """A broken life, for the oracle to see: commits are acknowledged when they are handed over."""
    story = Hasty(path, model, say)
    story.do(Act("open"))
    while True:
        story.do(Act("commit", step=model.next))


class Hasty(Story):
    def _do(self, act: Act) -> list[str]:
        if act.name == "open":
            return super()._do(act)
        self.repo.commit_async(state(self.model.seed, act.step), message_of(act.step), step=act.step, in_flight=3)
        return []


def collect_what_is_live(path: Path, model: Model, say: Say) -> None:
    """A broken life, for the oracle to see: gc takes every eighth chunk for dead."""
    holds = Live.holds

    def holds_less(self: Live, space: Space, key: bytes) -> bool:
        return holds(self, space, key) and not (space is Space.CHUNK and key[0] % 8 == 0)

    Live.holds = holds_less  # type: ignore[method-assign]
    live(path, model, say)


def _killed(path: Path, model: Model, chance: Random, life: str) -> None:
    """Let a worker live, kill it, and let the model hear what it said."""
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        os.close(reading)
        try:
            globals()[life](path, model, lambda line: os.write(writing, line))
        finally:
            os._exit(1)  # it never ends by itself
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        _listen(pipe, model, chance.choice(range(_ACTS)))
        assert model.doing is not None
        time.sleep(_took[model.doing.name] * chance.uniform(0, 1.3))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status == signal.SIGKILL, f"a worker ended in {model.doing}"
        for line in pipe:
            model.hear(line)


def _listen(pipe, model: Model, acts: int) -> None:
    """Hear of so many acts from their announcement to their end, and of the next one that it begins."""
    for _ in range(acts):
        model.hear(_line(pipe))
        name, began = model.doing.name, time.perf_counter()
        model.hear(_line(pipe))
        _took[name] += 0.2 * (time.perf_counter() - began - _took[name])
    model.hear(_line(pipe))


def _line(pipe) -> bytes:
    line = pipe.readline()
    assert line, "a worker ended by itself"
    return line


RECIPES = (
    Recipe(
        name="kill",
        promises=("P1", "P2", "P3", "P4"),
        what="a worker is killed (SIGKILL) at a random moment of any operation, ten times over on one store",
        unit="kills",
        goal=10_000,
        trials=warm("tests.trials.kill:trial"),
    ),
)
