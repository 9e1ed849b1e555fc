"""A sector that cannot be read is a damaged page, told as one: by fsck, by an opening, and before a value is freed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from casckpt.errors import CorruptObjectError
from casckpt.history.repository import History
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.pages import examine
from casckpt.store.protocol import Space
from tests.history.pages import SIZE, File, fill

KEY = b"key of sixteen b"


@pytest.fixture
def bad(monkeypatch) -> Callable[[int, int], None]:
    """Makes the pages of a range unreadable."""

    def break_pages(first: int, last: int) -> None:
        real = os.pread

        def pread(descriptor: int, size: int, at: int) -> bytes:
            if at < (last + 1) * SIZE and at + size > first * SIZE:
                raise OSError(errno.EIO, "Input/output error")
            return real(descriptor, size, at)

        monkeypatch.setattr(os, "pread", pread)

    return break_pages


@pytest.fixture
def store(tmp_path) -> LmdbStore:
    store = open_store(tmp_path / "store", chunk_size=4096)
    fill(History(store))
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.NODE, KEY, KEY * 1000)
    return store


def test_each_page_that_cannot_be_read_is_a_fault_that_says_so(store, bad) -> None:
    data = Path(store.path) / "data.mdb"
    for number, what in File(Path(store.path)).pages().items():
        with pytest.MonkeyPatch.context():
            real = os.pread
            bad(number, number)
            found = examine(data, values=True)
            live = store.check_pages(values=True)
            os.pread = real
        assert found.faults == live.faults
        if not what.endswith("value"):
            assert any(fault.kind == "damaged-page" and "cannot be read" in fault.problem for fault in found.faults)
    store.close()


def test_heads_that_cannot_be_read_are_a_fault_too(store, bad) -> None:
    bad(0, 1)
    for found in (examine(Path(store.path) / "data.mdb"), store.check_pages(values=True)):
        assert [(fault.kind, fault.page) for fault in found.faults] == [("damaged-page", 0)]
    store.close()


def test_a_value_whose_head_cannot_be_read_is_not_freed(store, bad) -> None:
    bad(2, 1 << 40)
    with pytest.raises(CorruptObjectError, match="cannot be read"), store.write(durable=True, room=None) as writer:
        writer.delete(Space.NODE, KEY)
    store.close()


def test_what_a_snapshot_holds_back_is_not_worth_a_failure(store, bad) -> None:
    with store.read():
        for _ in range(3):
            with store.write(durable=True, room=None) as writer:
                writer.put(Space.REF, b"ref", b"value")
        assert store.held_back() is not None
        bad(0, 1 << 40)
        assert store.held_back() is None
    store.close()


def test_a_store_that_cannot_be_read_is_a_damaged_one(store, bad) -> None:
    store.close()
    (Path(store.path) / "examined").unlink(missing_ok=True)
    bad(2, 1 << 40)
    with pytest.raises(CorruptObjectError, match=r"cannot be read.*salvage"):
        open_store(store.path)
