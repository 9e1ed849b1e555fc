"""What a row is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.goals import Goal
from benchmarks.outcome import Outcome, Setting


@dataclass(frozen=True, slots=True)
class Row:
    """name: for the command line. measure: called in a process of its own, with an empty folder. goals: none where the
    row only informs."""

    name: str
    title: str
    measure: Callable[[Setting], Outcome]
    goals: tuple[Goal, ...] = ()
