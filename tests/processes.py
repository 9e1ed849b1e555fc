"""Real processes for tests: Python programs that talk by lines, and forked children whose outcome comes back."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
# No child of a test may take longer; one that does is killed and fails the test.
PATIENCE = 60


class Program:
    """A Python program under way. Whatever it prints is read line by line; `stop` kills it if it is still there."""

    def __init__(self, source: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(source), *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line that it prints; fails with its errors if it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=PATIENCE)
            raise AssertionError(f"the program ended, {self.process.returncode}: {errors}")
        return line.rstrip("\n")

    def say(self, line: str = "") -> None:
        """Give it a line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self, line: str | None = "") -> str:
        """Give it a last line, wait until it ends well, and return what it still printed."""
        output, errors = self.process.communicate(None if line is None else line + "\n", timeout=PATIENCE)
        assert self.process.returncode == 0, f"the program ended with {self.process.returncode}: {errors}"
        assert not errors, errors
        return output

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def run(source: str, *arguments: object) -> str:
    """Run a Python program to its good end; returns what it printed."""
    with Program(source, *arguments) as program:
        return program.end(None)


def forked(work: Callable[[], object]) -> str:
    """Run `work` in a forked child and return the text of what it returned, or its traceback.

    The child collects its garbage and then ends by `os._exit`: it must never get back into the test runner.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads about is what is tested
        child = os.fork()
    if child == 0:
        os.close(reading)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler in Python would never run in a hang in C
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(PATIENCE)
        try:
            said = str(work())
        except BaseException:
            said = traceback.format_exc()
        gc.collect()
        os.write(writing, said.encode())
        os.close(writing)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}: {said}"
    return said
