"""A disk without a journal, as the promises of POSIX leave it: what is written, resized or named is on it once a sync
that began afterwards has ended, and before that in any part. It must never take for lasting what no sync covers.

- A file's contents are lasting by sectors, each by itself; its length by itself too.
- A name is lasting by a sync of the folder that it is in. Renaming is done or not done, never half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.trials.power.log import (
    Event,
    Linked,
    Made,
    Removed,
    Renamed,
    Resize,
    Said,
    SyncBegins,
    SyncEnds,
    Write,
)

SECTOR: Final = 512
_BLANK: Final = bytes(SECTOR)


@dataclass(frozen=True, slots=True)
class Version:
    """What a sector held after a write that is not lasting yet. whole: it comes to be, or not: nothing between."""

    moment: int
    data: bytes
    whole: bool


class File:
    """Contents with their history since the last sync: `now` is what programs see, `lasting` what the disk has."""

    def __init__(self) -> None:
        self.now = bytearray()
        self.lasting = bytearray()
        self.sectors: dict[int, list[Version]] = {}
        """Of each sector that changed, in order, what it held."""
        self.sizes: list[tuple[int, int]] = []
        """Moments and lengths that are not lasting yet."""

    def write(self, moment: int, at: int, data: bytes) -> None:
        """Write, as programs see it."""
        end = at + len(data)
        if end > len(self.now):
            self.now.extend(bytes(end - len(self.now)))
            self.sizes.append((moment, end))
        self.now[at:end] = data
        first, last = at // SECTOR, (end - 1) // SECTOR
        for sector in range(first, last + 1):
            self._changed(moment, sector, whole=first == last)

    def resize(self, moment: int, size: int) -> None:
        """Cut, or add zeros, as programs see it."""
        before = len(self.now)
        if size < before:
            del self.now[size:]
            for sector in range(size // SECTOR, -(-before // SECTOR)):
                self._changed(moment, sector, whole=True)
        else:
            self.now.extend(bytes(size - before))
        self.sizes.append((moment, size))

    def _changed(self, moment: int, sector: int, *, whole: bool) -> None:
        data = bytes(self.now[sector * SECTOR : (sector + 1) * SECTOR])
        self.sectors.setdefault(sector, []).append(Version(moment, data + _BLANK[len(data) :], whole))

    def sync(self, moment: int, only: range | None = None) -> None:
        """What came up to this moment is lasting. only: of these sectors alone."""
        if size := [size for then, size in self.sizes if then <= moment]:
            keep = len(self.lasting)
            self.lasting = self.lasting[: size[-1]] + bytes(max(0, size[-1] - keep))
            self.sizes = [pending for pending in self.sizes if pending[0] > moment]
        for sector in [*self.sectors] if only is None else only:
            versions = self.sectors.get(sector, [])
            covered = [version for version in versions if version.moment <= moment]
            if not covered:
                continue
            self.settle(sector, covered[-1].data)
            if len(covered) == len(versions):
                del self.sectors[sector]
            else:
                self.sectors[sector] = versions[len(covered) :]

    def settle(self, sector: int, data: bytes) -> None:
        at = sector * SECTOR
        room = len(self.lasting) - at
        if room > 0:
            self.lasting[at : at + SECTOR] = data[:room]

    def held(self, sector: int) -> bytes:
        """What the disk has of a sector."""
        data = bytes(self.lasting[sector * SECTOR : (sector + 1) * SECTOR])
        return data + _BLANK[len(data) :]


@dataclass(eq=False, slots=True)
class Folder:
    """Names with what they stand for: `now` as programs see it, `lasting` as the disk has it, with its moment."""

    now: dict[str, Node] = field(default_factory=dict)
    lasting: dict[str, tuple[int, Node | None]] = field(default_factory=dict)


Node = File | Folder


@dataclass(frozen=True, slots=True)
class Change:
    """Names that came to stand for something else (None: nothing), all at once; lasting by a sync of one of `where`."""

    moment: int
    entries: tuple[tuple[Folder, str, Node | None], ...]
    where: tuple[Folder, ...]


@dataclass(frozen=True, slots=True)
class Obeyed:
    """Which syncs count, after so many events; all of them, but for tests of the tests."""

    files: bool = True
    folders: bool = True
    lasting_writes: bool = True
    after: int = 0


ALL: Final = Obeyed()


class Disk:
    """Goes through a recording event by event."""

    def __init__(self, root: int, obeyed: Obeyed = ALL) -> None:
        self.root = Folder()
        self.changes: list[Change] = []
        """Changes of names that are not lasting yet, in order."""
        self._nodes: dict[int, Node] = {root: self.root}
        self._syncs: dict[int, tuple[Node, int]] = {}
        self._obeyed = obeyed
        self._moment = 0

    def apply(self, event: Event) -> None:
        """Let it have happened."""
        self._moment += 1
        match event:
            case Write(inode, at, data, lasting):
                file = self._file(inode)
                file.write(self._moment, at, data)
                if lasting and self._counts(self._obeyed.lasting_writes):
                    file.sync(self._moment, range(at // SECTOR, (at + len(data) - 1) // SECTOR + 1))
            case Resize(inode, size):
                self._file(inode).resize(self._moment, size)
            case SyncBegins(call, inode):
                self._syncs[call] = self._nodes[inode], self._moment
            case SyncEnds(call):
                self._sync(*self._syncs.pop(call))
            case Made(path, inode, is_folder):
                self._nodes[inode] = node = Folder() if is_folder else File()
                self._change((path, node))
            case Removed(path):
                self._change((path, None))
            case Renamed(old, new, exchanged):
                target = self.at(new) if exchanged else None
                self._change((old, target), (new, self._there(old)), where=(old, new) if exchanged else (new,))
            case Linked(old, new):
                self._change((new, self._there(old)))
            case Said():
                pass

    def _counts(self, obeyed: bool) -> bool:
        return obeyed or self._moment <= self._obeyed.after

    def at(self, path: str) -> Node | None:
        """What programs see under a path."""
        node: Node | None = self.root
        for name in path.split("/"):
            node = node.now.get(name) if isinstance(node, Folder) else None
        return node

    def _there(self, path: str) -> Node:
        node = self.at(path)
        assert node is not None, f"nothing was recorded at {path}"
        return node

    def _file(self, inode: int) -> File:
        node = self._nodes[inode]
        assert isinstance(node, File)
        return node

    def _change(self, *entries: tuple[str, Node | None], where: tuple[str, ...] | None = None) -> None:
        changed = []
        for path, node in entries:
            folder, name = self._split(path)
            changed.append((folder, name, node))
            if node is None:
                folder.now.pop(name, None)
            else:
                folder.now[name] = node
        places = [path for path, _ in entries] if where is None else where
        self.changes.append(Change(self._moment, tuple(changed), tuple(self._split(path)[0] for path in places)))

    def _split(self, path: str) -> tuple[Folder, str]:
        parent, _, name = path.rpartition("/")
        folder = self._there(parent) if parent else self.root
        assert isinstance(folder, Folder)
        return folder, name

    def _sync(self, node: Node, moment: int) -> None:
        if isinstance(node, File):
            if self._counts(self._obeyed.files):
                node.sync(moment)
        elif self._counts(self._obeyed.folders):
            covered = [change for change in self.changes if change.moment <= moment and node in change.where]
            self.changes = [change for change in self.changes if change not in covered]
            for change in covered:
                for folder, name, found in settled(change):
                    folder.lasting[name] = change.moment, found


def settled(change: Change) -> Iterator[tuple[Folder, str, Node | None]]:
    """The names that a change leaves as it says: those of which nothing later is lasting."""
    for folder, name, node in change.entries:
        if folder.lasting.get(name, (0, None))[0] < change.moment:
            yield folder, name, node
