"""A process that is stopped while it reads or writes: what it costs the others, how they are told, and what is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from casckpt.history.repository import History
from casckpt.store.layout import BIG, BRANCH, LEAF, NODE, PAGE
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.protocol import Space
from tests.history.pages import File, put
from tests.processes import Program

READER = """
import sys
from casckpt.store.layout import BIG, BRANCH, LEAF, NODE, PAGE
from casckpt.store.lmdb_store import open_store
store = open_store(sys.argv[1])
reader = store.read()
print("reading", flush=True)
sys.stdin.readline()
reader.close()
print("done", flush=True)
sys.stdin.readline()
store.close()
"""

WRITER = """
import sys
from casckpt.store.layout import BIG, BRANCH, LEAF, NODE, PAGE
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
store = open_store(sys.argv[1])
with store.write(durable=True, room=None) as writer:
    writer.put(Space.REF, b"theirs", b"value")
    print("inside", flush=True)
    sys.stdin.readline()
print("acknowledged", flush=True)
sys.stdin.readline()
store.close()
"""

WAITER = """
import sys
from casckpt.store.layout import BIG, BRANCH, LEAF, NODE, PAGE
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
store = open_store(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
with store.write(durable=True, room=None) as writer:
    print("theirs" if writer.has(Space.REF, b"theirs") else "nothing of theirs", flush=True)
store.close()
"""


@pytest.fixture
def store(tmp_path) -> Iterator[LmdbStore]:
    made = open_store(tmp_path / "store")
    yield made
    made.close()


def churn(store: LmdbStore, times: int = 50) -> int:
    """Write over the same 100 KB again and again; returns the bytes that the file grew by."""
    before = store._environment.end
    for number in range(times):
        with store.write(durable=False, room=None) as writer:
            for key in range(10):
                writer.put(Space.CHUNK, b"%d" % key, bytes([number]) * 10_000)
    return store._environment.end - before


def frozen(program: Program) -> None:
    """Stop a process, and see that it stands."""
    os.kill(program.process.pid, signal.SIGSTOP)
    _, status = os.waitpid(program.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


def test_what_a_stopped_reader_holds_back_is_told_with_its_name_and_given_free_when_it_ends(store) -> None:
    churn(store)
    assert churn(store) == 0 and store.held_back() is None
    with Program(READER, store.path) as program:
        assert program.line() == "reading"
        frozen(program)
        grown = churn(store)
        assert grown >= 40 * 100_000  # nothing is taken from who is alive
        held = store.held_back()
        assert held is not None and held.changes == 50
        assert 0.9 * grown < held.bytes <= grown + 500_000
        assert held.holder.startswith(f"process {program.process.pid} on ")
        os.kill(program.process.pid, signal.SIGCONT)
        program.say()
        assert program.line() == "done"
        assert store.held_back() is None
        assert churn(store, 100) == 0
        program.end()


def test_a_reader_that_was_killed_holds_nothing_back_once_somebody_looks(store) -> None:
    churn(store)
    with Program(READER, store.path) as program:
        assert program.line() == "reading"
        churn(store, 5)
        program.kill()
    assert churn(store) >= 40 * 100_000  # nobody has looked
    assert store.held_back() is None
    assert churn(store, 100) == 0


@pytest.mark.parametrize("look", ["gc", "stats", "open"])
def test_gc_stats_and_an_opening_clear_what_killed_readers_left(store, look) -> None:
    churn(store)
    with Program(READER, store.path) as program:
        assert program.line() == "reading"
        program.kill()
    churn(store, 5)
    if look == "open":
        with Program(READER, store.path) as other:
            assert other.line() == "reading"
            other.say()
            assert other.line() == "done"
            assert churn(store, 100) == 0
            other.end()
    else:
        getattr(History(store), look)()
        with store.write(durable=False, room=None) as writer:
            for number in range(10):
                writer.put(Space.CHUNK, b"%d" % number, b"v" * 10_000)
        assert churn(store, 100) == 0


def test_gc_and_stats_tell_of_a_stopped_reader(store) -> None:
    churn(store)
    with Program(READER, store.path) as program:
        assert program.line() == "reading"
        frozen(program)
        churn(store)
        history = History(store)
        for held in (history.stats().held, history.gc(dry_run=True).held):
            assert held is not None and str(program.process.pid) in held.holder
        program.kill()
    assert history.stats().held is None


def test_a_snapshot_of_this_process_is_told_as_such(store) -> None:
    churn(store)
    with store.read():
        churn(store, 5)
        held = store.held_back()
        assert held is not None and held.holder == "this process" and held.changes == 5
    assert store.held_back() is None


def test_whatever_the_free_list_holds_it_is_counted_as_it_is(store) -> None:
    """A large free list has branch pages, and records that have pages of their own."""
    with store.write(durable=False, room=None) as writer:
        for number in range(3000):
            writer.put(Space.CHUNK, b"%06d" % number, b"v" * 10_000)
    with store.read():
        with store.write(durable=False, room=None) as writer:
            for number in range(0, 3000, 2):
                writer.delete(Space.CHUNK, b"%06d" % number)
        for number in range(1, 600, 2):
            with store.write(durable=False, room=None) as writer:
                writer.delete(Space.CHUNK, b"%06d" % number)
        held = store.held_back()
    assert held is not None and held.changes == 301
    assert 1800 * 12_288 <= held.bytes <= 1800 * 12_288 + 12_000_000


@pytest.mark.parametrize("page", [(1 << 48) - 1, 1 << 31, 0], ids=["beyond any file", "beyond the file", "a head"])
@pytest.mark.parametrize("kind", ["branch", "value"])
def test_a_damaged_free_list_costs_the_number_and_nothing_else(store, kind, page) -> None:
    _large_free_list(store)
    with store.read():
        with store.write(durable=False, room=None) as writer:
            writer.put(Space.REF, b"key", b"value")
        file = File(Path(store.path))
        number, at = _node_of_the_free_list(file, BRANCH if kind == "branch" else LEAF)
        if kind == "branch":
            put(file, number, at, "HHH", page & 0xFFFF, page >> 16 & 0xFFFF, page >> 32)
        else:
            put(file, number, at + NODE.size + 8, "Q", page << 15)
        assert store.held_back() is None


def test_a_branch_of_the_free_list_that_leads_to_itself_is_read_once(store) -> None:
    _large_free_list(store)
    with store.read():
        with store.write(durable=False, room=None) as writer:
            writer.put(Space.REF, b"key", b"value")
        file = File(Path(store.path))
        root = file.head.free.root
        for at in file.nodes(root):
            put(file, root, at, "HHH", root & 0xFFFF, root >> 16, 0)
        assert store.held_back() is None


def _large_free_list(store: LmdbStore) -> None:
    """One with a branch, and with a record that has pages of its own."""
    with store.write(durable=False, room=None) as writer:
        for number in range(3000):
            writer.put(Space.CHUNK, b"%06d" % number, b"v" * 10_000)
    with store.read():
        with store.write(durable=False, room=None) as writer:
            for number in range(0, 3000, 2):
                writer.delete(Space.CHUNK, b"%06d" % number)
        for number in range(1, 600, 2):
            with store.write(durable=False, room=None) as writer:
                writer.delete(Space.CHUNK, b"%06d" % number)


def _node_of_the_free_list(file: File, flags: int) -> tuple[int, int]:
    """A node of a branch, or one of a leaf whose value has pages of its own."""
    for number in [number for number, what in file.pages().items() if what == "free"]:
        page = file.page(number)
        if PAGE.unpack_from(page)[2] == flags:
            for at in file.nodes(number):
                if flags == BRANCH or NODE.unpack_from(page, at)[2] == BIG:
                    return number, at
    raise AssertionError("the free list is too small")


@pytest.mark.parametrize("end", ["goes on", "is killed"])
def test_a_writer_that_is_stopped_within_its_transaction_is_waited_for_until_it_goes_on_or_is_gone(store, end) -> None:
    with Program(WAITER, store.path) as waiter:
        assert waiter.line() == "open"  # which waits for a writer too
        _stopped_within(store, waiter, end)


def _stopped_within(store: LmdbStore, waiter: Program, end: str) -> None:
    with Program(WRITER, store.path) as writer:
        assert writer.line() == "inside"
        frozen(writer)
        with store.read() as reader:  # readers wait for nobody
            assert not reader.has(Space.REF, b"theirs")
        waiter.say()
        writer.say()
        if end == "goes on":
            os.kill(writer.process.pid, signal.SIGCONT)
            assert writer.line() == "acknowledged"
            assert waiter.line() == "theirs"
            writer.end()
        else:
            writer.kill()
            assert waiter.line() == "nothing of theirs"
        waiter.end(None)
