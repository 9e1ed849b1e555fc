"""One transaction of this process, and what keeps it, or an environment, from being freed at a wrong moment."""

from __future__ import annotations

import ctypes
import threading
from typing import Final

import lmdb

# Never freed itself, so that nothing in it is, not even at the interpreter's exit.
_kept: Final[set[object]] = set()
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))


class Handle:
    """What one `open_store` gave out: transactions are begun in its name, and its close waits for them."""

    __slots__ = ("closed",)

    def __init__(self) -> None:
        self.closed = False


class Transaction:
    """One transaction. `raw` is None before it began, once it has ended, and in a forked child.

    writes: then only its own thread may look at `raw`, which it ends outside of the gate.
    thread: the one that began it, and for a reader, which may change hands, the one that used it last.
    """

    __slots__ = ("cursors", "handle", "raw", "thread", "writes")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.thread = threading.get_ident()
        self.writes = False
        self.raw: lmdb.Transaction[memoryview] | None = None
        self.cursors: set[lmdb.Cursor[memoryview]] = set()


def keep(thing: object) -> None:
    """Make sure that this object is never freed, not even at the interpreter's exit. Twice is once."""
    _kept.add(thing)


def give_up(thing: object) -> None:
    """Take back `keep`. Twice is once."""
    _kept.discard(thing)
