"""Where salvage reads and where it writes: a source that nobody has open, and a folder that is a store at the very end.

It must never change what it reads, nor what it did not make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from casckpt.errors import NotAStoreError, StoreBusyError, StoreNotFoundError
from casckpt.store import destination, filesystem, openers
from casckpt.store.aside import aside
from casckpt.store.folder import DATA
from casckpt.store.lmdb_lock import refuse_locked
from casckpt.store.mark import Mark
from casckpt.store.protocol import no_progress


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


def check_destination(source: Path, data: Path, place: Path) -> None:
    """Refuse, before anything is made, what is no place for the new store.

    source: what is to be salvaged, as it was given: a store's folder, or its data file, which is `data`.

    Raises:
        NotAStoreError
    """
    if place.is_relative_to(source) or place == data.parent:
        raise NotAStoreError("this is what is to be salvaged", store=str(place), remedy="give a folder elsewhere")
    destination.check_empty(place)


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
def making(place: Path) -> Iterator[Path]:
    """A new folder in `place` to make the store in; gone afterwards, whatever happened, unless the process was killed.

    Raises:
        NotAStoreError: something was put there meanwhile.
    """
    filesystem.refuse_network(place)
    with (
        filesystem.system_errors(place, "it cannot be written"),
        destination.working_folder(place, destination.SALVAGE) as folder,
    ):
        yield folder


def put_in_place(data: Path, folder: Path, mark: Mark) -> None:
    """Make the store that is whole and closed in `folder` the store at its place, as one step that holds for good.

    data: the file that it was made of; who may not read that may not read this.

    Raises:
        StoreBusyError: somebody has it open, and would write into it under another lock.
    """
    check_unused(folder / DATA)
    destination.keep_private(data, folder / DATA)
    aside(lambda held: destination.put_in_place(folder, mark), no_progress)
