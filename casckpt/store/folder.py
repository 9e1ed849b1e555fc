"""What lies in the folder of a store: the names that are casckpt's there, and of what sort each must be.

The folder may come from anybody. What has one of these names and is something else, a link out of it or a pipe that
never ends, must never be read, written, followed or removed.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from casckpt.errors import NotAStoreError

DATA: Final = "data.mdb"
LOCK: Final = "lock.mdb"
GATE: Final = "gate"
MARK: Final = "mark"
MAINTENANCE: Final = "maintenance"
OPENERS: Final = "openers"
EXAMINED: Final = "examined"
CREATING: Final = "creating"
"""The folder in which the first data file of a store is made. Its own, since what compact left may be the only copy."""
COMPACTING: Final = "compacting"
"""The folder in which compact makes a new data file. Left behind by one that was killed, it is of no use.

A folder, because LMDB notes in a file whether it has a name of its own, which that of a store must not.
"""
FILES: Final = frozenset({LOCK, GATE, MARK, MAINTENANCE, EXAMINED})
FOLDERS: Final = frozenset({OPENERS, CREATING, COMPACTING})


def check_sorts(folder: Path) -> None:
    """Look at whatever has one of our names, before any of it is touched. The data file may be a link to one.

    Raises:
        NotAStoreError
    """
    for name in sorted(FILES | {DATA, OPENERS}):
        one = folder / name
        try:
            mode = one.stat().st_mode if name == DATA else one.lstat().st_mode
        except FileNotFoundError:
            if name != DATA or not one.is_symlink():
                continue
            mode = stat.S_IFLNK
        if not (stat.S_ISDIR(mode) if name in FOLDERS else stat.S_ISREG(mode)):
            raise NotAStoreError(
                f"its {name} is no {'folder' if name in FOLDERS else 'file'}, but {_sort(mode)}",
                store=str(folder),
                remedy="see where it came from, and move it away",
            )


def is_plain(path: Path) -> bool:
    """Whether this is a file itself: no link to one, and nothing that may keep its reader waiting."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _sort(mode: int) -> str:
    sorts = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe"}
    return sorts.get(stat.S_IFMT(mode), "something else")
