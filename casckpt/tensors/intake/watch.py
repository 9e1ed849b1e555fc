"""Takes in each checkpoint that other programs write into a folder, when it is finished. It looks again and again:
that works on every file system, for every writer.

What is still being written is left alone, and what cannot be read is told once and left alone until it changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from casckpt.errors import ImportFormatError, RefMovedError
from casckpt.tensors.intake.discover import Checkpoint, Found, discover
from casckpt.tensors.intake.intake import Intake, try_to_take
from casckpt.tensors.intake.report import ImportReport, Item, OnItem, Outcome
from casckpt.tensors.intake.settled import Settling, is_being_written, lacks
from casckpt.tensors.look import Look, look

if TYPE_CHECKING:
    from casckpt.tensors.repository import Repository


class Watching:
    """One folder that is looked at. Each look takes in what has been finished since.

    settle: seconds for which a checkpoint must have looked the same. stop: ends a look between two checkpoints.
    """

    def __init__(
        self,
        repo: Repository,
        folder: Path,
        *,
        settle: float,
        pattern: str | None = None,
        part: str | None = None,
        stop: Event | None = None,
        on_item: OnItem | None = None,
    ) -> None:
        self._repo = repo
        self._folder = folder
        self._pattern = pattern
        self._stop = stop or Event()
        self._on_item = on_item
        self._before = repo.store.size()
        self._intake = Intake(repo, part)
        self._settling = Settling(settle)
        self._failed: dict[str, Look] = {}
        self._items: list[Item] = []
        self._waiting: dict[str, Item] = {}
        self._found = Found((), ())

    def look(self, now: float) -> None:
        """Look once, at `now` seconds of a clock that never goes back, and take in what is finished by this look.

        Raises:
            ImportFormatError: the folder cannot be listed.
            StoreFullError, StoreFailedError: as `Repository.commit`.
        """
        try:
            self._found = discover(self._folder, self._pattern)
        except OSError as error:
            raise ImportFormatError(f"cannot be read: {error.strerror}", file=str(self._folder)) from error
        names = {one.name for one in self._found.checkpoints}
        self._settling.keep(names)
        self._failed = {name: seen for name, seen in self._failed.items() if name in names}
        self._waiting = {}
        for one in self._found.checkpoints:
            if self._failed.get(one.name) == one.look or self._intake.present(one) is not None:
                continue
            if self._stop.is_set():
                self._wait(one, "it was not come to")
                continue
            try:
                reason = self._unfinished(one, now)
            except OSError:
                continue  # it is gone, or is being replaced: the next look shows
            if reason is None:
                self._take(one)
            else:
                self._wait(one, reason)

    def _unfinished(self, one: Checkpoint, now: float) -> str | None:
        if not self._settling.rests(one.name, one.look, now):
            return "it was changed not long ago"
        return "it is open for writing" if is_being_written(one.path) else None

    def _take(self, one: Checkpoint) -> None:
        item = self._outcome(one)
        if item.outcome is Outcome.FAILED:
            if look(one.path) != one.look:  # somebody writes to it again, so it was not finished
                self._wait(one, "it is being written to")
                return
            self._failed[one.name] = one.look
        self._items.append(item)
        if self._on_item is not None:
            self._on_item(item)

    def _outcome(self, one: Checkpoint) -> Item:
        try:
            lack = lacks(one.path)
        except OSError as error:
            lack = f"cannot be read: {error.strerror}"
        if lack is not None:
            failure = ImportFormatError(lack, file=str(one.path), remedy="it is left alone until it changes")
            return Item(one.name, one.number, one.look.nbytes, Outcome.FAILED, error=failure)
        while True:
            try:
                # one that has no number in its name is there to be written again and again
                return try_to_take(self._intake, one, private=one.number is None)
            except RefMovedError:
                # somebody else commits to this branch as well: go on from where it is now
                self._repo.follow(self._repo.resolve(self._repo.current_branch))
                self._intake.look_again()
                commit = self._intake.present(one)
                if commit is not None:
                    return Item(one.name, commit.step, one.look.nbytes, Outcome.PRESENT, commit)

    def _wait(self, one: Checkpoint, reason: str) -> None:
        self._waiting[one.name] = Item(one.name, one.number, one.look.nbytes, Outcome.WAITING, reason=reason)

    def report(self) -> ImportReport:
        """What was taken and what failed, in the order in which it was, and what waits as of the last look."""
        return ImportReport(
            str(self._folder),
            self._repo.current_branch,
            False,
            (*self._items, *self._waiting.values()),
            self._found.left_out,
            self._before,
            self._repo.store.size(),
        )


def keep_looking(
    watching: Watching,
    *,
    interval: float,
    stop: Event,
    once_after: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> ImportReport:
    """Look each `interval` seconds until `stop` is set; says what came of it.

    once_after: look twice only, so many seconds apart.

    Raises:
        ImportFormatError: the folder cannot be listed at the first look. Later that is waited out: it may be mounted
            again.
        StoreFullError, StoreFailedError: as `Repository.commit`.
    """
    watching.look(clock())
    while not stop.wait(interval if once_after is None else once_after):
        with suppress(ImportFormatError):
            watching.look(clock())
        if once_after is not None:
            break
    return watching.report()
