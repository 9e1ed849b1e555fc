"""Recipes of which each does one thing that a turn must be able to tell."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path

from tests.trials.recipe import Recipe, Trials


def holds(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    for seed in seeds:
        print("a line that is nobody's business")
        yield Counter({"even" if seed % 2 == 0 else "odd": 1})


def breaks(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    assert not any(folder.iterdir())
    (folder / "left").touch()
    for seed in seeds:
        assert seed % 3, "three can divide it"
        yield Counter(whole=1)


def hangs(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    for seed in seeds:
        if seed == 2:
            time.sleep(3600)
        yield Counter(quick=1)


def dies(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    for seed in seeds:
        if seed == 1:
            os._exit(7)
        yield Counter(alive=1)


def _recipe(name: str, trials: Trials) -> Recipe:
    return Recipe(name, ("P1",), "a sample", "tries", 20, trials)


RECIPES = tuple(_recipe(trials.__name__, trials) for trials in (holds, breaks, hangs, dies))
