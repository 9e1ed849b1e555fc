"""What goes on behind training: the commit that was handed over, upkeep after it, and what of both failed.

Nothing that lives here while a thread does may reach the Checkpointer: it would keep the loader's workers. An error is
told once, by the next thing that is called, and never by the thread on which it came up.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal

from casckpt.errors import CasckptError
from casckpt.history.commits import Commit
from casckpt.tensors.pending import PendingCommit
from casckpt.tensors.repository import Repository
from casckpt.training.rounds import Rounds
from casckpt.training.upkeep import Upkeep

_UPKEEP: Final = "old commits could not be cleared away"


@dataclass(frozen=True, slots=True)
class Flight:
    """A commit that was handed over. best: the monitored metric before it, which counts again where it fails."""

    pending: PendingCommit
    step: int
    best: float | None

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that makes it; a forked child has no part in it."""
        return self.pending.process == os.getpid()


@dataclass(frozen=True, slots=True)
class Ended:
    """How one ended. commit: durable; None: it failed."""

    flight: Flight
    commit: Commit | None


class Behind:
    """At most one commit and one round of upkeep at a time, and the errors of both.

    on_error: what `tell` does with an error: "raise", or "warn".
    """

    def __init__(self, repo: Repository, upkeep: Upkeep, on_error: Literal["raise", "warn"]) -> None:
        self._repo = repo
        self._upkeep = upkeep
        self._on_error = on_error
        self._rounds = Rounds(upkeep.run)
        self._flight: Flight | None = None
        self._untold: deque[tuple[str, BaseException]] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether a commit would have to wait."""
        return self._flight is not None or self._upkeep.compacting

    def hand_over(self, flight: Flight) -> None:
        """A commit is under way; upkeep is to follow it."""
        self._flight = flight
        flight.pending.add_done_callback(self._rounds.landed)

    def clear_away(self) -> None:
        """A commit was made at once; upkeep is to follow it."""
        self._rounds.ask()

    @property
    def has_landed(self) -> bool:
        """Whether the commit that was handed over is durable; of one that failed, nobody is told by asking."""
        flight = self._flight
        if flight is None or not flight.is_ours or not flight.pending.done():
            return False
        return Future.exception(flight.pending) is None

    def settle(self, *, wait: bool) -> Ended | None:
        """How the commit that was handed over ended, once; None: it has not, or there was none.

        Its error is kept for `tell`.
        """
        flight = self._flight
        if flight is None:
            return None
        if not flight.is_ours:
            self._flight = None
            return None
        if not wait and not flight.pending.done():
            return None
        error = flight.pending.exception()
        self._flight = None
        if error is None:
            return Ended(flight, flight.pending.result())
        self._untold.append((f"step {flight.step} was not saved", error))
        return Ended(flight, None)

    def drain(self) -> None:
        """Return when everything that was handed over is durable, and upkeep is done."""
        try:
            self._repo.wait()
        finally:
            self._rounds.wait()

    def tell(self) -> None:
        """Raise, or warn of, what failed: each thing once. To be called by what the user calls, which warnings name."""
        while self._upkeep.notes:
            warnings.warn(self._upkeep.notes.popleft(), RuntimeWarning, stacklevel=3)
        while self._rounds.failures:
            self._untold.append((_UPKEEP, self._rounds.failures.popleft()))
        while self._untold:
            what, error = self._untold.popleft()
            if self._on_error == "warn" and isinstance(error, (CasckptError, OSError)):
                warnings.warn(f"{what}: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=3)
                continue
            error.add_note(f"behind training: {what}")
            while self._untold:
                what, other = self._untold.popleft()
                error.add_note(f"and {what}: {type(other).__name__}: {other}")
            try:
                raise error
            finally:
                del error  # which holds on to the frames that it passes, and they to the loader
