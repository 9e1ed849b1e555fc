"""Times that can be compared: systems take turns in every repeat, so that what disturbs the machine disturbs them all.

Nothing here judges; `goals` does.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

SECONDS = "s"
BYTES = "bytes"
RATE = "steps/s"
SHARE = "share"

Turn = Callable[[], float]
"""One turn of a system: prepares, does what is measured, tidies up; returns the figure of what is measured alone."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one system made of each repeat, in their order; warm-up is not in it."""

    unit: str
    values: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.values)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures and how far they lie apart: least, most, and the quartiles' distance."""

    median: float
    least: float
    most: float
    iqr: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0], 0.0)
        lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), min(values), max(values), upper - lower)


class Stopwatch:
    """Seconds between the beginning and the end of a `with timed()`."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Measure a block. Garbage is collected before it, so that nobody pays for what another left."""
    gc.collect()
    watch = Stopwatch()
    began = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - began


def seconds_of(work: Callable[[], object]) -> float:
    """How long a call took; its result lives until the clock has stopped, and is dropped then."""
    with timed() as watch:
        result = work()
    del result
    return watch.seconds


def alternate(turns: Mapping[str, Turn], *, repeats: int, warm_up: int = 1, unit: str = SECONDS) -> dict[str, Series]:
    """The figures of systems that take turns: A B C, A B C, …, after `warm_up` rounds that do not count."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(warm_up + repeats):
        for name, turn in turns.items():
            figure = turn()
            if number >= warm_up:
                found[name].append(figure)
    return {name: Series(unit, tuple(values)) for name, values in found.items()}
