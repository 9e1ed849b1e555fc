"""The format record: what was fixed when a store was created, and which casckpt can read it.

It is read, whole and checked, before anything in the store is touched.
"""

from __future__ import annotations

import uuid
from typing import Final

import msgspec

from casckpt.errors import CorruptObjectError, NewerFormatError, StoreSettingsError
from casckpt.limits import CODECS, DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE
from casckpt.objects.ids import SCHEMES, id_scheme
from casckpt.store.protocol import Space, StoreFormat

# 1: chunks raw or as zstd. 2: chunks by all codecs, and so deltas. 3: the small records carry a check. A store of an
# earlier format is written as one.
FORMAT_VERSION: Final = 3
# The sub-databases that format 1 does not have.
LATER_SPACES: Final = (Space.BASE, Space.DEPENDANT)
FORMAT_KEY: Final = b"format"
COUNTER_KEY: Final = b"counter"
# Address space, not disk: 16 TiB, of which a 47-bit process can hold several.
MAP_SIZE: Final = 1 << 44
MIN_MAP_SIZE: Final = 1 << 20


class _Version(msgspec.Struct):
    version: int


# Made here, as all are: msgspec crashes where two threads are the first to come to a class.
_version = msgspec.msgpack.Decoder(_Version)
_decoder = msgspec.msgpack.Decoder(StoreFormat)


def new_format(store: str, *, hash: str | None, chunk_size: int | None, codec: str | None) -> StoreFormat:
    """The record of a store about to be created; None stands for the default.

    Raises:
        StoreSettingsError: a value that no store can have, or a hash whose library is not installed.
    """
    made = StoreFormat(
        version=FORMAT_VERSION,
        uuid=str(uuid.uuid4()),
        hash=SCHEMES[0] if hash is None else hash,
        chunk_size=DEFAULT_CHUNK_SIZE if chunk_size is None else chunk_size,
        codec="auto" if codec is None else codec,
        map_size=MAP_SIZE,
    )
    problem = _bad_setting(made)
    if problem:
        raise StoreSettingsError(problem[0], store=store, remedy=problem[1])
    id_scheme(made.hash)
    return made


def check_settings(
    store: str, held: StoreFormat, *, hash: str | None, chunk_size: int | None, codec: str | None
) -> None:
    """Check that an existing store is what the caller asked for; None asks for nothing.

    Raises:
        StoreSettingsError: naming both values.
    """
    for name, asked, there in (
        ("hash", hash, held.hash),
        ("chunk_size", chunk_size, held.chunk_size),
        ("codec", codec, held.codec),
    ):
        if asked is not None and asked != there:
            raise StoreSettingsError(
                f"it was created with {name}={there!r}, not {asked!r}",
                store=store,
                remedy=f"leave {name} out, or create another store",
            )


def version_of(data: bytes) -> int | None:
    """The version that a format record gives; None where it cannot be read."""
    try:
        return _version.decode(data).version
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def encode_format(record: StoreFormat) -> bytes:
    """The record as it stands in the store."""
    return msgspec.msgpack.encode(record)


def decode_format(store: str, data: bytes) -> StoreFormat:
    """The record read back, checked.

    Raises:
        NewerFormatError: its version is one that this casckpt does not know.
        CorruptObjectError: it is not a record, or holds values that no store can have.
    """
    try:
        version = _version.decode(data).version
        if version > FORMAT_VERSION:
            raise NewerFormatError(
                f"its format is {version}, and this casckpt knows formats up to {FORMAT_VERSION}",
                store=store,
                remedy="use a later casckpt: pip install --upgrade casckpt; where none ever wrote to it, that number "
                "is damaged: make a new store of what it holds with `casckpt salvage`",
            )
        record = _decoder.decode(data)
        uuid.UUID(record.uuid)
    except (msgspec.DecodeError, ValueError) as error:
        raise CorruptObjectError(f"{store}: the format record cannot be read: {error}") from error
    problem = _bad_setting(record)
    if problem or version < 1 or not MIN_MAP_SIZE <= record.map_size <= MAP_SIZE:
        raise CorruptObjectError(f"{store}: the format record holds values that no store can have: {record}")
    return record


def _bad_setting(record: StoreFormat) -> tuple[str, str] | None:
    if record.hash not in SCHEMES:
        return f"unknown hash {record.hash!r}", f"use one of {', '.join(SCHEMES)}"
    if record.codec not in CODECS:
        return f"unknown codec {record.codec!r}", f"use one of {', '.join(CODECS)}"
    size = record.chunk_size
    if type(size) is not int or size & (size - 1) or not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
        return f"bad chunk_size {size!r}", f"use a power of two from {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE} bytes"
    return None
