"""A progress display on stderr for whatever takes longer than a moment; nothing at all for what does not."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Seconds before anything is shown: what is done by then needs no display, and no import of rich.
_PATIENCE = 0.5


class Watch:
    """What is going on, shown from half a second on where stderr is a terminal. Call it as gc calls its progress.

    doing: the stage to begin with.
    """

    def __init__(self, doing: str, *, shown: bool | None = None) -> None:
        self._lock = threading.Lock()
        self._now = (doing, 0, 0)
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
        return f"{stage} ({done:,} of {total:,})" if total else stage

    def __enter__(self) -> Watch:
        if self._shown:
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._ended = True
            if self._bar is not None:
                self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            self._now = (stage, done, total)
            self._update()

    def _show(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from casckpt.cli.console import console

        with self._lock:
            if self._ended:
                return
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                console=console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._now[0], total=None)
            self._update()
            self._bar.start()

    def _update(self) -> None:
        if self._bar is not None and self._task is not None:
            stage, done, total = self._now
            self._bar.update(self._task, description=stage, completed=done, total=total or None)
