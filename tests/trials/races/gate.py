"""Where a child stops until it is told to go on: before each transaction of its stores, and after each commit.

Whatever processes do to each other through a store, they do by transactions. So whoever decides which of them begins
its next one decides on the whole interleaving, and can make it again.
"""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection

from casckpt.store.environment import Environment
from casckpt.store.transaction import Transaction

FOR_EVER = 1 << 60


class Gate:
    """The points of one child. left: how many it may still pass without a word."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self.left = FOR_EVER
        self.passed = 0

    def point(self, name: str) -> None:
        """Go on, or say where this is and wait for a number of points to pass: this one and those after it."""
        with self._lock:
            self.passed += 1
            if self.left <= 0:
                self._pipe.send(("at", name))
                self.left = self._pipe.recv()
            self.left -= 1

    def install(self) -> None:
        """Have every environment of this process pass here. Never inside of a write transaction: the others would wait
        for it, and whoever holds the gate for them."""
        begin_read, begin_write, commit = Environment.begin_read, Environment.begin_write, Environment.commit

        def reading(environment: Environment, transaction: Transaction) -> None:
            if environment._writing_thread is None:
                self.point("read")
            begin_read(environment, transaction)

        def writing(environment: Environment, transaction: Transaction) -> None:
            if environment._writing_thread is None:
                self.point("write")
            begin_write(environment, transaction)

        def committed(environment: Environment, transaction: Transaction, *, durable: bool) -> None:
            commit(environment, transaction, durable=durable)
            self.point("committed")

        Environment.begin_read = reading  # type: ignore[method-assign]
        Environment.begin_write = writing  # type: ignore[method-assign]
        Environment.commit = committed  # type: ignore[method-assign]
