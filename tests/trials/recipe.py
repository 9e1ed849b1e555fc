"""What every recipe has in common: trials by seed, each with an outcome in words. A broken promise is an exception."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

Trials = Callable[[Iterable[int], Path], Generator[Counter[str], None, None]]
"""Makes a trial, or a small batch, for each seed in a folder of its own; gives how often each outcome was seen."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way of trying promises.

    promises: of docs/guarantees.md, such as "P1". what: a line for people. unit: what is counted, in the plural.
    goal: how many make a full long run. trials: each determined by its seed, as far as the world allows.
    """

    name: str
    promises: tuple[str, ...]
    what: str
    unit: str
    goal: int
    trials: Trials


def tried(recipe: Recipe, seeds: Iterable[int], folder: Path) -> Counter[str]:
    """The outcomes of so many trials, all together; raises where a promise was broken."""
    own = folder / recipe.name
    own.mkdir()
    found: Counter[str] = Counter()
    with closing(recipe.trials(seeds, own)) as trials:
        for outcome in trials:
            found.update(outcome)
    shutil.rmtree(own)
    return found
