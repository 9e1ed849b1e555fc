"""A real terminal for tests: a program in a pseudo-terminal of its own, what it drew as a person would see it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte

from tests.processes import PATIENCE, ROOT

COLUMNS, LINES = 80, 24
_WIDE = 120
# In a session of its own, with the pseudo-terminal as what controls it: only so does Ctrl-C reach it as a signal.
_LEAD = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A Python program in a terminal of 80 by 24; ends by leaving its `with` block, which kills what is left.

    The screen that it is drawn on is wider and longer, so that what would be folded or scrolled away is seen.
    """

    def __init__(self, *arguments: object, cwd: Path, environment: dict[str, str] | None = None) -> None:
        self._descriptor, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        settings = termios.tcgetattr(theirs)
        settings[3] &= ~termios.ECHO  # what a test types is not what a command draws
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        left_out = ("CASCKPT_REPO", "CASCKPT_DEBUG", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LEAD, sys.executable, "-W", "error", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env={**kept, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(environment or {})},
        )
        os.close(theirs)
        self.raw = b""
        self._screen = pyte.Screen(_WIDE, 500)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without the empty lines below."""
        held = self._screen.buffer  # `display` would draw every empty line too
        rows = range(max(held, default=-1) + 1)
        found = ["".join([held[row][column].data for column in range(_WIDE)]).rstrip() for row in rows]
        while found and not found[-1]:
            found.pop()
        return found

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _read(self, until: float) -> bool:
        """Draw what comes next; False at the end."""
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise AssertionError(f"it took too long; the screen: {self.text}")
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # how a pseudo-terminal says that the other end is closed
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def wait_for(self, text: str) -> str:
        """Until this stands on the screen; returns the whole screen."""
        until = time.monotonic() + PATIENCE
        while text not in self.text:
            assert self._read(until), f"it ended before it said {text!r}; the screen: {self.text}"
        return self.text

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._descriptor, b"\x03")

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._descriptor, keys.encode())

    def end(self, patience: float = PATIENCE) -> int:
        """Wait until it ends; returns its exit code. patience: in seconds."""
        until = time.monotonic() + patience
        while self._read(until):
            pass
        return self.process.wait(timeout=PATIENCE)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._descriptor)
