"""A run as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.coding.coders import CODERS
from benchmarks.coding.found import Found
from benchmarks.coding.goals import Judged
from benchmarks.coding.speed import DIRECTIONS, THREADS, Coded, Measured
from benchmarks.coding.streams import ALONE
from benchmarks.machine import HARDWARE
from benchmarks.measure import Spread
from benchmarks.report.figures import amount, number, spread
from benchmarks.report.table import GOALS_HEAD, table

MARKS = {"casckpt": "o", "zstd": "s", "blosc2": "^", "ZipNN": "D", "OpenZL": "v", "pcodec": "P"}


def whole(found: Found, judged: list[Judged]) -> str:
    """The report as one page."""
    parts = ["# Coding of chunks\n", machine(found) + "\n", goals(judged) + "\n"]
    if found.streams:
        parts += ["## Streams\n", beside(found) + "\n", "### In full\n", streams(found.streams.values()) + "\n"]
    if found.stores:
        parts += ["## Stores\n", stores(found) + "\n"]
    parts += [f"{name}: {why}.\n" for name, why in found.missing.items()]
    return "\n".join(parts)


def goals(judged: list[Judged]) -> str:
    """Each goal: what it must be, what it is, and whether that reaches it."""
    return table(GOALS_HEAD, [(*_limits(one), _shown(one.found, one), one.status) for one in judged])


def _limits(one: Judged) -> tuple[str, str, str]:
    sign = "≥" if one.goal.at_least else "≤"
    return one.goal.title, *(f"{sign} {_figure(limit, one)}" for limit in (one.goal.must, one.goal.aim))


def _shown(found: Spread | None, one: Judged) -> str:
    if found is None:
        return "–"
    middle = _figure(found.median, one)
    if found.least == found.most:
        return middle
    return f"{middle} ({_figure(found.least, one)} – {_figure(found.most, one)})"


def _figure(value: float, one: Judged) -> str:
    if one.goal.unit == "share":
        return amount(value, "share")
    return f"{value:.3f} {one.goal.unit}" if value < 10 else f"{number(value)} {one.goal.unit}"


def beside(found: Found) -> str:
    """Two tables, of streams alone and over a parent, with a column for each coder: ratio · encode · decode."""
    parts = ["Each cell: raw bytes by stored bytes · GB encoded · GB decoded, in a second of one processor."]
    for over_base in (False, True):
        lines = {name: one for name, one in found.streams.items() if name.endswith(ALONE) != over_base}
        coders = list(dict.fromkeys(coder for one in lines.values() for coder in one.coded))
        cells = [(name, *(_cell(one.coded.get(coder)) for coder in coders)) for name, one in lines.items()]
        parts.append(table(("over a parent" if over_base else "without a parent", *coders), cells))
    return "\n\n".join(parts)


def _cell(coded: Coded | None) -> str:
    if coded is None:
        return ""
    speeds = (number(coded.speeds[f"{what} cpu"].spread.median) for what in DIRECTIONS)
    return " · ".join((f"{coded.ratio:.3f}", *speeds))


def streams(measured: Iterable[Measured]) -> str:
    """A line for each stream and coder: the ratio, GB/s of both directions by the clock, and the kinds."""
    head = ("stream", "coder", "ratio", *(f"{what}, {_threads(count)}" for what in DIRECTIONS for count in THREADS), "")
    lines: list[tuple[str, ...]] = []
    for one in measured:
        shown = f"{one.name} ({amount(one.size, 'bytes')})"
        for name, coded in one.coded.items():
            speeds = (_speed(coded, f"{what} {count}") for what in DIRECTIONS for count in THREADS)
            lines.append((shown, name, f"{coded.ratio:.3f}", *speeds, _kinds(coded)))
            shown = ""
    return f"Speeds in GB/s of raw bytes by the clock, medians, and least to most.\n\n{table(head, lines)}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _speed(coded: Coded, what: str) -> str:
    found = coded.speeds[what].spread
    return f"{number(found.median)} ({number(found.least)} – {number(found.most)})"


def _kinds(coded: Coded) -> str:
    if len(coded.kinds) < 2:
        return next(iter(coded.kinds), "")
    return ", ".join(f"{count} {kind}" for kind, count in coded.kinds.items())


def stores(found: Found) -> str:
    """A line for each quantity and system."""
    lines = [
        (
            *((quantity, system) if index == 0 else ("", system)),
            spread(series.spread, series.unit),
            found.notes.get(quantity, "") if index == 0 else "",
        )
        for quantity, systems in found.stores.items()
        for index, (system, series) in enumerate(systems.items())
    ]
    return table(("", "", "median (least – most)", ""), lines)


def machine(found: Found) -> str:
    """One paragraph: where and with what the figures were made."""
    described, settings = found.machine, found.settings
    hardware = ", ".join(f"{key} {described[key]}" for key in HARDWARE)
    packages = ", ".join(f"{name} {version}" for name, version in described.items() if name not in HARDWARE)
    how = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"{hardware}. {packages}. {how}, {found.made}."


def draw(found: Found, path: Path) -> None:
    """Ratio against speed of encoding on one core, a panel for each stream of AdamW."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [one for one in found.streams.values() if one.name.startswith("AdamW")] or list(found.streams.values())
    columns = 4
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, one in zip(all_axes, shown, strict=False):
        for name, coded in one.coded.items():
            _point(axes, name, coded)
        axes.set_title(one.name, fontsize=8)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in all_axes[len(shown) :]:
        axes.axis("off")
    figure.supxlabel("encoding, GB in a second of one processor", fontsize=9)
    figure.supylabel("raw bytes by stored bytes", fontsize=9)
    seen: dict[str, Any] = {}
    for axes in all_axes:
        handles, labels = axes.get_legend_handles_labels()
        seen |= dict(zip(labels, handles, strict=True))
    names = [coder.name for coder in CODERS if coder.name in seen]
    figure.legend([seen[name] for name in names], names, loc="outside upper center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110)


def _point(axes: Any, name: str, coded: Coded) -> None:
    from matplotlib import colormaps

    found = coded.speeds["encode cpu"].spread
    family = name.split()[0]
    names = [coder.name for coder in CODERS]
    axes.plot(
        found.median,
        coded.ratio,
        MARKS[family],
        label=name,
        color=colormaps["tab20"](names.index(name)),
        markersize=8 if family == "casckpt" else 6,
    )
