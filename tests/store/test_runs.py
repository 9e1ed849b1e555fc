"""A value whose pages have a damaged head is neither deleted nor replaced: LMDB would free pages that others use."""

from __future__ import annotations

from pathlib import Path

import pytest

from casckpt.errors import CorruptObjectError
from casckpt.store.layout import PAGE
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.protocol import Space
from tests.history.pages import SIZE, File

KEYS = [b"%d" % number * 16 for number in range(10)]


@pytest.fixture
def store(tmp_path) -> LmdbStore:
    store = open_store(tmp_path / "store")
    with store.write(durable=True, room=None) as writer:
        for key in KEYS:
            writer.put(Space.CHUNK, key, key * 1000)
    return store


def first_page(store: LmdbStore, key: bytes) -> int:
    data = (Path(store.path) / "data.mdb").read_bytes()
    return data.index(key * 1000) // SIZE


def damage(store: LmdbStore, number: int, at: int, value: bytes) -> None:
    File(Path(store.path)).write(number * SIZE + at, value)


@pytest.mark.parametrize("bit", range(8 * PAGE.size))
def test_every_flipped_bit_of_a_head_is_met_before_anything_is_freed(store, bit) -> None:
    number = first_page(store, KEYS[4])
    byte = File(Path(store.path)).page(number)[bit // 8]
    damage(store, number, bit // 8, bytes([byte ^ 1 << bit % 8]))
    before = (Path(store.path) / "data.mdb").read_bytes()
    for act in (
        lambda writer: writer.delete(Space.CHUNK, KEYS[4]),
        lambda writer: writer.put(Space.CHUNK, KEYS[4], b"short"),
        lambda writer: writer.put(Space.CHUNK, KEYS[4], b"l" * 100_000),
    ):
        if bit // 8 in (8, 9):  # padding: nobody reads it
            break
        with pytest.raises(CorruptObjectError, match="salvage"), store.write(durable=True, room=None) as writer:
            act(writer)
        assert (Path(store.path) / "data.mdb").read_bytes() == before
    with store.write(durable=True, room=None) as writer:  # and it goes on
        assert writer.delete(Space.CHUNK, KEYS[5])
    with store.read() as reader:
        assert all(reader.get(Space.CHUNK, key) == key * 1000 for key in KEYS if key not in KEYS[4:6])
    store.close()


def test_a_value_that_was_written_twice_in_a_transaction_may_have_more_pages_than_it_needs(store) -> None:
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, b"twice", b"1" * 50_000)
        writer.put(Space.CHUNK, b"twice", b"2" * 20_000)
        assert writer.delete(Space.CHUNK, b"twice")
        writer.put(Space.CHUNK, b"twice", b"1" * 50_000)
        writer.put(Space.CHUNK, b"twice", b"2" * 20_000)
        writer.put(Space.CHUNK, b"three times", b"1" * 50_000)
    number = (Path(store.path) / "data.mdb").read_bytes().index(b"2" * 20_000) // SIZE
    _, _, _, low, _ = PAGE.unpack_from(File(Path(store.path)).page(number))
    assert low == 13  # else this test tries nothing
    with store.write(durable=True, room=None) as writer:
        assert writer.delete(Space.CHUNK, b"twice")
    assert not store.check_pages(values=True).found
    store.close()


def test_a_value_that_was_there_and_was_not_written_is_looked_at_all_the_same(store) -> None:
    number = first_page(store, KEYS[4])
    damage(store, number, 12, (1 << 12 | 4).to_bytes(2, "little"))
    before = (Path(store.path) / "data.mdb").read_bytes()
    for act in (
        lambda writer: writer.delete(Space.CHUNK, KEYS[4]),
        lambda writer: writer.put(Space.CHUNK, KEYS[4], b"short"),
    ):
        with pytest.raises(CorruptObjectError), store.write(durable=True, room=None) as writer:
            assert not writer.put(Space.CHUNK, KEYS[4], bytes(16_000), overwrite=False)
            act(writer)
        assert (Path(store.path) / "data.mdb").read_bytes() == before
    store.close()


def test_values_of_all_lengths_about_the_bound_are_deleted_and_replaced(store) -> None:
    lengths = range(1990, 2050)
    for _ in range(2):
        with store.write(durable=True, room=None) as writer:
            for length in lengths:
                writer.put(Space.NODE, b"%016d" % length, bytes(length))
    with store.write(durable=True, room=None) as writer:
        for length in lengths:
            assert writer.delete(Space.NODE, b"%016d" % length)
    assert not store.check_pages(values=True).found
    store.close()
