"""Where salvage reads and where it writes: a source that nobody has open, and a folder that is a store at the very end.

The new store is made in a folder within its place. What an interrupted salvage leaves is no store, says so to whoever
opens it, and is cleared away by the next one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from casckpt.errors import NotAStoreError, StoreBusyError, StoreNotFoundError
from casckpt.store import filesystem, openers
from casckpt.store.lmdb_lock import refuse_locked
from casckpt.store.mark import Mark, mark_copy
from casckpt.store.unfinished import SALVAGING, Filling, check_free, filling

DATA: Final = "data.mdb"
MAKING: Final = "salvaging"
_OWN: Final = frozenset({MAKING})


def find_source(path: Path) -> Path:
    """The data file of a store, or the file itself.

    Raises:
        StoreNotFoundError: there is none.
        StoreBusyError: somebody has it open.
    """
    data = path / DATA if path.is_dir() else path
    if not data.is_file():
        raise StoreNotFoundError(
            f"there is no {DATA} here", store=str(path), remedy="give a store's folder, or its data file"
        )
    check_unused(data)
    return data


def check_unused(data: Path) -> None:
    """Raise StoreBusyError where somebody has the store of a data file open."""
    folder = data.parent
    if data.name != DATA:
        return
    holders = tuple(openers.describe(path) for path in openers.live(folder))
    if holders:
        raise StoreBusyError(
            f"{', '.join(holders)} has it open",
            store=str(folder),
            holders=holders,
            remedy="end that first: what is written meanwhile would be seen in part",
        )
    refuse_locked(folder)  # asked for only now: this process has it not open


def identity(data: Path) -> tuple[int, int, int, int]:
    """What changes when a file does."""
    stat = data.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def check_destination(source: Path, place: Path) -> None:
    """Refuse, before anything is made, what is no place for the new store.

    Raises:
        NotAStoreError
    """
    if place == source.parent or place.is_relative_to(source.parent / MAKING) or place == source:
        raise NotAStoreError("this is what is to be salvaged", store=str(place), remedy="give a folder elsewhere")
    if not place.exists():
        return
    if not place.is_dir():
        raise NotAStoreError("this is a file", store=str(place), remedy="give a new folder, or an empty one")
    check_free(place, SALVAGING, _OWN)


def check_others(source: Path, others: Iterable[Path]) -> None:
    """Refuse, as another store, what is to be salvaged: under another name, too, LMDB would be asked to map it.

    Raises:
        NotAStoreError
    """
    for place in others:
        with contextlib.suppress(OSError):  # what is wrong there is told when it is opened
            if (place / DATA).samefile(source):
                raise NotAStoreError(
                    "this is what is to be salvaged", store=str(place), remedy="give another store, such as a backup"
                )


@contextlib.contextmanager
def making(place: Path) -> Iterator[tuple[Path, Filling]]:
    """A folder to make the store in; gone afterwards, whatever happened, unless the process was killed.

    Raises:
        StoreBusyError: another salvage to this place is under way.
        NotAStoreError: something was put there meanwhile.
    """
    filesystem.refuse_network(place)
    made = not place.exists()
    try:
        with contextlib.ExitStack() as held:
            held.enter_context(filesystem.system_errors(place, "it cannot be written"))
            place.mkdir(parents=True, exist_ok=True)
            found = held.enter_context(filling(place, SALVAGING, _OWN, "salvage"))
            folder = place / MAKING
            shutil.rmtree(folder, ignore_errors=True)
            try:
                yield folder, found
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        if made:
            with contextlib.suppress(OSError):  # nothing came of it
                place.rmdir()


def put_in_place(found: Filling, folder: Path, place: Path, mark: Mark) -> None:
    """Make the store that is whole and closed in `folder` the store at `place`, as one step that holds for good."""
    with filesystem.system_errors(place, "the store cannot be put into its place"):
        _leave_only_data(folder)
        found.put(folder / DATA)
        mark_copy(place / "mark", mark)
        (place / "gate").touch()
        filesystem.sync_folder(place)
        filesystem.sync_place(place)


def _leave_only_data(folder: Path) -> None:
    """Remove what else is in it: whoever opens the store removes the folder, if it is empty, were this to be killed."""
    for one in list(folder.iterdir()):
        if one.is_dir():
            shutil.rmtree(one)
        elif one.name != DATA:
            one.unlink()
