"""A forked child never harms its parent's store, is told so when it uses it, and may open it anew."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from casckpt.errors import ForkedStoreError
from casckpt.store import opening
from casckpt.store.lmdb_store import open_store
from casckpt.store.locks import is_held
from casckpt.store.openers import live
from casckpt.store.protocol import Space
from tests.processes import forked, run


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path / "store")
    with made.write(durable=True, room=None) as writer:
        for number in range(200):
            writer.put(Space.REF, b"%d" % number, b"value")
    yield made
    made.close()


@contextmanager
def written_by_another_thread(store):
    """A write transaction that another thread holds open."""
    begun, go_on = threading.Event(), threading.Event()

    def write():
        with store.write(durable=True, room=None) as writer:
            writer.put(Space.REF, b"parent", b"value")
            begun.set()
            assert go_on.wait(60)
            for number in range(200):
                writer.put(Space.CHUNK, b"%d" % number, b"v" * 5000)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        assert begun.wait(60)
        try:
            yield
        finally:
            go_on.set()
            writing.result(60)


def harm(store):
    """Everything a child might do with what it inherited; says which of it was refused as it should be."""
    refused = []
    for use in (
        store.read,
        lambda: store.write(durable=True, room=None),
        lambda: store.maintenance().__enter__(),
        store.openers,
        store.size,
    ):
        try:
            use()
        except ForkedStoreError as error:
            refused.append("open the store anew" in str(error))
    store.close()
    store.close()
    return refused == [True] * 5


def unharmed(store):
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"after", b"value")
        assert writer.count(Space.REF) >= 201
    with store.read() as reader:
        assert len(list(reader.items(Space.REF))) >= 201
    assert len(store.openers()) == 1
    assert is_held(live(store._environment.path)[0])


def test_a_child_of_a_write_transaction_is_refused_and_does_no_harm(store):
    with written_by_another_thread(store):
        assert forked(lambda: harm(store)) == "True"
    unharmed(store)
    with store.read() as reader:
        assert reader.count(Space.CHUNK) == 200


def test_a_child_of_a_read_transaction_is_refused_and_leaves_the_snapshot_whole(store):
    reader = store.read()
    going = reader.items(Space.REF)
    next(going)

    def use():
        refused = []
        for one in (lambda: reader.get(Space.REF, b"1"), lambda: next(going), lambda: reader.count(Space.REF)):
            try:
                one()
            except ForkedStoreError:
                refused.append(True)
        reader.close()
        reader.__del__()
        return refused

    assert forked(use) == "[True, True, True]"
    for _ in range(20):  # enough that pages which a lost slot would give free are used again
        with store.write(durable=False, room=None) as writer:
            for number in range(200):
                writer.put(Space.REF, b"%d" % number, os.urandom(8))
    assert store._environment._raw.readers().count("\n") >= 2
    assert [bytes(reader.get(Space.REF, b"%d" % number)) for number in range(200)] == [b"value"] * 200
    assert all(value == b"value" for _, value in going)
    reader.close()
    unharmed(store)


def test_leaving_the_blocks_of_the_parent_in_the_child_publishes_and_breaks_nothing(store):
    def child_leaves():
        said = []
        for raises in (False, True):
            try:
                writer.__exit__(*((ValueError, ValueError(), None) if raises else (None, None, None)))
                said.append("left")
            except ForkedStoreError:
                said.append("refused")
        try:
            writer.put(Space.REF, b"child", b"value")
        except ForkedStoreError:
            said.append("refused")
        reader.__exit__(None, None, None)
        upkeep.__exit__(None, None, None)
        return said

    upkeep = store.maintenance()
    with upkeep, store.read() as reader, store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"parent", b"value")
        assert forked(child_leaves) == "['refused', 'left', 'refused']"
        assert is_held(store._environment.path / "maintenance")
        assert reader.count(Space.REF) == 200
        writer.put(Space.REF, b"parent 2", b"value")
    with store.read() as reader:
        assert reader.has(Space.REF, b"parent 2") and not reader.has(Space.REF, b"child")
    unharmed(store)


def test_a_child_opens_anew_and_writes_while_the_parent_has_it_open(store):
    def write():
        mine = open_store(store.path)
        twice = open_store(store.path)
        with mine.write(durable=True, room=100) as writer:
            writer.put(Space.REF, b"child", b"value")
        with twice.read() as reader:
            seen = reader.count(Space.REF)
        there = len(mine.openers())
        twice.close()
        mine.close()
        again = open_store(store.path)
        again.close()
        return seen, there

    with store.read() as snapshot:
        assert forked(write) == "(201, 2)"
        assert snapshot.count(Space.REF) == 200
    with store.read() as reader:
        assert reader.has(Space.REF, b"child")
    unharmed(store)


def test_a_child_that_opens_anew_waits_for_the_parent_s_writer_and_sees_what_it_wrote(store):
    reading, writing = os.pipe()

    def write():
        os.write(writing, b".")
        mine = open_store(store.path)
        with mine.write(durable=True, room=100) as writer:
            seen = writer.count(Space.CHUNK), writer.has(Space.REF, b"parent")
            writer.put(Space.REF, b"child", b"value")
        mine.close()
        return seen

    with ThreadPoolExecutor(1) as pool:
        with written_by_another_thread(store):
            child = pool.submit(forked, write)
            os.read(reading, 1)
        assert child.result(60) == "(200, True)"
    os.close(reading)
    os.close(writing)
    with store.read() as reader:
        assert reader.has(Space.REF, b"child")
    unharmed(store)


def test_a_child_of_a_child_may_open_it_too(store):
    def grandchild():
        mine = open_store(store.path)
        with mine.write(durable=True, room=100) as writer:
            writer.put(Space.REF, b"grandchild", b"value")
        mine.close()
        return "wrote"

    def child():
        mine = open_store(store.path)
        said = forked(grandchild)
        said += f" {harm(store)}"
        with mine.write(durable=True, room=100) as writer:
            writer.put(Space.REF, b"child", b"value")
        mine.close()
        return said

    assert forked(child) == "wrote True"
    with store.read() as reader:
        assert reader.has(Space.REF, b"child") and reader.has(Space.REF, b"grandchild")
    unharmed(store)


def test_where_lmdb_cannot_open_it_beside_the_parent_the_child_is_told_what_to_do(store, monkeypatch):
    def open_it():
        monkeypatch.delattr(opening.lmdb, "_envid")
        try:
            open_store(store.path)
        except ForkedStoreError as error:
            return "spawn" in str(error)

    assert forked(open_it) == "True"
    unharmed(store)


OUTLIVED = """
import os, sys, time
from casckpt.store.lmdb_store import open_store
store = open_store(sys.argv[1])
store.maintenance().__enter__()
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.write(writing, b".")
    time.sleep(60)
    os._exit(0)
