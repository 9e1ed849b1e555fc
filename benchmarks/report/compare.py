"""Then and now, by system and quantity: what changed by more than either run's own spread says so."""

from __future__ import annotations

from benchmarks.measure import RATE, Series
from benchmarks.report.figures import amount, number
from benchmarks.report.record import Record
from benchmarks.report.table import table

SAME, BETTER, WORSE = "", "better", "worse"


def compare(earlier: Record, now: Record) -> str:
    """A table of both medians; a change counts where the two runs' figures don't overlap."""
    rows = []
    for name, outcome in now.outcomes.items():
        before = earlier.outcomes.get(name)
        if before is None:
            continue
        for quantity, systems in outcome.series.items():
            for system, series in systems.items():
                was = before.series.get(quantity, {}).get(system)
                if was is not None and was.unit == series.unit:
                    rows.append((name, f"{system}, {quantity}", *_line(was, series)))
    parts = [table(("row", "system", "then", "now", "now / then", ""), rows)]
    differing = [key for key in now.machine if earlier.machine.get(key) != now.machine[key]]
    differing += [key for key in now.settings if key != "load" and earlier.settings.get(key) != now.settings[key]]
    if differing:
        parts.append(f"The runs differ in: {', '.join(differing)}.")
    return "\n\n".join(parts) + "\n"


def _line(was: Series, series: Series) -> tuple[str, str, str, str]:
    then, now = was.spread, series.spread
    ratio = number(now.median / then.median) if then.median else "–"
    return amount(then.median, was.unit), amount(now.median, series.unit), ratio, verdict(was, series)


def verdict(was: Series, series: Series) -> str:
    """Better or worse where every figure of now lies beyond every figure of then; rates are better when higher."""
    then, now = was.spread, series.spread
    higher, lower = now.least > then.most, now.most < then.least
    if series.unit == RATE:
        higher, lower = lower, higher
    return WORSE if higher else BETTER if lower else SAME
