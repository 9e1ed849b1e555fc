"""The tables, in Markdown: what must be reached and what was, what each row measured, and the workloads by peers."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.goals import Goal, Judged, Limit
from benchmarks.machine import HARDWARE
from benchmarks.measure import BYTES, SECONDS, Series
from benchmarks.outcome import Outcome
from benchmarks.report.figures import amount, number, spread
from benchmarks.report.record import Record

GOALS_HEAD = ("what", "must reach", "aim", "measured (least – most)", "")
WORKLOADS = "workload/"
BETWEEN = " · "


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def goals(record: Record) -> str:
    """Each goal of the rows that ran: what it must be, what it is, and whether that reaches it."""
    rows = [
        (one.goal.title, _limit(one.goal, one.goal.must), _limit(one.goal, one.goal.aim), _found(one), one.status)
        for one in record.judged()
    ]
    return table(GOALS_HEAD, rows)


def _limit(goal: Goal, limit: Limit) -> str:
    unit = BYTES if limit.plus >= 1e3 else SECONDS
    if goal.to is None:
        return f"≤ {amount(limit.plus, unit)}"
    if goal.speed:
        return f"≥ {1 / limit.factor:g} × its speed"
    return f"≤ {limit.factor:g} ×" + (f" + {amount(limit.plus, unit)}" if limit.plus else "")


def _found(one: Judged) -> str:
    if one.ratio is None:
        return "–"
    ratio = one.ratio
    if one.goal.to is None:
        return spread(ratio, one.unit)
    least, most, sign = ratio.least, ratio.most, "×"
    median = ratio.median
    if one.goal.speed:
        median, least, most = 1 / median, 1 / most, 1 / least
    shown = f"{number(median)} {sign}"
    return shown if least == most else f"{shown} ({number(least)} – {number(most)})"


def machine(record: Record) -> str:
    """One paragraph: where and with what the figures were made."""
    described = record.machine
    disk = f"{described['file system']}, transparent huge pages: {described['huge pages']}"
    hardware = f"{described['cpu']}, {described['cores']} cores, {described['memory']}, {described['kernel']}, {disk}"
    packages = [f"{name} {version}" for name, version in described.items() if name not in HARDWARE]
    settings = record.settings
    return (
        f"{hardware}. {', '.join(packages)}. A state of {amount(settings['size'], BYTES)} in {settings['dtype']}, "
        f"{settings['repeats']} repeats, load {settings['load']} before they began, {record.made}."
    )


def details(record: Record) -> str:
    """What each row measured, by system: median, least and most."""
    parts = []
    for name, outcome in record.outcomes.items():
        if name.startswith(WORKLOADS):
            continue
        parts.append(f"### {record.titles.get(name, name)} (`{name}`)\n")
        if outcome.note:
            parts.append(f"{outcome.note[0].upper()}{outcome.note[1:]}.\n")
        rows = [
            (quantity, system, *_columns(series))
            for quantity, systems in outcome.series.items()
            for system, series in systems.items()
        ]
        rows += [("", system, reason, "", "") for system, reason in outcome.missing.items()]
        parts.append(table(("", "system", "median", "least – most", "between quartiles"), rows) + "\n")
    parts += [f"### {name}\n\nFailed: {error}\n" for name, error in record.failed.items()]
    return "\n".join(parts)


def _columns(series: Series) -> tuple[str, str, str]:
    found = series.spread
    return (
        amount(found.median, series.unit),
        f"{amount(found.least, series.unit)} – {amount(found.most, series.unit)}",
        amount(found.iqr, series.unit),
    )


def workloads(record: Record) -> str:
    """A line for each workload, a column for each peer: seconds to save, to load, and bytes that all saves take."""
    found = {name: outcome for name, outcome in record.outcomes.items() if name.startswith(WORKLOADS)}
    peers = list(dict.fromkeys(peer for outcome in found.values() for peer in _peers(outcome)))
    rows = [
        (f"{record.titles.get(name, name)}: {outcome.note}", *(_cell(outcome, peer) for peer in peers))
        for name, outcome in found.items()
    ]
    return table((BETWEEN.join(("save", "load", "stored")), *peers), rows)


def _peers(outcome: Outcome) -> list[str]:
    return [*outcome.series.get("save", {}), *outcome.missing]


def _cell(outcome: Outcome, peer: str) -> str:
    if peer in outcome.missing:
        return outcome.missing[peer]
    series = [outcome.series[quantity][peer] for quantity in ("save", "load", "stored")]
    return BETWEEN.join(amount(one.spread.median, one.unit) for one in series)


def whole(record: Record) -> str:
    """The report as one page."""
    parts = ["# Benchmarks\n", machine(record) + "\n", goals(record) + "\n", "## What was measured\n", details(record)]
    if any(name.startswith(WORKLOADS) for name in record.outcomes):
        parts += ["## Workloads\n", workloads(record) + "\n"]
    return "\n".join(parts)
