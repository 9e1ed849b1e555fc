"""Acknowledged means durable (I4), and a database that lost acknowledged changes is found out."""

from __future__ import annotations

import uuid

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import HistoryLostError, StoreFailedError
from casckpt.store import environment, mark
from casckpt.store.environment import Environment
from casckpt.store.lmdb_store import open_store
from casckpt.store.mark import Mark, move_mark, read_mark, reset_mark
from casckpt.store.protocol import Space

STORE = str(uuid.uuid4())


def commit(store, *, durable=True, key=b"key"):
    with store.write(durable=durable, room=100) as writer:
        writer.put(Space.REF, key, b"value")


def counter(store):
    with store.read() as reader:
        return int.from_bytes(reader.get(Space.META, b"counter"), "big")


def test_every_write_counts_and_only_acknowledged_ones_move_the_mark(tmp_path):
    store = open_store(tmp_path / "store")
    assert read_mark(tmp_path / "store/mark") == Mark(store.format.uuid, counter(store))
    commit(store, durable=False)
    commit(store, durable=False)
    assert (counter(store), read_mark(tmp_path / "store/mark").counter) == (3, 1)
    commit(store)
    assert (counter(store), read_mark(tmp_path / "store/mark").counter) == (4, 4)
    store.close()


def test_the_mark_moves_after_the_sync_and_the_sync_comes_after_the_commit(tmp_path, monkeypatch):
    store = open_store(tmp_path / "store")
    seen = []
    real_sync, real_move = Environment.sync, environment.move_mark

    def sync(self):
        with store.read() as reader:
            seen.append(("sync", reader.has(Space.REF, b"key"), read_mark(tmp_path / "store/mark").counter))
        real_sync(self)

    def move(path, to):
        seen.append(("mark", to.counter))
        real_move(path, to)

    monkeypatch.setattr(Environment, "sync", sync)
    monkeypatch.setattr(environment, "move_mark", move)
    commit(store)
    assert seen == [("sync", True, 1), ("mark", 2)]
    store.close()


def test_a_failed_sync_is_never_tried_again_and_leaves_the_mark_and_the_store_unusable_until_opened_again(
    tmp_path, monkeypatch
):
    store, other = open_store(tmp_path / "store"), open_store(tmp_path / "store")
    tries = []

    def fail(self):
        tries.append(1)
        raise lmdb.Error("mdb_env_sync: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Environment, "sync", fail)
        with pytest.raises(StoreFailedError, match=r"not known.*open it again"):
            commit(store)
    assert len(tries) == 1
    assert read_mark(tmp_path / "store/mark").counter == 1
    for handle in (store, other):
        with pytest.raises(StoreFailedError):
            handle.read()
        with pytest.raises(StoreFailedError):
            commit(handle)
    again = open_store(tmp_path / "store")
    commit(again, key=b"after")
    for handle in (store, other):
        with pytest.raises(StoreFailedError):
            handle.read()
        handle.close()
    with again.read() as reader:
        assert reader.has(Space.REF, b"key") and reader.has(Space.REF, b"after")
    again.close()


def test_a_sync_that_fails_while_another_thread_writes_fails_that_write_too(tmp_path, monkeypatch):
    store = open_store(tmp_path / "store")
    with pytest.raises(StoreFailedError), store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
        store._environment._failure = "a sync failed on another thread"
    store.close()
    store = open_store(tmp_path / "store")
    with store.read() as reader:
        assert not reader.has(Space.REF, b"key")
    store.close()


def test_a_mark_ahead_of_the_database_is_an_error_that_names_both_and_the_way_out(tmp_path):
    store = open_store(tmp_path / "store")
    before = (tmp_path / "store/data.mdb").read_bytes()
    commit(store)
    commit(store)
    store.close()
    (tmp_path / "store/data.mdb").write_bytes(before)
    for _ in range(2):
        with pytest.raises(HistoryLostError, match=r"3 changes were acknowledged, and its file holds 1.*accept_loss"):
            open_store(tmp_path / "store")
    store = open_store(tmp_path / "store", accept_loss=True)
    assert read_mark(tmp_path / "store/mark").counter == 1
    store.close()
    open_store(tmp_path / "store").close()


def test_an_emptied_data_file_is_not_taken_for_a_new_store(tmp_path):
    store = open_store(tmp_path / "store")
    commit(store)
    store.close()
    (tmp_path / "store/data.mdb").write_bytes(b"")
    with pytest.raises(HistoryLostError, match="2 changes were acknowledged"):
        open_store(tmp_path / "store")
    open_store(tmp_path / "store", accept_loss=True).close()
    open_store(tmp_path / "store").close()


def test_another_store_s_data_file_under_this_mark_is_an_error(tmp_path):
    for name in ("one", "two"):
        open_store(tmp_path / name).close()
    (tmp_path / "one/data.mdb").write_bytes((tmp_path / "two/data.mdb").read_bytes())
    with pytest.raises(HistoryLostError, match="another store"):
        open_store(tmp_path / "one")
    open_store(tmp_path / "one", accept_loss=True).close()
    open_store(tmp_path / "one").close()


def test_a_late_torn_or_absent_mark_is_no_trouble_and_is_mended_by_the_next_commit(tmp_path):
    path = tmp_path / "store/mark"
    store = open_store(tmp_path / "store")
    late = path.read_bytes()
    commit(store)
    store.close()
    for damage in (late, late[:-1], b"", b"\0" * len(late), None):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
        store = open_store(tmp_path / "store")
        commit(store)
        assert read_mark(path).counter == counter(store)
        store.close()


@given(st.lists(st.integers(0, 1 << 63)))
def test_a_mark_never_moves_backwards_unless_a_loss_is_accepted(tmp_path_factory, counters):
    path = tmp_path_factory.mktemp("mark") / "mark"
    for number, one in enumerate(counters, start=1):
        move_mark(path, Mark(STORE, one))
        assert read_mark(path) == Mark(STORE, max(counters[:number]))
    reset_mark(path, Mark(STORE, 0))
    assert read_mark(path) == Mark(STORE, 0)


@given(st.data())
def test_a_mark_with_any_bit_flipped_is_no_mark(data):
    whole = mark._encode(Mark(STORE, 1 << 40))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    torn = bytearray(whole)
    torn[bit // 8] ^= 1 << bit % 8
    assert mark._decode(whole) == Mark(STORE, 1 << 40)
    assert mark._decode(bytes(torn)) is None


def test_a_mark_that_cannot_be_written_stays_late_and_the_commit_counts(tmp_path):
    store = open_store(tmp_path / "store")
    (tmp_path / "store/mark").unlink()
    (tmp_path / "store/mark").mkdir()
    commit(store)
    (tmp_path / "store/mark").rmdir()
    store.close()
    store = open_store(tmp_path / "store")
    assert counter(store) == 2
    store.close()
