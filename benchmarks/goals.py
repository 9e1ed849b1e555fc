"""What a row must reach, what it aims at, and which of both it reached: ratios of figures of the same repeat."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.measure import Series, Spread
from benchmarks.outcome import Outcome

AIM, REACHED, MISSED, UNMEASURED = "aim reached", "reached", "missed", "not measured"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `factor` times what it is measured against, and `plus` more (seconds or bytes)."""

    factor: float
    plus: float = 0.0


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table: a system's figure, held against another's of the same repeat.

    quantity: which of the row's quantities. to: None where the limits are in seconds or bytes alone. speed: shown as
    how many times as fast. pooled: the ratio of both medians, for figures that come near zero, whose ratios mean
    nothing one by one.
    """

    title: str
    quantity: str
    of: str
    to: str | None
    must: Limit
    aim: Limit
    speed: bool = False
    pooled: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal and what came out. ratio: of / to of each repeat, or `of` itself where there is no `to`."""

    goal: Goal
    status: str
    ratio: Spread | None = None
    of: Spread | None = None
    to: Spread | None = None
    unit: str = ""


def judge(goal: Goal, outcome: Outcome) -> Judged:
    """Which of must and aim a row's figures reach, by the median over its repeats."""
    of = outcome.series.get(goal.quantity, {}).get(goal.of)
    to = outcome.series.get(goal.quantity, {}).get(goal.to) if goal.to is not None else None
    if of is None or (goal.to is not None and to is None):
        return Judged(goal, UNMEASURED)
    if goal.pooled:
        assert to is not None
        of_all, to_all = (Series(of.unit, (statistics.median(series.values),)) for series in (of, to))
    else:
        of_all, to_all = of, to
    if to_all is not None and min(to_all.values) <= 0:
        return Judged(goal, UNMEASURED, None, of.spread, None if to is None else to.spread, of.unit)
    status = AIM if _within(goal.aim, of_all, to_all) else REACHED if _within(goal.must, of_all, to_all) else MISSED
    ratio = Spread.of(_ratios(of_all, to_all, 0.0))
    return Judged(goal, status, ratio, of.spread, None if to is None else to.spread, of.unit)


def _ratios(of: Series, to: Series | None, less: float) -> tuple[float, ...]:
    if to is None:
        return tuple(value - less for value in of.values)
    return tuple((value - less) / against for value, against in zip(of.values, to.values, strict=True))


def _within(limit: Limit, of: Series, to: Series | None) -> bool:
    return statistics.median(_ratios(of, to, limit.plus)) <= limit.factor
