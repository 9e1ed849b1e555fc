"""Targets: the small records beside the objects, of a database and of the files around it; and the file itself."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import xxhash

from casckpt.errors import CasckptError
from casckpt.history import records
from casckpt.history.refs import list_moves, list_refs
from casckpt.history.walk import roots
from casckpt.limits import CODECS
from casckpt.store import datafile, mark, openers, pages
from casckpt.store.format import decode_format, encode_format
from casckpt.store.layout import META, PAGE
from casckpt.store.protocol import Space, StoreFormat
from tests.trials.hostile.target import Target, joined, taken_apart

_ID: Final = 16
_ONE, _TWO = b"1" * _ID, b"2" * _ID


class Rows:
    """A reader of one input: its parts are keys and values in turn, all in every space; of a format without checks, so
    that all of it is parsed."""

    format_version = 2

    def __init__(self, data: bytes) -> None:
        parts = taken_apart(data)
        self._rows = dict(sorted(zip(parts[::2], parts[1::2], strict=False)))

    def get(self, space: Space, key: bytes) -> memoryview | None:
        held = self._rows.get(key)
        return None if held is None else memoryview(held)

    def has(self, space: Space, key: bytes) -> bool:
        return key in self._rows

    def items(self, space: Space, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, memoryview]]:
        rows = [(key, memoryview(value)) for key, value in self._rows.items() if key >= start]
        return iter(rows[::-1] if reverse else rows)

    def keys(self, space: Space, start: bytes = b"", *, reverse: bool = False) -> Iterator[bytes]:
        return (key for key, _ in self.items(space, start, reverse=reverse))


def _reader(data: bytes) -> Any:
    return Rows(data)


def _refs() -> list[bytes]:
    return [
        joined([b"HEAD", b"main", b"branch/main", _ONE, b"branch/try/lr", _TWO, b"tag/v1", _ONE]),
        joined([b"branch/x", _ONE]),
    ]


def _look_at_refs(data: bytes) -> None:
    reader = _reader(data)
    head = records.get_head(reader)
    for ref in list_refs(reader, head):
        records.get_ref(reader, f"{ref.kind}/{ref.name}")


def _moves() -> list[bytes]:
    rows: list[bytes] = []
    for seq, (old, new) in enumerate(((None, _ONE), (_ONE, _TWO), (_TWO, None))):
        rows += [
            seq.to_bytes(8, "big"),
            msgspec.msgpack.encode((1_700_000_000 << 30, "branch/main", old, new, "commit")),
        ]
    return [joined(rows), joined(rows[:2])]


def _look_at_moves(data: bytes) -> None:
    from casckpt.cli.document import dumps

    reader = _reader(data)
    for move in list_moves(reader, None):
        dumps([move.kind, move.name, move.old, move.new, move.action, move.time])
    for move in records.moves_since(reader, 0):
        assert move.seq >= 0


def _look_at_roots(data: bytes) -> None:
    reader = SimpleNamespace(
        format_version=2,
        items=lambda space, *rest, **more: Rows(data).items(space) if space is Space.REFLOG else iter(()),
    )
    roots(reader)  # type: ignore[arg-type]


def _small(value: object) -> list[bytes]:
    return [msgspec.msgpack.encode(value)]


def _marks() -> list[bytes]:
    return _small((False, ("optimizer", "ema"))) + _small((True, ()))


def _one(data: bytes) -> Any:
    return SimpleNamespace(format_version=2, get=lambda space, key: memoryview(data))


def _counters() -> list[bytes]:
    return [(0).to_bytes(8, "big"), ((1 << 56) - 1).to_bytes(8, "big")]


def _formats() -> list[bytes]:
    return [
        encode_format(StoreFormat(3, str(uuid.UUID(int=7)), "xxh3_128", 1 << 20, codec, 1 << 44)) for codec in CODECS
    ]


def _mark_files() -> list[bytes]:
    return [mark._encode(mark.Mark(str(uuid.UUID(int=number)), number)) for number in (0, 5, 1 << 40)]


def _mend_mark(data: bytes, random: Random) -> bytes:
    slot = data[: mark._SLOT.size].ljust(mark._SLOT.size, b"\0")
    return slot + xxhash.xxh64_digest(slot)


def _file(data: bytes, name: str) -> Path:
    path = Path(name)
    path.write_bytes(data)
    return path


def _read_mark(data: bytes) -> None:
    mark.read_mark(_file(data, "mark"))


def _openers() -> list[bytes]:
    return [
        msgspec.json.encode(openers.Opener(1, "host", "train.py", "2026-01-02 03:04:05+00:00")),
        b'{"pid": 1, "host": "h", "program": "p", "since": "s"}',
    ]


def _read_opener(data: bytes) -> None:
    openers.describe(_file(data, "opener"))


# -- the database file -------------------------------------------------------------------------------------------------


@cache
def _databases() -> tuple[bytes, ...]:
    """Small files of LMDB's, as casckpt leaves them."""
    from casckpt.history.repository import History
    from casckpt.store.lmdb_store import open_store
    from tests.history.world import commit

    made: list[bytes] = []
    with TemporaryDirectory() as folder:
        for commits in (0, 3):
            path = Path(folder) / str(commits)
            with History(open_store(path, chunk_size=4096)) as history:
                for step in range(commits):
                    commit(history, {"model": {"w": bytes((step,)) * 9000}}, step=step)
            made.append((path / "data.mdb").read_bytes())
    return tuple(made)


