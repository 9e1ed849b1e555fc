"""Room on the disk for what a store writes: looked for before a batch, and some of it held behind the last page.

LMDB copies what it changes, so that on a disk without a byte free not even a deletion could be committed. That there is
nothing to hold must never fail the change behind which it was to be held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import lmdb

from casckpt.errors import StoreFullError
from casckpt.limits import MIB
from casckpt.store import filesystem

# Pages that a commit copies beside what it is given: the path to each changed leaf of each tree, and LMDB's free list.
_BESIDE: Final = MIB
# This much is there after a commit; it is taken in steps, while there is some.
_RESERVE: Final = 2 * MIB
_RESERVE_STEP: Final = 2 * MIB
KEPT_FREE: Final = _RESERVE + _RESERVE_STEP
"""Bytes of the disk that a store holds beyond its last page, at most."""


class Reserve:
    """What the disk holds for one data file behind its last page."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._until = 0

    def keep(self, end: int) -> None:
        """Hold what is to be there behind byte `end`, where the last page ends now, if the disk has it."""
        end += _RESERVE
        if end > self._until:
            self._until = end + _RESERVE_STEP
            with contextlib.suppress(OSError):  # the change is made, and may have eaten what there was
                filesystem.reserve(self._data, self._until)


def check_room(store: Path, room: int, free: Callable[[], int]) -> None:
    """Check that the disk has room for `room` more bytes, so far as free pages of the file don't.

    free: bytes of those; asked only where the disk alone has not enough.

    Raises:
        StoreFullError: with what is needed and what there is.
    """
    available = filesystem.free_bytes(store)
    needed = room + room // 32 + _BESIDE
    if needed <= available:
        return
    needed -= free()
    if needed > available:
        raise StoreFullError(
            f"the disk has no room: {needed} bytes are needed, {available} are free",
            store=str(store),
            needed=needed,
            available=available,
            remedy="free some room, or prune and gc, which work on a full disk",
        )


def want_of_room(store: Path, doing: str, error: lmdb.Error) -> StoreFullError | None:
    """What is to be said of a write that failed for want of room; None where it failed for another reason.

    LMDB may say no more than that it failed, so the disk is asked too.
    """
    code = getattr(error, "code", 0)
    available: int | None = None
    with contextlib.suppress(OSError):  # as where the folder is gone
        available = filesystem.free_bytes(store)
    if (
        isinstance(error, lmdb.MapFullError)
        or code in filesystem.FULL
        or (available is not None and available < _BESIDE)
    ):
        return StoreFullError(
            f"{doing}, because there is no room: {error}",
            store=str(store),
            needed=_BESIDE,
            available=available or 0,
            remedy="open the store again; prune and gc work on a full disk",
        )
    return None
