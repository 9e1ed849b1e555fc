"""Keeping a store small while training goes on: prune after each commit, and collect within a share of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from casckpt.errors import StoreBusyError
from casckpt.history.retention import Keep
from casckpt.tensors.repository import Repository

# Of the time that training has taken so far, gc may have had this share when another one begins.
SHARE: Final = 0.1


class Upkeep:
    """Applies a policy after commits. Without one it does nothing."""

    def __init__(self, repo: Repository, keep: Keep | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._repo = repo
        self._keep = keep
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        self._garbage = False

    def run(self) -> None:
        """Prune; then collect what was pruned, now or before, if gc has not had its share of the time already.

        Raises:
            StoreFailedError, MissingObjectError, CorruptObjectError
        """
        if self._keep is None:
            return
        self._garbage = self._repo.prune(self._keep).changes or self._garbage
        if not self._garbage or self._spent > SHARE * (self._clock() - self._began):
            return
        began = self._clock()
        try:
            self._repo.gc()
            self._garbage = False
        except StoreBusyError:
            pass  # somebody else collects, and what is left is collected after a later commit
        finally:
            self._spent += self._clock() - began