os.read(reading, 1)
print(child, flush=True)
os._exit(0)
"""


def test_a_child_that_outlives_its_parent_does_not_pass_for_an_opener(tmp_path):
    child = run(OUTLIVED, tmp_path / "store")
    try:
        assert live(tmp_path / "store") == []
        store = open_store(tmp_path / "store")
        with store.maintenance():
            assert len(store.openers()) == 1
        store.close()
    finally:
        os.kill(int(child), 9)


def test_a_child_that_only_exits_does_no_harm(store):
    with store.read() as reader, written_by_another_thread(store):
        for _ in range(3):
            forked(lambda: None)
        assert reader.count(Space.REF) == 200
    unharmed(store)


def test_a_child_that_shuts_its_whole_interpreter_down_does_no_harm(tmp_path):
    said = run(
        """
        import gc, os, sys, threading
        from casckpt.store.lmdb_store import open_store
        from casckpt.store.protocol import Space

        store = open_store(sys.argv[1])
        with store.write(durable=True, room=None) as writer:
            for number in range(200):
                writer.put(Space.REF, b"%d" % number, b"old")
        begun, go_on = threading.Event(), threading.Event()
        def write():
            with store.write(durable=True, room=None) as writer:
                writer.put(Space.REF, b"parent", b"value")
                begun.set()
                go_on.wait()
        thread = threading.Thread(target=write)
        reader = store.read()
        going = reader.items(Space.REF)
        next(going)
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            del going, reader
            gc.collect()
            sys.exit(7)  # the interpreter frees whatever it can reach
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        go_on.set()
        thread.join()
        for _ in range(20):
            with store.write(durable=False, room=None) as writer:
                for number in range(200):
                    writer.put(Space.REF, b"%d" % number, b"new")
        assert {bytes(value) for _, value in reader.items(Space.REF)} == {b"old"}
        reader.close()
        with store.read() as reader:
            assert reader.has(Space.REF, b"parent")
        store.close()
        print("whole")
        """,
        tmp_path / "store",
    )
    assert said == "whole\n"


def test_forks_by_the_dozen_while_threads_write_and_read(store):
    stop = threading.Event()

    def write():
        turns = 0
        while not stop.is_set():
            with store.write(durable=turns % 5 == 0, room=10_000) as writer:
                writer.put(Space.CHUNK, b"%d" % (turns % 50), b"v" * 5000)
            turns += 1
        return turns

    def read():
        while not stop.is_set():
            with store.read() as reader:
                assert len(list(reader.items(Space.REF))) == 200

    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(write), pool.submit(read)]
        try:
            for _ in range(12):
                forked(lambda: harm(store))
        finally:
            stop.set()
        assert work[0].result(60) > 0
        work[1].result(60)
    unharmed(store)
