"""A process of its own that has torch imported and no threads, in which trials are made, in children that it forks.

So no trial waits for an interpreter to start, and what befalls one befalls it alone. A child that takes too long is
killed, which is a broken promise: nothing may hang.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import pkgutil
import select
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import casckpt
from tests.processes import ROOT

T = TypeVar("T")

CHILD_TAKES = 30
"""Seconds that a child of a trial may take."""
TRIAL_TAKES = 120
"""Seconds that a trial may take."""
_PDEATHSIG = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def in_child(work: Callable[..., T], *arguments: object) -> T:
    """What `work` returns for these arguments, done in a forked child.

    Raises:
        AssertionError: it raised something, was killed, or took too long.
    """
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        os.close(reading)
        faulthandler.register(signal.SIGALRM, chain=True)  # a handler in Python would never run in a hang in C
        signal.alarm(CHILD_TAKES)
        try:
            said = pickle.dumps((True, work(*arguments)))
        except BaseException:
            said = pickle.dumps((False, traceback.format_exc()))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(said)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0 and said, f"a child ended with {os.waitstatus_to_exitcode(status)}"
    good, result = pickle.loads(said)
    assert good, result
    return result  # type: ignore[no-any-return]


def fork() -> int:
    """As `os.fork`, with nothing of ours waiting to be written."""
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def warm(work: str, preload: Path | None = None, *arguments: str) -> Callable[[Iterable[int], Path], Trials]:
    """The trials of a recipe: `work`, as "module:function", is called with each seed and a folder, in a warm process.

    It returns a Counter. preload: a library for LD_PRELOAD.
    """

    def trials(seeds: Iterable[int], folder: Path) -> Trials:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if preload is not None:
            environment["LD_PRELOAD"] = str(preload)
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.trials.warm", str(os.getpid()), work, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            for seed in seeds:
                yield _ask(process, seed, folder)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    return trials


Trials = Generator["Counter[str]", None, None]


def _ask(process: subprocess.Popen[bytes], seed: int, folder: Path) -> Counter[str]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{seed} {folder}\n".encode())
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], TRIAL_TAKES)
    assert ready, f"the trial of seed {seed} hangs"
    try:
        good, result = pickle.load(process.stdout)
    except EOFError:
        raise AssertionError(f"the trial of seed {seed} ended the process: {process.wait()}") from None
    assert good, f"the trial of seed {seed}: {result}"
    found: Counter[str] = result
    return found


def _end_with(parent: int) -> None:
    """Be killed when whoever started this process is gone: it is in a session of its own, where no one else ends it."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _serve(parent: str, name: str, *arguments: str) -> None:
    _end_with(int(parent))
    import gc

    import torch

    torch.set_num_threads(1)  # threads do not come along with a fork
    module, function = name.split(":")
    work: Callable[..., Any] = getattr(import_module(module), function)
    for one in pkgutil.walk_packages(casckpt.__path__, "casckpt."):  # else each child would import what it needs anew
        if not one.name.startswith("casckpt.cli"):
            import_module(one.name)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    gc.freeze()
    for line in sys.stdin:
        seed, folder = line.rstrip("\n").split(" ", 1)
        try:
            said = True, work(int(seed), Path(folder), *arguments)
        except Exception:
            said = False, traceback.format_exc()
        pickle.dump(said, out)
        out.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
