"""What a progress display looks like: one line that fits the terminal, with the stage cut where it is too long.

⠋ deleting ━━━━━╸━━━━ 1.20 GiB of 3.40 GiB, 512 MiB/s, 0:04 left
⠋ looking for what is live ━━━━━━━━━━ 0:12

Imported when something is shown, as rich takes its time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from casckpt.cli.console import console
from casckpt.cli.progress import amount
from casckpt.cli.units import printable

_BAR: Final = 10
# The least room for a stage: on a terminal that is narrower still, rich cuts the rest.
_STAGE: Final = 10


def made() -> Progress:
    """A display on stderr. What a task counts is its field `unit`."""
    target = console(stderr=True)
    figures = _Figures()
    return Progress(
        SpinnerColumn(), _Stage(figures, target.width), BarColumn(bar_width=_BAR), figures, console=target,
        transient=True,
    )  # fmt: skip


class _Figures(ProgressColumn):
    """How much is done of how much, how fast, and how long it will take; of what has no known end, how long it took."""

    def render(self, task: Task) -> Text:
        done, unit = int(task.completed), task.fields["unit"]
        if not task.total:
            return Text(", ".join(([amount(done, unit)] if done else []) + [_span(task.elapsed or 0)]))
        whole = amount(int(task.total), unit)
        told = [f"{amount(done, unit) if unit == 'bytes' else f'{done:,}'} of {whole}"]
        if task.speed:
            rate = round(task.speed)
            told.append(f"{amount(rate, unit)}/s" if unit == "bytes" else f"{rate:,}/s")
        if task.time_remaining is not None:
            told.append(f"{_span(task.time_remaining)} left")
        return Text(", ".join(told))


def _span(seconds: float) -> str:
    """Hours are left out where there are none: 4 -> "0:04"."""
    text = str(timedelta(seconds=round(seconds)))
    return text[3:] if text.startswith("0:0") else text.removeprefix("0:")


class _Stage(ProgressColumn):
    """The stage, in the room that is left; a file that it names may be called "[red]", or worse."""

    def __init__(self, figures: _Figures, width: int) -> None:
        super().__init__()
        self._figures = figures
        self._width = width

    def render(self, task: Task) -> Text:
        stage = Text(printable(task.description), no_wrap=True)
        taken = self._figures.render(task).cell_len + _BAR + 1 + 3  # a spinner, and spaces between
        stage.truncate(max(self._width - taken, _STAGE), overflow="ellipsis")
        return stage
