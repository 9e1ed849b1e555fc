"""Work on a thread of its own, where no interrupt can cut it in two.

Python runs the handlers of signals on the main thread, between any two of its steps: also between the two that must not
be parted, and in what cleans up after them. So what must be whole or not at all is done on another thread. Whoever
waits for it hears how far it is, and an interrupt there is passed on as a wish to stop.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from casckpt.store.protocol import Progress

T = TypeVar("T")


class StoppedError(Exception):
    """Raised in the work, where it asks whether to go on; never reaches whoever waits."""


class Aside:
    """What the work holds of whoever waits for it."""

    def __init__(self) -> None:
        self._said: SimpleQueue[tuple[str, int, int] | None] = SimpleQueue()
        self._stopped = False
        self._wake: Callable[[], None] = _nothing

    def go_on(self) -> None:
        """Where the work may end: raises StoppedError if it shall."""
        if self._stopped:
            raise StoppedError

    def report(self, stage: str, done: int, total: int) -> None:
        """Say how far it is, and `go_on`."""
        self.go_on()
        self._said.put((stage, done, total))

    def wake_by(self, wake: Callable[[], None]) -> None:
        """What gets the work out of a wait, so that it asks whether to go on."""
        self._wake = wake

    def _stop(self) -> None:
        self._stopped = True
        self._wake()


def aside(work: Callable[[Aside], T], progress: Progress) -> T:
    """Do `work` on a thread of its own; returns what it returns, or raises what it raises.

    progress: called on this thread with what it reports. If that raises, or an interrupt comes, the work ends at its
    next `go_on`, or runs to its end if there is none, before this is raised here.
    """
    held = Aside()
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(held))
        except BaseException as error:
            failures.append(error)
        finally:
            held._said.put(None)  # nothing more to say: only wakes whoever waits

    interrupt: BaseException | None = None
    try:
        # Not by threading: its start waits for an event, and an interrupt in there can keep it from ever beginning.
        _thread.start_new_thread(run, ())
        while True:
            try:
                # Looked at before each wait: an interrupt may come between the last word and its being kept here.
                if (results or failures) and held._said.empty():
                    break
                told = held._said.get()
                if told is not None and interrupt is None:
                    progress(*told)
            except BaseException as error:
                interrupt = error if interrupt is None else interrupt
                held._stop()
        if interrupt is not None:
            raise interrupt
        if failures:
            raise failures[0]
        return results[0]
    except BaseException:
        held._stop()  # one that came while the thread was starting, say; what has ended does not mind
        raise
    finally:
        del interrupt
        failures.clear()  # an error that holds on to this frame would keep both alive


def _nothing() -> None:
    pass
