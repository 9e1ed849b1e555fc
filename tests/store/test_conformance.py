"""The LMDB store does what its model does, transaction by transaction, across closing and opening."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from casckpt.errors import StoreClosedError
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.lmdb_transactions import LmdbReader, LmdbWriter
from casckpt.store.memory import MemoryReader, MemoryStore
from casckpt.store.protocol import MAX_KEY, Reader, Space, Store, Writer

SPACES = [space for space in Space if space is not Space.META]  # the store keeps its own records there
keys = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.sampled_from([b"\0", b"\xff" * MAX_KEY, b"a" * (MAX_KEY - 1), b"a" * MAX_KEY]),
)
values = st.one_of(st.binary(max_size=50), st.integers(0, 20_000).map(lambda size: b"v" * size))
spaces = st.sampled_from(SPACES[:3])


class Abandoned(Exception):  # noqa: N818 - what a block raises to be undone
    pass


class Conformance(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store: LmdbStore = open_store(self.folder / "store")
        self.model = MemoryStore()
        self.readers: list[tuple[LmdbReader, MemoryReader]] = []

    def teardown(self) -> None:
        self.end_readers()
        self.store.close()
        shutil.rmtree(self.folder)

    def end_readers(self) -> None:
        for reader, model in self.readers:
            reader.close()
            model.close()
        self.readers.clear()

    @rule(
        changes=st.lists(st.tuples(st.sampled_from(["put", "keep", "delete"]), spaces, keys, values), max_size=20),
        durable=st.booleans(),
        room=st.sampled_from([None, 100_000]),
        give_up=st.booleans(),
    )
    def write(self, changes: list[tuple[str, Space, bytes, bytes]], durable: bool, room: int | None, give_up: bool):
        try:
            with (
                self.store.write(durable=durable, room=room) as writer,
                self.model.write(durable=durable, room=room) as model,
            ):
                for what, space, key, value in changes:
                    if what == "delete":
                        assert writer.delete(space, key) == model.delete(space, key)
                    else:
                        both = [one.put(space, key, value, overwrite=what == "put") for one in (writer, model)]
                        assert both[0] == both[1]
                agree(writer, model)
                if give_up:
                    raise Abandoned
        except Abandoned:
            pass

    @rule(space=spaces, key=keys, reverse=st.booleans())
    def delete_while_iterating(self, space: Space, key: bytes, reverse: bool) -> None:
        with self.store.write(durable=False, room=None) as writer, self.model.write(durable=False, room=None) as model:
            going = list(model.keys(space, key, reverse=reverse))
            seen = []
            for one in writer.keys(space, key, reverse=reverse):
                seen.append(one)
                assert writer.delete(space, one) and model.delete(space, one)
            assert seen == going

    @rule()
    def begin_reading(self) -> None:
        self.readers.append((self.store.read(), self.model.read()))

    @precondition(lambda self: self.readers)
    @rule()
    def end_reading(self) -> None:
        reader, model = self.readers.pop(0)
        reader.close()
        reader.close()
        model.close()

    @rule(start=keys, space=spaces, reverse=st.booleans())
    def look(self, start: bytes, space: Space, reverse: bool) -> None:
        with self.store.read() as reader, self.model.read() as model:
            assert list(reader.keys(space, start, reverse=reverse)) == list(model.keys(space, start, reverse=reverse))
            assert reader.has(space, start) == model.has(space, start)
            assert reader.get(space, start) == model.get(space, start)
            assert reader.size(space, start) == model.size(space, start)

    @rule()
    def reopen(self) -> None:
        self.end_readers()
        self.store.close()
        self.store = open_store(self.folder / "store", create=False)

    @invariant()
    def every_snapshot_agrees(self) -> None:
        for reader, model in self.readers:
            agree(reader, model)
        with self.store.read() as reader, self.model.read() as model:
            agree(reader, model)


def agree(reader: Reader, model: Reader) -> None:
    for space in SPACES:
        assert reader.count(space) == model.count(space)
        for key, value in model.items(space):
            assert reader.size(space, key) == model.size(space, key) == len(value)
        for reverse in (False, True):
            assert list(reader.items(space, reverse=reverse)) == list(model.items(space, reverse=reverse))


Conformance.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestConformance = Conformance.TestCase


@pytest.fixture(params=["lmdb", "memory"])
def store(request, tmp_path):
    made: Store = open_store(tmp_path / "store") if request.param == "lmdb" else MemoryStore()
    yield made
    made.close()


@pytest.mark.parametrize("key", [b"", b"k" * (MAX_KEY + 1)])
def test_a_key_of_impossible_length_is_refused_on_put_and_absent_otherwise(store, key):
    with store.write(durable=False, room=None) as writer:
        with pytest.raises(ValueError, match="511"):
            writer.put(Space.CHUNK, key, b"value")
        assert not writer.delete(Space.CHUNK, key)
        assert not writer.has(Space.CHUNK, key)
        assert writer.get(Space.CHUNK, key) is None
        assert writer.size(Space.CHUNK, key) is None


def test_a_reader_and_its_iterators_refuse_after_its_end(store):
    with store.write(durable=False, room=None) as writer:
        for number in range(5):
            writer.put(Space.CHUNK, b"%d" % number, b"value")
    reader = store.read()
    reader.close()
    for use in (
        lambda: reader.get(Space.CHUNK, b"0"),
        lambda: reader.has(Space.CHUNK, b"0"),
        lambda: reader.size(Space.CHUNK, b"0"),
        lambda: reader.keys(Space.CHUNK),
        lambda: list(reader.items(Space.CHUNK)),
        lambda: reader.count(Space.CHUNK),
    ):
        with pytest.raises(StoreClosedError):
            use()


def test_an_iterator_begun_before_the_end_refuses_to_go_on(tmp_path):
    store = open_store(tmp_path / "store")
    with store.write(durable=False, room=None) as writer:
        for number in range(5):
            writer.put(Space.CHUNK, b"%d" % number, b"value")
    reader = store.read()
    going = reader.items(Space.CHUNK)
    next(going)
    reader.close()
    with pytest.raises(StoreClosedError):
        next(going)
    store.close()


def test_a_closed_writer_publishes_nothing(store):
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, b"key", b"value")
        writer.close()
    with store.read() as reader:
        assert reader.count(Space.CHUNK) == 0


def test_what_a_writer_hands_out_survives_its_later_changes(tmp_path):
    store = open_store(tmp_path / "store")
    with store.write(durable=False, room=None) as writer:
        for number in range(5):
            writer.put(Space.NODE, b"%d" % number, b"%d" % number * 100)
        small = [value for _, value in writer.items(Space.NODE)]
        for number in range(5):  # the page is packed anew after each
            writer.delete(Space.NODE, b"%d" % number)
        assert small == [b"%d" % number * 100 for number in range(5)]
        writer.put(Space.CHUNK, b"key", b"a" * 100_000)
        view = writer.get(Space.CHUNK, b"key")
        writer.delete(Space.CHUNK, b"key")
        for number in range(50):
            writer.put(Space.CHUNK, b"%d" % number, b"b" * 100_000)
        assert view == b"a" * 100_000
    store.close()


def test_everything_is_refused_after_close(store):
    store.close()
    store.close()
    with pytest.raises(StoreClosedError):
        store.read()
    with pytest.raises(StoreClosedError), store.write(durable=True, room=None):
        pass


def test_both_are_stores(tmp_path):
    store = open_store(tmp_path / "store")
    assert isinstance(store.write(durable=False, room=None), LmdbWriter)
    made: list[Store] = [store, MemoryStore()]
    with made[0].write(durable=False, room=None) as writer, made[0].read() as reader:
        typed: tuple[Writer, Reader] = (writer, reader)
        assert typed
    store.close()


@pytest.mark.parametrize("seed", range(8))
def test_an_iteration_goes_on_to_the_next_key_there_is_whatever_was_changed_meanwhile(tmp_path, seed):
    chance = random.Random(seed)
    reverse = bool(seed % 2)
    store = open_store(tmp_path / "store")
    with store.write(durable=False, room=None) as writer:
        model = {b"%06d" % chance.randrange(10**6) for _ in range(1500)}
        for key in model:
            writer.put(Space.NODE, key, b"x" * chance.choice([5, 50, 900, 3000]))
        last = None
        for turn, key in enumerate(writer.keys(Space.NODE, reverse=reverse)):
            left = [one for one in model if last is None or (one < last if reverse else one > last)]
            assert key == (max(left) if reverse else min(left))
            last = key
            near = b"%06d" % max(0, int(key) + chance.randrange(-50, 50))
            for change in chance.choices([key, near, chance.choice(sorted(model))], k=2):
                if chance.random() < 0.5:
                    writer.delete(Space.NODE, change)
                    model.discard(change)
                else:
                    writer.put(Space.NODE, change, b"y" * chance.choice([5, 900]))
                    model.add(change)
            if turn == 100:
                break
    store.close()
