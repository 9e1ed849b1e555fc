"""The check that each small record carries from format 3 on: 8 bytes behind its value, over where it stands and what it
says, since nothing else tells what it was. It keeps out accidents, not attackers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import xxhash

from casckpt.store.protocol import Space, Writer

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


def add_checks(writer: Writer) -> None:
    """Give every record of an earlier format its check."""
    for space in CHECKED_SPACES:
        for key, value in writer.items(space):
            writer.put(space, key, with_check(space, key, value))
    for key in COUNTERS:
        held = writer.get(Space.META, key)
        if held is not None:
            writer.put(Space.META, key, with_check(Space.META, key, held))


def _check(space: Space, key: bytes, value: Buffer) -> bytes:
    return xxhash.xxh3_64_digest(b"".join((space.value, b"\0", len(key).to_bytes(2, "little"), key, value)))