_PAGE: Final = 4096


def _mend_pages(data: bytes, random: Random) -> bytes:
    """Pages say their own number, and the heads are heads of a file of so many pages."""
    raw = bytearray(data)
    for number in range(len(raw) // _PAGE):
        if random.random() < 0.97:
            struct.pack_into("=Q", raw, number * _PAGE, number)
        if number < 2 and random.random() < 0.8:
            struct.pack_into("=II", raw, number * _PAGE + PAGE.size, 0xBEEFC0DE, 1)
    return bytes(raw)


def _look_into(data: bytes) -> None:
    datafile.look_into(_file(data, "data.mdb"))


def _check_pages(data: bytes) -> None:
    path = _file(data, "data.mdb")
    for at in (0, _PAGE):
        if len(data) >= at + PAGE.size + META.size:
            transaction = META.unpack_from(data, at + PAGE.size)[7]
            pages.check_pages(path, transaction, values=True)


_LMDB: Final = tuple(struct.pack("=H", word) for word in (0, 1, 2, 4, 8, 16, 0x12, 4095, 4096, 65535)) + tuple(
    struct.pack("=Q", page) for page in (0, 1, 2, 3, 5, 1 << 32, (1 << 64) - 1)
)

TARGETS: Final[Sequence[Target]] = (
    Target(
        "refs", _refs, _look_at_refs, tokens=(b"branch/", b"tag/", b"HEAD", b"..", b"/", b"\x1b", b"\xff"), parts=True
    ),
    Target("reflog", _moves, _look_at_moves, parts=True),
    Target("roots", _moves, _look_at_roots, parts=True),
    Target("retention-mark", _marks, lambda data: records.get_mark(_one(data), _ONE)),
    Target("figures", lambda: _small((1, 2, 3, 4, 5)), lambda data: records.get_figures(_one(data), _ONE)),
    Target("counter", _counters, lambda data: records.gc_epoch(_one(data))),
    Target("format", _formats, lambda data: decode_format("store", data)),
    Target("mark-file", _mark_files, _read_mark, _mend_mark, files=True),
    Target("opener", _openers, _read_opener, files=True),
    Target(
        "database-head",
        _databases,
        _look_into,
        _mend_pages,
        _LMDB,
        allowed=(CasckptError, FileNotFoundError),
        files=True,
    ),
    Target("database-pages", _databases, _check_pages, _mend_pages, _LMDB, files=True),
)
