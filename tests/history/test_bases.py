"""Whatever is committed, every delta has its base, chains end, and the records say what the frames say (I2)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from casckpt.errors import CorruptObjectError
from casckpt.history import bases
from casckpt.history.bases import height_of
from casckpt.limits import MAX_CHAIN
from casckpt.objects.codec import encode
from casckpt.objects.frame import Codec, FrameHead, pack_head, read_frame
from casckpt.objects.ids import Kind
from casckpt.store.lmdb_store import open_store
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Reader, Space, Store, Writer

IDS = [bytes([n]) * 16 for n in range(8)]
DEPTH = 2


def alone(oid: bytes) -> bytes:
    return encode(Kind.CHUNK, oid, b"raw", "none")


def delta(oid: bytes, base: bytes) -> bytes:
    return pack_head(FrameHead(Kind.CHUNK, Codec.DELTA_PLANES, oid, 1, 1, base, 1, (1,))) + b"x"


def frame(oid: bytes, base: bytes | None) -> bytes:
    return alone(oid) if base is None else delta(oid, base)


def put(writer: Writer, oid: bytes, base: bytes | None = None) -> bool:
    return bases.put_chunk(writer, oid, frame(oid, base), lambda: alone(oid))


def writing(store: Store):
    return store.write(durable=True, room=0)


def check_invariant(reader: Reader, bound: int = MAX_CHAIN) -> dict[bytes, bytes | None]:
    """Raise unless what is stored is as it must be; returns what each chunk is based on, by its frame."""
    held = {oid: read_frame(view)[0].base for oid, view in reader.items(Space.CHUNK)}
    recorded = {oid: base for oid, base in held.items() if base is not None}
    assert dict(bases.all_bases(reader)) == recorded
    assert sorted(reader.keys(Space.DEPENDANT)) == sorted(base + oid for oid, base in recorded.items())
    for oid in held:
        depth, at = 0, held[oid]
        while at is not None:
            assert at in held, "a delta without its base"
            depth, at = depth + 1, held[at]
            assert depth <= bound, "a circle, or a chain beyond the bound"
        assert bases.depth_of(reader, oid) == depth
    return held


class Machine(RuleBasedStateMachine):
    """What is based on what, against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="casckpt-"))
        self.stores: list[Store] = [MemoryStore(), open_store(self.folder / "store")]
        self.base: dict[bytes, bytes | None] = {}

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)

    def chain(self, oid: bytes | None) -> list[bytes]:
        found = []
        while oid is not None:
            found.append(oid)
            oid = self.base[oid]
        return found

    def height(self, oid: bytes) -> int:
        return max(len(self.chain(one)[: self.chain(one).index(oid)]) for one in self.base if oid in self.chain(one))

    @rule(oid=st.sampled_from(IDS), base=st.sampled_from([None, *IDS]))
    def puts(self, oid, base) -> None:
        for store in self.stores:
            with writing(store) as writer:
                assert put(writer, oid, base) == (oid not in self.base)
        if oid not in self.base:
            self.base[oid] = base if base in self.base else None

    @rule(oid=st.sampled_from(IDS))
    def deletes(self, oid) -> None:
        is_base = oid in self.base.values()
        for store in self.stores:
            with writing(store) as writer:
                assert bases.delete_chunk(writer, oid) == (not is_base)
        if not is_base:
            self.base.pop(oid, None)

    @rule(oid=st.sampled_from(IDS), base=st.sampled_from([None, *IDS]), stale=st.booleans())
    def replaces(self, oid, base, stale) -> None:
        before = self.base.get(oid)
        if stale:
            before = IDS[0] if before is None else None
        may = oid in self.base and before == self.base[oid]
        if may and base is not None:
            may = base in self.base and oid not in self.chain(base)
            if may:
                over = len(self.chain(base))
                may = over < len(self.chain(oid)) or over + self.height(oid) <= DEPTH
        for store in self.stores:
            with writing(store) as writer:
                done = bases.replace_chunk(writer, oid, frame(oid, base), before=before, depth=DEPTH)
                assert done == may
        if may:
            self.base[oid] = base

    @rule(oid=st.sampled_from(IDS), base=st.sampled_from([None, *IDS]))
    def gives_up(self, oid, base) -> None:
        """A transaction that does everything and is then aborted."""
        for store in self.stores:
            with pytest.raises(ZeroDivisionError), writing(store) as writer:
                put(writer, oid, base)
                bases.replace_chunk(writer, oid, alone(oid), before=bases.base_of(writer, oid), depth=DEPTH)
                bases.delete_chunk(writer, oid)
                raise ZeroDivisionError

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        for store in self.stores:
            with store.read() as reader:
                assert check_invariant(reader) == self.base
                for oid in self.base:
                    assert sorted(bases.dependants(reader, oid)) == sorted(
                        one for one, base in self.base.items() if base == oid
                    )
                    assert bases.height_of(reader, oid) == self.height(oid)


