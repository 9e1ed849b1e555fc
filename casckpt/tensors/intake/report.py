"""What became of the checkpoints that were to be taken in, and what that cost the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from casckpt.errors import CasckptError
from casckpt.history.commits import Commit
from casckpt.store.protocol import StoreSize
from casckpt.tensors.intake.discover import LeftOut


class Outcome(Enum):
    """What became of a checkpoint."""

    TAKEN = "taken"
    """It is a commit now."""
    PRESENT = "present"
    """The branch had it before: a file of this name, with as many bytes, last changed at the same time."""
    FAILED = "failed"
    """It cannot be read or saved; nothing of it was committed."""
    WAITING = "waiting"
    """It was not come to, or is not finished yet."""


@dataclass(frozen=True, slots=True)
class Item:
    """One checkpoint and what became of it. nbytes: of its files. commit: where the branch has it.

    step: of the commit; where there is none, as far as the name tells. error: why it failed. reason: what it waits for.
    """

    name: str
    step: int | None
    nbytes: int
    outcome: Outcome
    commit: Commit | None = None
    error: CasckptError | None = None
    reason: str = ""

    @property
    def stored(self) -> int:
        """Bytes of the chunks that had to be written for it."""
        figures = self.commit.figures if self.commit is not None and self.outcome is Outcome.TAKEN else None
        return figures.stored if figures is not None else 0


OnItem = Callable[[Item], object]
"""Called with a checkpoint when it is known what becomes of it. What was taken is durable by then."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of a file, or of each checkpoint of a folder, in the order in which they were come to.

    left_out: what looks like a checkpoint and is none. before, after: sizes of the store.
    """

    path: str
    branch: str
    dry_run: bool
    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...]
    before: StoreSize
    after: StoreSize

    def of(self, outcome: Outcome) -> list[Item]:
        """The items with this outcome."""
        return [item for item in self.items if item.outcome is outcome]

    @property
    def taken(self) -> int:
        """How many were taken."""
        return len(self.of(Outcome.TAKEN))

    @property
    def nbytes(self) -> int:
        """Bytes of the files that were taken."""
        return sum(item.nbytes for item in self.of(Outcome.TAKEN))

    @property
    def stored(self) -> int:
        """Bytes of the chunks that had to be written for them."""
        return sum(item.stored for item in self.items)

    @property
    def saved(self) -> float:
        """Bytes of files per byte of chunks written."""
        return self.nbytes / self.stored if self.stored else 1.0

    @property
    def error(self) -> CasckptError | None:
        """Why the first one that failed did."""
        return next((item.error for item in self.items if item.error is not None), None)
