"""Threads for work behind the caller, which the interpreter's exit waits for.

Not those of `threading`: an interrupt in `start` can leave the new thread waiting for ever, and one in `is_alive` or
`join` marks as ended what is at work.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from _thread import start_new_thread
from collections.abc import Callable
from typing import Protocol


class Waited(Protocol):
    """Something that work is handed over to."""

    def finish(self) -> None:
        """Return when all of it is done that this process was to do. New work finds no thread any more."""


def begin(work: Callable[[], object]) -> bool:
    """Have it done on a new thread; False: none can be had, or the exit would not wait for it, and it is not done.

    After an interrupt in here it may be done or not.
    """
    if _exiting:
        return False
    try:
        start_new_thread(work, ())
    except RuntimeError:  # the system's limit, or the interpreter is about to end
        return False
    return True


def wait_at_exit(one: Waited) -> None:
    """Have the interpreter's exit wait until it is finished; it is not kept alive for that."""
    _waited[id(one)] = one


def _finish() -> None:
    global _exiting
    _exiting = True
    for found in _waited.valuerefs():  # others may add to them
        try:
            if (one := found()) is not None:
                one.finish()
        except Exception:
            _log.exception("work behind the program was not waited for")


_log = logging.getLogger(__name__)
_exiting = False
_waited: weakref.WeakValueDictionary[int, Waited] = weakref.WeakValueDictionary()
# Before the threads of `threading` are joined, as for a ThreadPoolExecutor: the children of multiprocessing wait there,
# and run none of the functions of atexit. And again afterwards, for what those threads handed over.
try:
    getattr(threading, "_register_atexit", atexit.register)(_finish)
except RuntimeError:  # imported when the exit has begun
    _exiting = True
atexit.register(_finish)
