"""Signals that ask a run to stop: noted when they come, acted on when its state is safe. None is ever swallowed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any


class Signals:
    """Notes the first signal; at the second one everything is as if nobody had been listening.

    Only the main thread can listen; anywhere else `listen` does nothing.
    """

    def __init__(self, signals: Iterable[int]) -> None:
        self._signals = tuple(signals)
        self._before: dict[int, Any] = {}
        self._process = 0
        self.noted: int | None = None
        """The signal that came and is still to be acted on."""
        self.came = False
        """Whether one ever came."""

    def listen(self) -> None:
        """Put our handler in the place of those that are there."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._process = os.getpid()
        for number in self._signals:
            # a handler that was not set from Python cannot be put back
            if number not in self._before and signal.getsignal(number) is not None:
                self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Put the handlers back that were there."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:  # somebody else may have set one since
                signal.signal(number, handler)
        self._before = {}

    def act(self) -> None:
        """If a signal was noted, restore the handlers and raise it again."""
        if self.noted is not None:
            number, self.noted = self.noted, None
            self.restore()
            signal.raise_signal(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # a forked child has inherited this handler and nobody in it looks at what is noted. Ctrl-C comes to all of a
        # group at once, and a loader's worker that died of it would keep its parent from reaching the next commit
        if os.getpid() != self._process:
            alone = number != signal.SIGINT
        else:
            alone = False
            self.came = True
        if alone or self.noted is not None:
            self.noted = number
            self.act()
        else:
            self.noted = number


def name_of(number: int) -> str:
    """A signal's name; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