Machine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBasesAgreeWithTheModel = Machine.TestCase


def line(count: int) -> list[bytes]:
    return [n.to_bytes(16, "big") for n in range(count)]


def test_no_chain_becomes_longer_than_a_reader_follows(store) -> None:
    ids = line(MAX_CHAIN + 2)
    with writing(store) as writer:
        for oid, base in zip(ids, [None, *ids], strict=False):
            assert put(writer, oid, base)
    with store.read() as reader:
        check_invariant(reader)
        assert bases.depth_of(reader, ids[-2]) == MAX_CHAIN
        assert bases.depth_of(reader, ids[-1]) == 0


def test_nothing_is_based_on_a_chain_that_is_not_whole(store) -> None:
    first, second, third = line(3)
    with writing(store) as writer:
        put(writer, first)
        put(writer, second, first)
        writer.delete(Space.CHUNK, first)  # damage
        put(writer, third, second)
        assert bases.base_of(writer, third) is None
        assert not bases.replace_chunk(writer, third, delta(third, second), before=None, depth=DEPTH)


def test_a_circle_in_damaged_records_is_told_and_never_followed_for_ever(store) -> None:
    first, second, third = line(3)
    with writing(store) as writer:
        put(writer, first)
        put(writer, second, first)
        writer.put(Space.BASE, first, second)
        writer.put(Space.DEPENDANT, second + first, b"")
    with writing(store) as writer:
        with pytest.raises(CorruptObjectError, match="over itself"):
            bases.depth_of(writer, second)
        assert bases.height_of(writer, first) == 1
        put(writer, third, second)
        assert bases.base_of(writer, third) is None
        assert not bases.delete_chunk(writer, first)
        assert bases.replace_chunk(writer, first, alone(first), before=second, depth=DEPTH)  # the way out of it
        assert bases.depth_of(writer, second) == 1


def test_a_chain_that_is_too_long_already_may_become_shorter(store) -> None:
    ids = line(6)
    with writing(store) as writer:
        for oid, base in zip(ids, [None, *ids], strict=False):
            put(writer, oid, base)
        assert bases.replace_chunk(writer, ids[4], delta(ids[4], ids[2]), before=ids[3], depth=2)
        assert bases.depth_of(writer, ids[5]) == 4
        assert not bases.replace_chunk(writer, ids[4], delta(ids[4], ids[3]), before=ids[2], depth=2)


def test_heights_count_only_what_is_asked_for(store) -> None:
    a, b, c = line(3)
    with writing(store) as writer:
        put(writer, a)
        put(writer, b, a)
        put(writer, c, b)
        assert bases.height_of(writer, a) == 2
        assert bases.height_of(writer, a, 1) == 1
        assert bases.height_of(writer, a, among={b}) == 1
        assert bases.height_of(writer, a, among={c}) == 0


def test_records_that_lead_in_circles_come_to_an_end() -> None:
    store = MemoryStore()
    ids = [bytes([number]) * 16 for number in range(2)]
    with store.write(durable=True, room=None) as writer:
        for base in ids:
            for oid in ids:
                writer.put(Space.DEPENDANT, base + oid, b"")
        assert height_of(writer, ids[0]) == 1
        assert height_of(writer, bytes(16)) == 1
