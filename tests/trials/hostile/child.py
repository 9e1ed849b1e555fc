"""A child of this process for what may hang, take all memory or kill it: each is seen, and told with its case."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import resource
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from casckpt.limits import MIB
from tests import tracing as tracing  # a child must not be traced
from tests.trials.hostile.guard import guard

# Address space that a child may take beside what it has from its parent.
MEMORY: Final = 512 * MIB
# Seconds that one case may take, on a machine that does much else.
CASE: Final = 20


class Case:
    """The number of the case that is under way, where the parent sees it whatever becomes of the child."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def begin(self, number: int) -> None:
        """The child goes on to this case, and has CASE seconds for it."""
        self._page[:8] = number.to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_REAL, CASE)

    @property
    def number(self) -> int:
        """The last one that was begun."""
        return int.from_bytes(self._page[:8], "little")

    def close(self) -> None:
        """Let go of it."""
        self._page.close()


def in_child(work: Callable[[Case], Any], folder: Path, *, memory: int = MEMORY, patience: float = 300.0) -> Any:
    """What `work` returns, as JSON has it, done in a forked child in a folder that it may write to, and nowhere else.

    memory: bytes of address space that it may take. patience: seconds, for all of it.

    Raises:
        AssertionError: it ended in another way; the number of the case is told.
    """
    case = Case()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads about
        child = os.fork()
    if child == 0:
        os.close(reading)
        _run(work, folder, memory, case, writing)
    os.close(writing)
    try:
        said = _read(reading, child, patience)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return json.loads(said)
        how = "took too long" if code in (-signal.SIGALRM, -signal.SIGKILL) else f"ended with {code}"
        raise AssertionError(f"case {case.number}: the child {how}\n{said.decode(errors='replace')}")
    finally:
        os.close(reading)
        case.close()


def _read(pipe: int, child: int, patience: float) -> bytes:
    found = bytearray()
    until = time.monotonic() + patience
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            until = time.monotonic() + 60  # its end of the pipe closes now
            continue
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return bytes(found)
        found += piece


def _run(work: Callable[[Case], Any], folder: Path, memory: int, case: Case, pipe: int) -> None:
    """All of the child's life."""
    code = 1
    try:
        faulthandler.disable()  # the parent says how it ended
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.chdir(folder)
        warnings.simplefilter("ignore")
        size = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        guard(str(folder))
        said = json.dumps(work(case)).encode()
        code = 0
    except BaseException:
        said = traceback.format_exc().encode()
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        while said:
            said = said[os.write(pipe, said) :]
    finally:
        os._exit(code)
