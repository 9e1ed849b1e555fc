"""A progress display on stderr for whatever takes longer than a moment; nothing at all for what does not.

A stage whose end is known has a bar, with its rate and the time left; another shows that it goes on.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from casckpt.cli.units import human_bytes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Seconds before anything is shown: what is done by then needs no display, and no import of rich.
_PATIENCE = 0.5


class Watch:
    """What is going on, shown from half a second on where stderr is a terminal. Call it as gc calls its progress.

    doing: the stage to begin with. unit: what is counted, "bytes" or any noun in the plural. units: the same for
    stages that count something else.
    """

    def __init__(
        self, doing: str, *, unit: str = "", units: Mapping[str, str] | None = None, shown: bool | None = None
    ) -> None:
        self._unit = unit
        self._units = units or {}
        self._lock = threading.Lock()
        self._now = (doing, 0, 0)
        self._of = ""
        self._ends = False
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._ended = False
        self._timer = threading.Timer(_PATIENCE, self._show)
        self._timer.daemon = True
        self._shown = sys.stderr.isatty() if shown is None else shown

    @property
    def stage(self) -> str:
        """The stage that was last heard of, with how far it had come."""
        stage, done, total = self._now
        unit = self._units.get(stage, self._unit)
        return f"{stage} ({amount(done, unit)} of {amount(total, unit)})" if total else stage

    def __enter__(self) -> Self:
        if self._shown:
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._ended = True
            if self._bar is not None:
                self._bar.stop()
        if self._shown:
            self._timer.join()  # the interpreter must not end while a thread is in the midst of an import

    def __call__(self, stage: str, done: int, total: int, of: str = "") -> None:
        """of: what the stage is at just now, such as a file's name; the rate goes on over all of them."""
        with self._lock:
            begins = stage != self._now[0]
            self._now = (stage, done, total)
            self._of = of
            if begins or (self._ends and not total):
                self._begin()
            else:
                self._update()
            self._ends = bool(total)

    def _show(self) -> None:
        from casckpt.cli.progress_bar import made

        with self._lock:
            if not self._ended:
                self._bar = made()
                self._begin()
                self._bar.start()

    def _begin(self) -> None:
        """A task for each stage: one that once had an end keeps it, and its rate is that of the stage before."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        stage = self._now[0]
        self._task = self._bar.add_task(stage, total=None, unit=self._units.get(stage, self._unit))
        self._update()

    def _update(self) -> None:
        if self._bar is None or self._task is None:
            return
        stage, done, total = self._now
        description = f"{stage} {self._of}" if self._of else stage
        self._bar.update(self._task, description=description, completed=done, total=total or None)


def amount(count: int, unit: str) -> str:
    """A count as it is shown: (1 << 20, "bytes") -> "1.00 MiB"; (1200, "chunks") -> "1,200 chunks"; (3, "") -> "3"."""
    if unit == "bytes":
        return human_bytes(count)
    return f"{count:,} {unit}" if unit else f"{count:,}"
