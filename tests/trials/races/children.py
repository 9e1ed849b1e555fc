"""Processes that are forked from a warm one, which has everything imported and no store open, and talk by pipes.

None may outlive its trial, and nobody waits for one for ever: whoever says nothing for so long is killed, and that is a
broken promise.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds for which a process may be silent."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.trials.races.warm"])

Work = Callable[..., None]
"""What a child does: gets its end of a pipe, and what it was given."""


class BrokenPromiseError(AssertionError):
    """A child died, hung, or met an error that it should not have met."""


class Child:
    """A process of our own."""

    def __init__(self, name: str, work: Work, *given: object) -> None:
        self.name = name
        self.pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=_run, args=(work, theirs, given), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def say(self, what: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is dead: `hear` says of what
            self.pipe.send(what)

    def hear(self, patience: float = PATIENCE) -> Any:
        """What it says next.

        Raises:
            BrokenPromiseError: it says nothing, or that it failed, or died.
        """
        try:
            if not self.pipe.poll(patience):
                where = _stack(self.pid)
                self.kill()
                raise BrokenPromiseError(f"{self.name} hangs:\n{where}")
            said = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(PATIENCE)
            raise BrokenPromiseError(f"{self.name} died: {self._process.exitcode}") from None
        if isinstance(said, tuple) and said and said[0] == "failed":
            raise BrokenPromiseError(f"{self.name} failed:\n{said[1]}")
        return said

    def stop(self) -> None:
        """Freeze it, and see that it is frozen."""
        os.kill(self.pid, signal.SIGSTOP)
        while _state(self.pid) not in "TtZX":
            os.sched_yield()

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.join(PATIENCE)

    def end(self) -> None:
        """Wait until it ends by itself, and well."""
        self._process.join(PATIENCE)
        code = self._process.exitcode
        if code is None:
            where = _stack(self.pid)
            self.kill()
            raise BrokenPromiseError(f"{self.name} does not end:\n{where}")
        if code:
            with contextlib.suppress(EOFError):
                while self.pipe.poll():
                    self.hear()
            raise BrokenPromiseError(f"{self.name} ended with {code}")


@contextlib.contextmanager
def family() -> Iterator[Callable[..., Child]]:
    """Makes children, all of which are gone at the end."""
    children: list[Child] = []

    def make(name: str, work: Work, *given: object) -> Child:
        child = Child(name, work, *given)
        children.append(child)
        return child

    try:
        yield make
    finally:
        for child in children:
            child.kill()
            child.pipe.close()


def _run(work: Work, pipe: Connection, given: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work(pipe, *given)
    except BaseException:
        with contextlib.suppress(OSError):
            pipe.send(("failed", traceback.format_exc()))
        os._exit(3)
    pipe.close()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def _stack(pid: int) -> str:
    """Where in the kernel a process is, as far as that is told."""
    lines = []
    for name in ("wchan", "syscall", "status"):
        with contextlib.suppress(OSError):
            lines.append(f"{name}: {Path(f'/proc/{pid}/{name}').read_text()[:600]}")
    return "\n".join(lines)
