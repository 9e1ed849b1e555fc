"""What tests need in C, built with gcc when it is first asked for, and programs that run under it."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Program

KILLED = -9
"""How a call ends for whoever waits for a process that was killed at it."""

BEFORE, AFTER = 0, -1
"""When a process is killed: instead of its n-th call, or after it."""

SHORT = -2
"""What befalls a call that is to write, and takes only a part of it."""

# Each line is `n what folder`. A forked child does the work on that folder, with its n-th change there failing,
# or its last; how it ended is the answer. The work calls `arm` where counting begins, and may `disarm`.
_LOOP = """
import ctypes, gc, os, sys, traceback
{work}
_faults = ctypes.CDLL(None)
gc.freeze()  # or each child would copy all that it holds, to look whether it is garbage
print("ready", flush=True)
for _line in sys.stdin:
    _n, _what, _folder = _line.rstrip("\\n").split(" ", 2)
    _child = os.fork()
    if _child == 0:
        try:
            _said = work(
                _folder,
                lambda: _faults.fault_arm(os.fsencode(_folder), int(_n), int(_what)),
                _faults.fault_disarm,
            )
            _n = "" if _faults.fault_count() < int(_n) else "in time"
            os._exit({{"": 0, "in time": 1}}[_n])
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    print(os.waitstatus_to_exitcode(os.waitpid(_child, 0)[1]), flush=True)
"""


def build(name: str, into: Path) -> Path:
    """Compile `tests/native/NAME.c` to a shared library for LD_PRELOAD, and return where it is."""
    made = into / f"{name}.so"
    source = Path(__file__).parent / f"{name}.c"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(made), str(source), "-ldl"], check=True
    )
    return made


class Doomed:
    """Does one piece of work again and again, each time with something that befalls it at another of its calls."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def meets(self, n: int, what: int, folder: Path) -> int:
        """How the work ended whose n-th change in `folder` meets `what` (`tests/native/faults.c`).

        0: it has fewer than n; 1: it came to its end all the same; KILLED.
        """
        self._program.say(f"{n} {what} {folder}")
        return int(self._program.line())


@contextmanager
def doomed(work: str, library: Path) -> Iterator[Doomed]:
    """A program that defines `work(folder, arm, disarm)`, under the library built of `faults.c`."""
    held = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = str(library)
    try:
        program = Program(_LOOP.format(work=textwrap.dedent(work)))
    finally:
        if held is None:
            del os.environ["LD_PRELOAD"]
        else:
            os.environ["LD_PRELOAD"] = held
    with program:
        assert program.line() == "ready"
        yield Doomed(program)
        program.end(None)
