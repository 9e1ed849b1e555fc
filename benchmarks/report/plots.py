"""The figures as PNG files: each goal by how far it is from its limit, and the workloads by peer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from benchmarks.goals import AIM, MISSED, REACHED, Judged
from benchmarks.measure import Series
from benchmarks.outcome import Outcome
from benchmarks.report.record import Record
from benchmarks.report.table import WORKLOADS

COLOURS = {AIM: "#2a7f62", REACHED: "#4c78a8", MISSED: "#c44e52"}
OURS, OTHERS = "#2a7f62", "#9aa5b1"


def available() -> bool:
    """Whether matplotlib is here; without it there are no plots."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(record: Record, folder: Path) -> list[Path]:
    """Write goals.png, and a workload-….png for each workload; returns what was written."""
    written = []
    judged = [one for one in record.judged() if one.ratio is not None and one.of is not None]
    if judged:
        written.append(_goals(judged, folder / "goals.png"))
    for name, outcome in record.outcomes.items():
        if name.startswith(WORKLOADS):
            file = name.replace("/", "-").replace(" ", "") + ".png"
            written.append(_workload(record.titles.get(name, name), outcome, folder / file))
    return written


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _share(one: Judged, figure: float) -> float:
    """A figure of a goal as a share of the most that it may be: 1 is the limit."""
    goal = one.goal
    against = one.to.median if one.to is not None else 1.0
    most = goal.must.factor * against + goal.must.plus if goal.to is not None else goal.must.plus
    return figure * (against if goal.to is not None else 1.0) / most


def _goals(judged: list[Judged], path: Path) -> Path:
    figure, (axes,) = _figure(9, 1 + 0.42 * len(judged))
    for place, one in enumerate(reversed(judged)):
        assert one.ratio is not None
        low, middle, high = (_share(one, value) for value in (one.ratio.least, one.ratio.median, one.ratio.most))
        colour = COLOURS[one.status]
        axes.barh(place, middle, color=colour, height=0.6)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(judged)), [one.goal.title.replace("`", "") for one in reversed(judged)], fontsize=8)
    axes.set_xlabel("share of the limit; shorter is better; lines: least to most")
    axes.set_xlim(0, max(1.5, min(3, axes.get_xlim()[1])))
    handles = [_patch(colour, status) for status, colour in COLOURS.items()]
    axes.legend(handles=handles, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120)
    return path


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _workload(title: str, outcome: Outcome, path: Path) -> Path:
    panels = (("save", "seconds to save"), ("load", "seconds to load"), ("stored", "GB on the disk, all saves"))
    figure, all_axes = _figure(10, 1.2 + 0.3 * len(outcome.series["save"]), len(panels))
    for axes, (quantity, label) in zip(all_axes, panels, strict=True):
        _bars(axes, outcome.series[quantity], 1e9 if quantity == "stored" else 1.0)
        axes.set_xlabel(label)
        if quantity != "save":
            axes.set_yticks([])
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
    return path


def _bars(axes: Any, systems: dict[str, Series], divisor: float) -> None:
    names = list(systems)[::-1]
    for place, name in enumerate(names):
        found = systems[name].spread
        axes.barh(place, found.median / divisor, color=OURS if name == "casckpt" else OTHERS, height=0.65)
        axes.plot([found.least / divisor, found.most / divisor], [place, place], color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
