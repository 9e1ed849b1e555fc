"""The check that each small record carries from format 3 on: 8 bytes behind its value, over where it stands and what it
says, since nothing else tells what it was. It keeps out accidents, not attackers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import xxhash

from casckpt.errors import CorruptObjectError
from casckpt.store.protocol import Reader, Space, Writer

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHECKED_SINCE: Final = 3
CHECKED_SPACES: Final = (Space.REF, Space.REFLOG, Space.MARK, Space.FIGURES)
COUNTERS: Final = (b"gc_epoch", b"reflog_next")  # of what is in `meta`, these
_SIZE: Final = 8


def with_check(space: Space, key: bytes, value: Buffer) -> bytes:
    """A record as it stands in the store."""
    return bytes(value) + _check(space, key, value)


def without_check(space: Space, key: bytes, record: Buffer) -> memoryview | None:
    """The value of a record; None where it is not what was written there."""
    raw = memoryview(record)
    value = raw[:-_SIZE]
    return value if raw[-_SIZE:] == _check(space, key, value) else None


def records(reader: Reader) -> Iterator[tuple[Space, bytes, memoryview]]:
    """Every record that has a check from CHECKED_SINCE on, as it stands in the store."""
    for space in CHECKED_SPACES:
        for key, record in reader.items(space):
            yield space, key, record
    for key in COUNTERS:
        held = reader.get(Space.META, key)
        if held is not None:
            yield Space.META, key, held


def add_checks(writer: Writer) -> None:
    """Give every record of an earlier format its check.

    Raises:
        CorruptObjectError: one has it already. So it is not of an earlier format, and a second check would ruin it.
    """
    for space, key, record in records(writer):
        if without_check(space, key, record) is not None:
            raise CorruptObjectError(
                f"its format is said to be {writer.format_version}, and its records are of a later one: the number of "
                "its format is damaged",
                remedy="nothing was changed; restore the store from a backup, or make a new one of what it still "
                "holds: `casckpt salvage`",
            )
        writer.put(space, key, with_check(space, key, record))


def _check(space: Space, key: bytes, value: Buffer) -> bytes:
    return xxhash.xxh3_64_digest(b"".join((space.value, b"\0", len(key).to_bytes(2, "little"), key, value)))
