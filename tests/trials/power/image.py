"""A disk as it may be found when power failed at one moment: written out into a folder, to be opened there."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from tests.trials.power.disk import SECTOR, Disk, File, Folder, Node

MAPPED = "lock.mdb"
"""Written through a map, which nobody records or syncs: anything may be in it."""

# Of an unsynced sector. The rest of the draws find it kept.
_LOST, _GARBAGE = 0.375, 0.25


def contents(file: File, random: Random) -> bytes:
    """What is in a file then.

    Each unsynced sector is kept as it was after one of its writes, the last one rather than another; or it is lost; or
    it is garbage, but not where each write was within it.
    """
    size = len(file.lasting)
    if file.sizes:
        draw = random.random()
        if draw < 0.5:
            size = file.sizes[-1][1]
        elif draw < 0.7:
            size = random.choice(file.sizes)[1]
    found = file.lasting[:size] + bytes(max(0, size - len(file.lasting)))
    for sector, versions in file.sectors.items():
        at = sector * SECTOR
        if at >= size:
            continue
        draw = random.random()
        if draw < _LOST:
            continue
        if draw < _LOST + _GARBAGE and not all(version.whole for version in versions):
            data = _garbage(file.held(sector), versions[-1].data, random)
        else:
            data = random.choice((versions[-1], random.choice(versions))).data
        found[at : at + SECTOR] = data[: size - at]
    return bytes(found)


def _garbage(old: bytes, new: bytes, random: Random) -> bytes:
    """Noise, or a sector that was written in part."""
    if random.random() < 0.5:
        return random.randbytes(SECTOR)
    cut = random.randrange(1, SECTOR)
    return new[:cut] + old[cut:]


def names(disk: Disk, random: Random) -> dict[Folder, dict[str, Node]]:
    """What is in each folder that can be reached then: each unsynced change of names came to be, or not."""
    held: dict[Folder, dict[str, tuple[int, Node | None]]] = {}

    def of(folder: Folder) -> dict[str, tuple[int, Node | None]]:
        return held.setdefault(folder, dict(folder.lasting))

    for change in disk.changes:
        if random.random() < 0.5:
            for folder, name, node in change.entries:
                if of(folder).get(name, (0, None))[0] < change.moment:
                    of(folder)[name] = change.moment, node
    found: dict[Folder, dict[str, Node]] = {}
    waiting = [disk.root]
    while waiting:
        folder = waiting.pop()
        found[folder] = {name: node for name, (_, node) in of(folder).items() if node is not None}
        waiting += [node for node in found[folder].values() if isinstance(node, Folder) and node not in found]
    return found


def write_image(disk: Disk, random: Random, into: Path) -> None:
    """Write it into an empty folder."""
    found = names(disk, random)
    made: dict[File, Path] = {}

    def put(folder: Folder, place: Path) -> None:
        for name, node in found[folder].items():
            there = place / name
            if isinstance(node, Folder):
                there.mkdir()
                put(node, there)
            elif node in made:
                os.link(made[node], there)
            else:
                data = contents(node, random)
                if name == MAPPED and random.random() < 0.5:
                    data = random.randbytes(len(data))
                there.write_bytes(data)
                made[node] = there

    put(disk.root, into)


def as_seen(disk: Disk) -> dict[str, bytes | None]:
    """What programs see: each path with the contents of a file, or None for a folder."""
    found: dict[str, bytes | None] = {}

    def look(folder: Folder, at: str) -> None:
        for name, node in folder.now.items():
            found[at + name] = None if isinstance(node, Folder) else bytes(node.now)
            if isinstance(node, Folder):
                look(node, f"{at}{name}/")

    look(disk.root, "")
    return found


def on_disk(folder: Path) -> dict[str, bytes | None]:
    """The same of a real folder."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}
