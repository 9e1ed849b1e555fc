"""What is damaged under an open store is told as damage by whatever asks for it, and never taken for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from casckpt.errors import CorruptObjectError, StoreFailedError
from casckpt.store.layout import HEAD_SIZE, read_head
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.protocol import Space

PAGE = 4096


def read(store: LmdbStore, what: str) -> None:
    with store.read() as reader:
        if what == "count":
            reader.count(Space.REF)
        elif what == "keys":
            list(reader.keys(Space.REF))
        else:
            getattr(reader, what)(Space.REF, b"key")


def write(store: LmdbStore, room: int | None) -> None:
    with store.write(durable=True, room=room):
        pass


ASKING: dict[str, Callable[[LmdbStore], object]] = {
    **{what: lambda store, what=what: read(store, what) for what in ("count", "keys", "get", "has", "size")},
    "how large it is": lambda store: store.size(),
    "for a copy": lambda store: store.backup(store.path + " copy"),
    "for its pages beside a full disk": lambda store: write(store, 1 << 60),
    "to be written": lambda store: write(store, None),
    "to be compacted": lambda store: store.compact(),
}


@pytest.mark.parametrize(
    ("at", "bytes_"), [(0, bytes(PAGE)), (10, bytes(2)), (12, b"\x10\0")], ids=["zeroed", "of no kind", "emptied"]
)
@pytest.mark.parametrize("asking", ASKING)
def test_a_root_that_is_damaged_under_an_open_store_is_told_by_whatever_needs_it(
    tmp_path: Path, asking: str, at: int, bytes_: bytes
) -> None:
    store = open_store(tmp_path / "store")
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    data = tmp_path / "store/data.mdb"
    with data.open("r+b") as file:
        heads = [read_head(file.read(PAGE)[:HEAD_SIZE]) for _ in range(2)]
        file.seek(max(heads, key=lambda head: head.transaction).main.root * PAGE + at)
        file.write(bytes_)
    with pytest.raises((CorruptObjectError, StoreFailedError)):
        ASKING[asking](store)
    store.close()
