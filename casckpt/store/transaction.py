"""One transaction of this process, and what keeps it, or an environment, from being freed at a wrong moment."""

from __future__ import annotations

import ctypes
import threading

import lmdb


class Handle:
    """What one `open_store` gave out: transactions are begun in its name, and its close waits for them."""

    __slots__ = ("closed", "given_back")

    def __init__(self) -> None:
        self.closed = False
        self.given_back = False


class Transaction:
    """One transaction. `raw` is None before it began, once it has ended, and in a forked child.

    thread: the one that began it, and for a reader, which may change hands, the one that used it last.
    """

    __slots__ = ("cursors", "handle", "raw", "thread")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.thread = threading.get_ident()
        self.raw: lmdb.Transaction[memoryview] | None = None
        self.cursors: set[lmdb.Cursor[memoryview]] = set()


def keep(thing: object) -> None:
    """Make sure that this object is never freed, not even at the interpreter's exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def give_up(thing: object) -> None:
    """Take back `keep`."""
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(thing))
