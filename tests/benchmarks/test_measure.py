"""Figures: who is measured when, what counts, and what a row reached."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.goals import AIM, MISSED, REACHED, UNMEASURED, Goal, Limit, judge
from benchmarks.measure import SECONDS, Series, Spread, alternate
from benchmarks.outcome import Outcome

FIGURES = st.floats(1e-6, 1e6)
FEW = st.lists(FIGURES, min_size=1, max_size=9).map(tuple)


def outcome(**systems: tuple[float, ...]) -> Outcome:
    return Outcome({"time": {name: Series(SECONDS, values) for name, values in systems.items()}})


def goal(must: Limit, aim: Limit, to: str | None = "base", **more: bool) -> Goal:
    return Goal("it is quick", "time", "ours", to, must, aim, **more)


def test_systems_take_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = alternate({name: lambda name=name: turn(name) for name in "ABC"}, repeats=2, warm_up=1)
    assert "".join(order) == "ABC" * 3
    assert {name: series.values for name, series in found.items()} == {"A": (4, 7), "B": (5, 8), "C": (6, 9)}


@given(FEW)
def test_a_spread_holds_every_figure(values: tuple[float, ...]) -> None:
    found = Spread.of(values)
    assert found.least == min(values) and found.most == max(values)
    assert found.median == statistics.median(values)
    assert 0 <= found.iqr <= found.most - found.least


@pytest.mark.parametrize(
    ("ours", "status"),
    [
        ((0.8,), AIM),
        ((0.81,), REACHED),
        ((1.015,), REACHED),
        ((1.016,), MISSED),
        ((9.0, 0.5, 0.5), AIM),
        ((0.5, 9.0, 9.0), MISSED),
    ],
)
def test_the_median_is_held_against_must_and_aim(ours: tuple[float, ...], status: str) -> None:
    found = judge(goal(Limit(1.0, plus=0.015), Limit(0.8)), outcome(ours=ours, base=(1.0,) * len(ours)))
    assert found.status == status


def test_a_ratio_is_one_of_the_same_repeat() -> None:
    found = judge(goal(Limit(1.0), Limit(0.5)), outcome(ours=(1.0, 10.0, 100.0), base=(1.0, 10.0, 100.0)))
    assert found.ratio == Spread(1.0, 1.0, 1.0, 0.0)


def test_figures_near_zero_are_pooled() -> None:
    lost = outcome(ours=(-0.5, 0.01, 0.02), base=(-0.1, 0.1, 0.3))
    found = judge(goal(Limit(0.5), Limit(0.1), pooled=True), lost)
    assert found.status == AIM and found.ratio is not None
    assert found.ratio.median == pytest.approx(0.1)


def test_what_is_held_against_nothing_is_held_against_its_limit() -> None:
    limits = Limit(0, plus=100.0), Limit(0, plus=50.0)
    assert judge(goal(*limits, to=None), outcome(ours=(70.0,))).status == REACHED
    assert judge(goal(*limits, to=None), outcome(ours=(101.0,))).status == MISSED


@pytest.mark.parametrize("found", [outcome(ours=(1.0,)), outcome(base=(1.0,)), Outcome()])
def test_what_was_not_measured_is_never_reached(found: Outcome) -> None:
    assert judge(goal(Limit(1.0), Limit(0.5)), found).status == UNMEASURED


def test_a_peer_that_lost_nothing_is_no_measure() -> None:
    found = judge(goal(Limit(0.5), Limit(0.1), pooled=True), outcome(ours=(0.1,), base=(0.0,)))
    assert found.status == UNMEASURED


@given(st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=9), st.sampled_from([0.25, 4.0]))
def test_a_verdict_is_the_same_on_a_machine_as_fast_again(pairs: list[tuple[float, float]], factor: float) -> None:
    ours, base = zip(*pairs, strict=True)
    asked = goal(Limit(1.0), Limit(0.5))
    found = judge(asked, outcome(ours=ours, base=base))
    other = outcome(ours=tuple(value * factor for value in ours), base=tuple(value * factor for value in base))
    assert judge(asked, other).status == found.status
