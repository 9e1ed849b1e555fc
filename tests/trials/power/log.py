"""What the recorder (`tests/native/recorder.c`) wrote down, read back as events in their order. It must not guess: a
log that it cannot read to its end is an error."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HEAD: Final = struct.Struct("<IIQQqIIQ")


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that stand in a file from `at` on. lasting: they were on the disk when it returned."""

    inode: int
    at: int
    data: bytes
    lasting: bool


@dataclass(frozen=True, slots=True)
class SyncBegins:
    """A sync of a file or folder, which covers what stands before it."""

    call: int
    inode: int


@dataclass(frozen=True, slots=True)
class SyncEnds:
    """From here on what that sync covers is on the disk."""

    call: int


@dataclass(frozen=True, slots=True)
class Resize:
    """A file was cut, or became longer by zeros."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Made:
    """A new file, or folder, has this name."""

    path: str
    inode: int
    folder: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """A name is gone."""

    path: str


@dataclass(frozen=True, slots=True)
class Renamed:
    """exchanged: each has the other's name now; else what had the new name has none."""

    old: str
    new: str
    exchanged: bool


@dataclass(frozen=True, slots=True)
class Linked:
    """A file has another name too."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Said:
    """What the recorded program said of itself, between what it did."""

    text: str


Event = Write | SyncBegins | SyncEnds | Resize | Made | Removed | Renamed | Linked | Said


def read_log(data: bytes, folder: str) -> Iterator[Event]:
    """The events of a log; paths are relative to the folder that was recorded.

    Raises:
        ValueError: it is no log, or its end is missing.
    """
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ValueError("the log ends within a record")
        kind, lasting, call, inode, place, first, second, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        end = at + first + second + size
        if end > len(data):
            raise ValueError("the log ends within a record")
        one = data[at : at + first].decode()
        other = data[at + first : at + first + second].decode()
        written = data[end - size : end]
        at = end
        match kind:
            case 1:
                yield Write(inode, place, written, bool(lasting))
            case 2:
                yield SyncBegins(call, inode)
            case 3:
                yield SyncEnds(call)
            case 4:
                yield Resize(inode, place)
            case 5 | 6:
                yield Made(_below(folder, one), inode, kind == 6)
            case 7:
                yield Removed(_below(folder, one))
            case 8 | 9:
                yield Renamed(_below(folder, one), _below(folder, other), kind == 9)
            case 10:
                yield Linked(_below(folder, one), _below(folder, other))
            case 11:
                yield Said(one)
            case _:
                raise ValueError(f"a record of kind {kind}")


def _below(folder: str, path: str) -> str:
    if not path.startswith(f"{folder}/"):
        raise ValueError(f"{path} is not below {folder}")
    return path.removeprefix(f"{folder}/")
