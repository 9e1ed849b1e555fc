"""When a commit is due. Metrics are read as late and as seldom as that allows: reading one may wait for a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from casckpt.errors import PolicyError, StateError


class Metrics:
    """The metrics of one step: numbers, tensors of one element, or functions without arguments. Each is read once."""

    def __init__(self, given: Mapping[str, Any] | None) -> None:
        self._given: dict[str, Any] = dict(given or {})

    def read(self, name: str) -> float | None:
        """One metric; None where it was not given.

        Raises:
            StateError: it is no number.
        """
        if name not in self._given:
            return None
        found = self._given[name]
        if type(found) is not float:
            try:
                found = found() if callable(found) else found
                # item(), since float() warns of a tensor that requires a gradient, as a loss does
                found = float(found.item() if isinstance(found, torch.Tensor) else found)
            except (TypeError, ValueError, RuntimeError) as error:
                raise StateError(
                    f"this metric is no number: {error}",
                    path=f"metrics.{name}",
                    remedy="give a float, a tensor of one element, or a function that gives one",
                ) from error
            self._given[name] = found
        return float(found)

    def all(self) -> dict[str, float]:
        """Every metric as a number."""
        return {name: number for name in self._given if (number := self.read(name)) is not None}


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the next commit is measured from. step, seconds: of the last one. best: the monitored metric, so far."""

    step: int
    seconds: float
    best: float | None


class Due:
    """Says of each step whether it is to be committed.

    every_steps: when a multiple of it was crossed since the last commit. every_seconds: when so many passed since then.
    Without either, and with a monitor, every step may be. monitor, mode: only where that metric is better than it
    was in every commit before; one that is missing or nan is not.

    Raises:
        PolicyError: numbers or a mode that make no sense.
    """

    def __init__(
        self,
        every_steps: int | None,
        every_seconds: float | None,
        monitor: str | None,
        mode: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if every_steps is not None and (type(every_steps) is not int or every_steps < 1):
            raise PolicyError(f"every_steps={every_steps!r} is not a number of steps", remedy="give 1 or more")
        if every_seconds is not None and not every_seconds > 0:
            raise PolicyError(f"every_seconds={every_seconds!r} is not a time", remedy="give more than 0 seconds")
        if mode not in ("min", "max"):
            raise PolicyError(f"mode={mode!r} is neither 'min' nor 'max'")
        self._every_steps = every_steps
        self._every_seconds = every_seconds
        self._monitor = monitor
        self._sign = 1.0 if mode == "min" else -1.0
        self._clock = clock
        self._base = Baseline(0, clock(), None)

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric in any commit."""
        return self._base.best

    def restart(self, step: int, best: float | None) -> None:
        """Measure from this step and this moment on."""
        self._base = Baseline(step, self._clock(), best)

    def go_back(self, best: float | None) -> None:
        """Take the best value back, since the commit that had it failed; another is due when it would have been."""
        self._base = replace(self._base, best=best)

    def is_due(self, step: int, metrics: Metrics) -> bool:
        """Whether this step is to be committed.

        Raises:
            StateError: the monitored metric is no number.
        """
        if not self._time_has_come(step):
            return False
        if self._monitor is None:
            return True
        return self.better(metrics) is not None

    def better(self, metrics: Metrics) -> float | None:
        """The monitored metric, where it is better than in every commit before."""
        if self._monitor is None:
            return None
        value = metrics.read(self._monitor)
        if value is None or math.isnan(value):
            return None
        best = self._base.best
        return value if best is None or self._sign * value < self._sign * best else None

    def _time_has_come(self, step: int) -> bool:
        if self._every_steps is None and self._every_seconds is None:
            return self._monitor is not None
        if self._every_steps is not None and step // self._every_steps > self._base.step // self._every_steps:
            return True
        return self._every_seconds is not None and self._clock() - self._base.seconds >= self._every_seconds
