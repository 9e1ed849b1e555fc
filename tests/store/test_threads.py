"""Transactions keep to their threads, and closing waits for them."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from casckpt.errors import StoreBusyError, StoreClosedError, StoreError
from casckpt.store.environment import Environment
from casckpt.store.lmdb_store import open_store
from casckpt.store.locks import FileLock, is_held
from casckpt.store.protocol import Space
from tests.processes import run


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path / "store")
    yield made
    made.close()


def in_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(60)


def test_who_looks_at_the_snapshots_while_another_thread_ends_a_write_transaction_sees_none_of_that(store, monkeypatch):
    environment, seen = store._environment, []
    ends = environment._end_write

    def ending(transaction):
        seen.append(in_thread(environment.gate.snapshots))
        ends(transaction)

    monkeypatch.setattr(environment, "_end_write", ending)
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    assert seen and not any(seen)


def test_a_write_transaction_refuses_every_other_thread_and_is_none_the_worse_for_it(store):
    with store.write(durable=True, room=None) as writer:
        for use in (
            lambda: writer.put(Space.REF, b"other", b"value"),
            lambda: writer.delete(Space.REF, b"key"),
            lambda: writer.get(Space.REF, b"key"),
            lambda: writer.close(),
            lambda: writer.__exit__(None, None, None),
            lambda: writer.__exit__(ValueError, ValueError(), None),
        ):
            with pytest.raises(StoreError, match="on the thread that began it"):
                in_thread(use)
        writer.put(Space.REF, b"key", b"value")

    def write_again():
        with store.write(durable=True, room=None) as again:
            return bytes(again.get(Space.REF, b"key")), again.get(Space.REF, b"other")

    assert in_thread(write_again) == (b"value", None)


def test_a_writer_that_is_dropped_on_another_thread_is_not_ended_there(store):
    writer = store.write(durable=True, room=None)
    writer.__enter__()
    in_thread(writer.__del__)
    writer.put(Space.REF, b"key", b"value")
    writer.__exit__(None, None, None)
    with store.read() as reader:
        assert reader.has(Space.REF, b"key")


def test_a_second_write_on_the_same_thread_is_an_error_and_not_a_deadlock(store):
    other = open_store(store.path)
    with store.write(durable=True, room=None) as writer:
        for handle in (store, other):
            told = pytest.raises(StoreBusyError, match="this thread is inside a write transaction")
            with told, handle.write(durable=True, room=None):
                pass
        writer.put(Space.REF, b"key", b"value")
    other.close()


def test_writers_of_many_threads_take_turns_and_none_is_lost(store):
    def add(number):
        for _ in range(25):
            with store.write(durable=False, room=100) as writer:
                held = writer.get(Space.REF, b"sum")
                writer.put(Space.REF, b"sum", b"%d" % (number + int(bytes(held or b"0"))))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    with store.read() as reader:
        assert int(bytes(reader.get(Space.REF, b"sum"))) == 25 * sum(range(8))


def test_a_reader_goes_from_thread_to_thread_with_its_snapshot(store):
    with store.write(durable=False, room=None) as writer:
        writer.put(Space.REF, b"key", b"old")
    reader = in_thread(store.read)
    with store.write(durable=False, room=None) as writer:
        writer.put(Space.REF, b"key", b"new")
    assert in_thread(lambda: bytes(reader.get(Space.REF, b"key"))) == b"old"
    assert reader.get(Space.REF, b"key") == b"old"
    in_thread(reader.close)
    with pytest.raises(StoreClosedError):
        reader.get(Space.REF, b"key")


def test_close_waits_for_the_transactions_of_other_threads(store):
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def write():
        with store.write(durable=True, room=None) as writer:
            begun.set()
            go_on.wait(60)
            writer.put(Space.REF, b"key", b"value")

    def close():
        store.close()
        closed.set()

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write)
        assert begun.wait(60)
        closing = pool.submit(close)
        assert not closed.wait(0.2)
        with pytest.raises(StoreClosedError):  # nothing new begins meanwhile
            store.read()
        go_on.set()
        writing.result(60)
        closing.result(60)
    again = open_store(store.path)
    with again.read() as reader:
        assert reader.has(Space.REF, b"key")
    again.close()


def test_closing_inside_one_s_own_transaction_is_an_error_and_not_a_deadlock(store):
    with store.read() as reader:
        with pytest.raises(StoreBusyError, match="this thread began"):
            store.close()
        assert reader.count(Space.REF) == 0
    with store.write(durable=True, room=None) as writer:
        with pytest.raises(StoreBusyError, match="this thread began"):
            store.close()
        writer.put(Space.REF, b"key", b"value")
    with store.read() as reader:
        assert reader.has(Space.REF, b"key")


def test_two_handles_share_one_environment_and_each_closes_alone(store):
    other = open_store(store.path)
    assert other._environment is store._environment
    assert len(other.openers()) == 1
    with other.read() as reader:
        store.close()  # waits for its own transactions only
        assert reader.count(Space.REF) == 0
        with pytest.raises(StoreClosedError):
            store.read()
    with other.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    other.close()
    other.close()


def test_many_threads_open_and_close_at_once(tmp_path):
    def cycle(number):
        for turn in range(5):
            handle = open_store(tmp_path / "store")
            with handle.write(durable=False, room=None) as writer:
                writer.put(Space.REF, b"%d %d" % (number, turn), b"")
            handle.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(cycle, range(6)))
    handle = open_store(tmp_path / "store")
    with handle.read() as reader:
        assert reader.count(Space.REF) == 30
    assert len(handle.openers()) == 1
    handle.close()


def test_a_reader_that_was_dropped_unclosed_holds_nothing_up(store):
    reader = store.read()
    going = reader.keys(Space.META)
    next(going)
    del reader, going
    gc.collect()
    assert not store._environment.gate.live


def test_a_writer_waiting_for_its_turn_is_refused_when_the_store_closes(store):
    other = open_store(store.path)
    begun, go_on = threading.Event(), threading.Event()

    def hold():
        with other.write(durable=False, room=None):
            begun.set()
            go_on.wait(60)

    def queue():
        with store.write(durable=False, room=None):
            pass

    with ThreadPoolExecutor(3) as pool:
        holding = pool.submit(hold)
        assert begun.wait(60)
        queued = pool.submit(queue)
        while len(store._environment.gate.live) < 2:
            pass
        closing = pool.submit(store.close)
        while not store._handle.closed:
            pass
        go_on.set()
        holding.result(60)
        with pytest.raises(StoreClosedError):
            queued.result(60)
        closing.result(60)
    other.close()


def test_a_process_ends_without_a_word_whatever_it_left_open(tmp_path):
    assert (
        run(
            """
            import sys, threading
            from casckpt.store.lmdb_store import open_store
            from casckpt.store.protocol import Space
            store = open_store(sys.argv[1])
            reader = store.read()
            going = reader.keys(Space.META)
            next(going)
            begun = threading.Event()
            def write():
                with store.write(durable=True, room=None) as writer:
                    begun.set()
                    threading.Event().wait()
            threading.Thread(target=write, daemon=True).start()
            begun.wait()
            print("done")
            """,
            tmp_path / "store",
        )
        == "done\n"
    )
    store = open_store(tmp_path / "store")
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    assert len(store.openers()) == 1
    store.close()


def test_more_readers_than_there_is_room_for_are_told_and_the_next_may_read_when_one_ends(store):
    readers = []
    with pytest.raises(StoreBusyError, match="at once"):
        for _ in range(2000):
            readers.append(store.read())
    assert len(readers) >= 1000
    readers.pop().close()
    readers.append(store.read())
    for reader in readers:
        assert reader.count(Space.REF) == 0
        reader.close()


def test_a_failed_environment_is_not_shut_under_a_reader_that_is_just_beginning(store, monkeypatch):
    let_in, shut = threading.Event(), threading.Event()
    begin, real = Environment._begin_read, Environment.shut

    def begin_slowly(self):
        let_in.set()
        shut.wait(0.3)  # as long as it takes whoever shuts it without asking
        return begin(self)

    def told(self):
        done = real(self)
        shut.set()
        return done

    monkeypatch.setattr(Environment, "_begin_read", begin_slowly)
    monkeypatch.setattr(Environment, "shut", told)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.read)
        assert let_in.wait(60)
        store._environment._failure = "a write failed"
        with pytest.raises(StoreBusyError, match="under way in this process"):
            open_store(store.path)
        with reading.result(60) as reader:
            assert reader.count(Space.META) == 2
    again = open_store(store.path)
    with again.read() as reader:
        assert reader.count(Space.META) == 2
    again.close()


def test_a_lock_that_nobody_knows_of_any_more_is_not_held(tmp_path):
    """As an interrupt leaves it at the beginning of `__exit__`."""
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire() and is_held(lock.path)
    del lock
    gc.collect()
    assert not is_held(tmp_path / "lock")
