"""Systems that take turns, each in a process of its own: what one does to its memory makes no other faster or slower.

It does where they share one: what casckpt advises the kernel of memory stays advised when malloc hands it to torch.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.connection import Connection

from benchmarks.measure import Turn

Make = Callable[[], AbstractContextManager[Turn]]
"""What makes a system ready in its process: a function of a module, or a partial of one."""


class TurnFailedError(RuntimeError):
    """A turn raised in its process; the message is the traceback there."""


@contextmanager
def apart(makers: Mapping[str, Make]) -> Iterator[dict[str, Turn]]:
    """The turns of systems, each taken in a process that is there until the end."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(_process(make)) for name, make in makers.items()}


@contextmanager
def _process(make: Make) -> Iterator[Turn]:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(make, there))
    process.start()
    there.close()

    def turn() -> float:
        here.send(True)
        answer = here.recv()
        if isinstance(answer, str):
            raise TurnFailedError(answer)
        return float(answer)

    try:
        yield turn
    finally:
        here.close()  # it ends when nobody asks any more
        process.join()


def _serve(make: Make, asked: Connection) -> None:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        with make() as turn:
            while True:
                asked.recv()
                asked.send(turn())
    except EOFError:
        pass
    except BaseException:
        asked.send(traceback.format_exc())
