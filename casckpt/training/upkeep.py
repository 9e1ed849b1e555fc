"""Keeping a store small in training: prune after each commit, collect and compact within a share of the time."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from casckpt.errors import (
    ForkedStoreError,
    PolicyError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFailedError,
    StoreFullError,
)
from casckpt.history.retention import Keep
from casckpt.limits import COMPACT_LEAST
from casckpt.store.protocol import HeldBack
from casckpt.tensors.repository import Repository

# Of the time that training has taken so far, gc and compact may have had this share when another one begins.
SHARE: Final = 0.1


def check_compact_above(share: float | None) -> float | None:
    """The share of a file that may be free, once it is one.

    Raises:
        PolicyError
    """
    if share is not None and (isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1):
        raise PolicyError(
            f"compact_above={share!r} is no share of a file", remedy="give one between 0 and 1, as in 0.5"
        )
    return share


class _StoppedError(Exception):
    """Raised into gc and compact, which then leave the rest as it is."""


class Upkeep:
    """Applies a policy after commits, and shrinks the file. Without either it does nothing.

    compact_above: the share of the file that may be free. stopped: whether there is no time to finish what can be left.
    """

    def __init__(
        self,
        repo: Repository,
        keep: Keep | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        compact_above: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._repo = repo
        self._keep = keep
        self._compact_above = compact_above
        self._stopped = stopped
        self.compacting = False
        """Whether the file is being rewritten, for which commits wait."""
        self.notes: deque[str] = deque()
        """What went wrong without harm, to be taken from here."""
        self._told: set[str] = set()  # who is known to hold something back
        self._refused = -COMPACT_LEAST  # bytes that were free in the file when the disk last had no room for a new one
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        self._garbage = False

    def run(self) -> None:
        """Prune; collect what was pruned, now or before; compact. The last two only within their share of the time.

        A compact that changed nothing is no error; where it was not for lack of room, there is a note. Nor is a store
        an error that was closed.

        Raises:
            StoreFailedError, MissingObjectError, CorruptObjectError
        """
        with contextlib.suppress(StoreClosedError):
            self._run()

    def _run(self) -> None:
        if self._keep is not None:
            self._garbage = self._repo.prune(self._keep).changes or self._garbage
        if self._garbage and self._has_time():
            # what somebody else collects is collected, and what is left after a stop is taken up by the next round
            with self._timed(), contextlib.suppress(StoreBusyError, _StoppedError):
                held = self._repo.gc(progress=self._go_on).held
                self._garbage = False
                self._tell_of(held)
        if self._compact_above is not None and self._has_time():
            with self._timed(), contextlib.suppress(StoreBusyError):  # it is tried again after the next commit
                self._compact(self._compact_above)

    def _tell_of(self, held: HeldBack | None) -> None:
        """Say once of each process that it keeps free pages from use: else nobody would know why the file grows."""
        if held is not None and held.bytes >= COMPACT_LEAST and held.holder not in (*self._told, "this process"):
            self._told.add(held.holder)
            self.notes.append(
                f"the store's file may grow: {held.bytes >> 20} MiB that are free in it cannot be used before "
                f"{held.holder} has done, which reads what was there {held.changes} changes ago"
            )

    def _compact(self, above: float) -> None:
        size = self._repo.store.size()
        if size.free < COMPACT_LEAST or size.free_share <= above:
            return
        if abs(size.free - self._refused) < COMPACT_LEAST or len(self._repo.store.openers()) > 1:
            return
        self.compacting = True
        try:
            self._repo.compact(progress=self._go_on)
        except (StoreBusyError, StoreFailedError, StoreClosedError, ForkedStoreError):
            raise
        except StoreError as error:  # the file is in use as it was, so that training can go on
            self._refused = size.free  # there is no use in trying again before much has changed
            if not isinstance(error, StoreFullError):
                self.notes.append(f"the store's file was not compacted: {error}")
        except _StoppedError:
            pass
        finally:
            self.compacting = False

    def _go_on(self, stage: str, done: int, total: int) -> None:
        if self._stopped():
            raise _StoppedError

    def _has_time(self) -> bool:
        return self._spent <= SHARE * (self._clock() - self._began)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - began
