"""What can be told of a file or folder without reading it: its files, their sizes, and times that show a change.

Only an index is read, for the names of its shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from casckpt.tensors.shards import shards_of


@dataclass(frozen=True, slots=True)
class Look:
    """A file, or a folder with all files below it, at one moment. Equal looks: nothing was written in between.

    files: for each its path below the folder (of a file itself: "", and of the shards of an index their names), bytes,
    time of the last change in nanoseconds, and inode, which tells a file that was replaced.
    """

    files: tuple[tuple[str, int, int, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size, _, _ in self.files)

    @property
    def mtime_ns(self) -> int:
        """When the newest file last changed, in nanoseconds."""
        return max([time for _, _, time, _ in self.files], default=0)


def look(path: str | PathLike[str]) -> Look | None:
    """Look at a file or folder; None where it is gone, or went while it was looked at."""
    path = Path(path)
    try:
        if not path.is_dir():
            return Look((_file(path, ""), *(_file(path.parent / name, name) for name in shards_of(path))))
        below = sorted(item for item in path.rglob("*") if not item.is_dir())
        return Look(tuple([_file(item, str(item.relative_to(path))) for item in below]))
    except FileNotFoundError:
        return None


def _file(path: Path, name: str) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        if not name or not path.is_symlink():
            raise
        found = path.lstat()  # a link in a folder that leads nowhere is not the folder's end
    return name, found.st_size, found.st_mtime_ns, found.st_ino
