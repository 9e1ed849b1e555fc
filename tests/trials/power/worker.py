"""A program under the recorder that is asked for one piece of work after another. Each is done in a forked child, so
that nothing of one is left for the next, and whatever befalls it is told and no more."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.native import build
from tests.processes import Program

# Seconds after which a piece of work is killed.
_PATIENCE: Final = 60
# What casckpt imports late, where few need it: here every piece of work does.
_LATE: Final = (
    *("counterpart", "diff", "fsck.check", "gc", "lineage", "listing", "narrow", "prune", "recode", "reinstate"),
    *("repack", "walk"),
)


def serve() -> None:
    """Do what is asked for, line by line."""
    recorder = ctypes.CDLL(None)
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        work = getattr(importlib.import_module(asked["module"]), asked["name"])
        child = os.fork()
        if child == 0:
            signal.alarm(_PATIENCE)
            _do(recorder, work, asked)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            print(json.dumps({"broken": f"it ended with {code}"}), flush=True)


def _do(recorder: ctypes.CDLL, work: Any, asked: dict[str, Any]) -> None:
    log = asked["log"]
    try:
        if log is None:
            recorder.recorder_forgo_syncs(1)
            result = work(*asked["arguments"])
        else:
            folder = asked["arguments"][0]
            assert recorder.recorder_start(os.fsencode(folder), os.fsencode(log)) >= 0
            result = work(*asked["arguments"], lambda text: recorder.recorder_mark(text.encode()))
            recorder.recorder_stop()
        answer = {"result": result}
    except BaseException:
        answer = {"broken": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
    os._exit(0)


class BrokenPromiseError(AssertionError):
    """What a piece of work raised, or how its process ended."""


class Worker:
    """Such a program under way."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def record(self, work: str, log: Path, *arguments: Any) -> None:
        """Have `work` ("module:name") done, recorded: its first argument is the folder, its last how it says things."""
        self._ask(work, str(log), arguments)

    def ask(self, work: str, *arguments: Any) -> Any:
        """What `work` returns; syncs are not waited for.

        Raises:
            BrokenPromiseError
        """
        return self._ask(work, None, arguments)

    def _ask(self, work: str, log: str | None, arguments: tuple[Any, ...]) -> Any:
        module, _, name = work.partition(":")
        self._program.say(json.dumps({"module": module, "name": name, "log": log, "arguments": arguments}))
        answer = json.loads(self._program.line())
        if "broken" in answer:
            raise BrokenPromiseError(answer["broken"])
        return answer["result"]


@contextmanager
def working(folder: Path, *works: str) -> Iterator[Worker]:
    """A worker that has imported what these need. folder: where the recorder is built, if it is not there."""
    library = folder / "recorder.so"
    if not library.exists():
        library = build("recorder", folder)
    held = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = str(library)
    try:
        modules = [work.partition(":")[0] for work in works] + [f"casckpt.history.{name}" for name in _LATE]
        imports = "".join(f"import {module}\n" for module in (*modules, "casckpt.store.pages", "casckpt.store.upgrade"))
        program = Program(f"{imports}from tests.trials.power.worker import serve\nserve()")
    finally:
        if held is None:
            del os.environ["LD_PRELOAD"]
        else:
            os.environ["LD_PRELOAD"] = held
    with program:
        assert program.line() == "ready"
        yield Worker(program)
        program.end(None)
