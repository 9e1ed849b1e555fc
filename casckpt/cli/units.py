"""Numbers as people read them: bytes, ages, metrics; and text from a store, made safe for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from casckpt.limits import MIB

if TYPE_CHECKING:
    from casckpt.store.protocol import HeldBack

# What a save or load beside us may hold back for its moment is not worth a word.
_HELD: Final = MIB
SHORT_ID = 8
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_AGES = ((365 * 86400, "y"), (7 * 86400, "w"), (86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def human_bytes(count: int) -> str:
    """0 -> "0 B", 1536 -> "1.50 KiB", 123456789 -> "118 MiB": three digits."""
    size = float(count)
    unit = 0
    while abs(size) >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    if unit == 0:
        return f"{count} B"
    digits = 2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0
    return f"{size:.{digits}f} {_UNITS[unit]}"


def human_reserve(size: int) -> str:
    """What is said behind a file's size of the room that it has in reserve: ", 3.96 MiB in reserve"."""
    return f", {human_bytes(size)} in reserve" if size else ""


def human_held(held: HeldBack | None) -> str:
    """What is said of free pages that cannot be used again yet; nothing where they are few, as beside any save."""
    if held is None or held.bytes < _HELD:
        return ""
    return (
        f"{human_bytes(held.bytes)} of what is free cannot be used before {printable(held.holder)} has done: "
        f"it reads what was there {human_count(held.changes, 'change')} ago"
    )


def human_age(when: datetime, now: datetime | None = None) -> str:
    """How long ago, in its largest unit: "0 s", "12 s", "3 h", "2 w"."""
    seconds = ((now or datetime.now(UTC)) - when).total_seconds()
    for size, unit in _AGES:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def human_number(number: float) -> str:
    """A metric in four digits: 2.3141592 -> "2.314"."""
    return f"{number:.4g}"


def human_count(count: int, noun: str) -> str:
    """1, "commit" -> "1 commit"; 1200, "commit" -> "1,200 commits"."""
    plural = (
        noun
        if count == 1
        else f"{noun[:-1]}ies"
        if noun.endswith("y")
        else f"{noun}es"
        if noun.endswith("ch")
        else f"{noun}s"
    )
    return f"{count:,} {plural}"


def short(commit: str) -> str:
    """The beginning of an id by which people know a commit."""
    return commit[:SHORT_ID]


def printable(text: str) -> str:
    """Text without anything that a terminal would obey: a message may hold escape sequences."""
    return "".join([char if char.isprintable() else "\ufffd" for char in text])


def readable_path(path: str) -> str:
    """A path as people read it: without the escapes of dots in keys, which globs do without as well."""
    from casckpt.objects.paths import unescape

    return printable(unescape(path)) or "(the whole state)"


def first_line(text: str) -> str:
    """The first line of a message, printable."""
    return printable(text.partition("\n")[0])
