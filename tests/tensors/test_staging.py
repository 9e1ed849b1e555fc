"""The staging pool gives out memory that nobody else has, within its limits, and keeps it only while it is of use."""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import casckpt
from casckpt.tensors import staging
from casckpt.tensors.staging import Bytes, Piece, Pool

SLAB = 4096
LIMITS = st.sampled_from([None, 1, SLAB, 2 * SLAB, 3 * SLAB, 5 * SLAB + 1])


class Machine(RuleBasedStateMachine):
    """Pieces are taken and released in any order, each filled with bytes of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(staging, "SLAB", SLAB)
        self.slabs: weakref.WeakValueDictionary[int, Bytes] = weakref.WeakValueDictionary()
        self.made = 0
        self.pool = Pool(self.allocate)
        self.held: dict[int, Piece] = {}
        self.number = 0

    def allocate(self, size: int) -> Bytes:
        self.made += 1
        slab = self.slabs[self.made] = np.empty(size, np.uint8)
        return slab

    def teardown(self) -> None:
        while self.held:
            self.held.popitem()[1].release()
        self.pool.give_up()
        assert self.pool.size == self.pool._in_use == 0
        assert not self.slabs
        self.patch.undo()

    def in_use(self) -> int:
        """Bytes of the slabs that pieces are held of."""
        slabs = {id(piece._slab): len(piece._slab.memory) for piece in self.held.values()}
        return sum(slabs.values())

    @rule(size=st.one_of(st.integers(1, 2 * SLAB), st.sampled_from([SLAB, SLAB // 2, SLAB + 1])), limit=LIMITS)
    def takes(self, size: int, limit: int | None) -> None:
        before, was = self.in_use(), self.pool.size
        piece = self.pool.take(size, limit)
        if piece is None:
            assert limit is not None and before > 0, "only where something will come free"
            assert self.pool.size == was
            return
        assert len(piece.memory) == size
        self.number += 1
        piece.memory[:] = self.number % 251
        self.held[self.number] = piece
        if limit is not None and self.in_use() != before:
            assert self.in_use() <= limit or before == 0
        if limit is not None and self.pool.size > was:
            assert self.pool.size <= max(limit, size, SLAB), "it does not grow beyond the limit, or one piece's need"

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def releases(self, data: st.DataObject) -> None:
        freed, before = self.pool.freed, self.in_use()
        self.held.pop(data.draw(st.sampled_from(sorted(self.held)))).release()
        assert (self.pool.freed > freed) == (self.in_use() < before)

    @rule()
    def gives_up(self) -> None:
        self.pool.give_up()
        assert self.pool.size == self.in_use()

    @invariant()
    def nobody_else_wrote_to_a_piece(self) -> None:
        for number, piece in self.held.items():
            assert (piece.memory == number % 251).all()

    @invariant()
    def it_counts_what_it_holds(self) -> None:
        assert self.pool.size == sum(len(slab) for slab in self.slabs.values())
        assert self.pool._in_use == self.in_use()


TestPool = Machine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_is_dropped_with_pieces_out_is_freed_as_they_come_back(monkeypatch) -> None:
    monkeypatch.setattr(staging, "SLAB", SLAB)
    pool = Pool()
    pieces = [pool.take(SLAB, None) for _ in range(3)]
    pool.take(10, None).release()
    assert pool.size == 4 * SLAB
    pool.end()
    for left in (2, 1, 0):
        pieces.pop().release()
        assert pool.size == left * SLAB
    pool.rest()
    assert pool._timer is None


def test_a_piece_that_is_released_twice_takes_nobody_s_place(monkeypatch) -> None:
    """An interrupt within a release leads to another; the memory of a neighbour must not come free by that."""
    monkeypatch.setattr(staging, "SLAB", SLAB)
    pool = Pool()
    neighbour, twice = pool.take(64, None), pool.take(64, None)
    neighbour.memory[:] = 7
    twice.release()
    twice.release()
    pool.take(64, None).memory[:] = 9
    assert (neighbour.memory == 7).all() and pool._in_use == SLAB


def test_new_ways_to_take_memory_drop_what_was_taken_in_the_old_one(monkeypatch) -> None:
    monkeypatch.setattr(staging, "SLAB", SLAB)
    pool, pinned = Pool(), []

    def pin(size: int) -> Bytes:
        pinned.append(size)
        return np.empty(size, np.uint8)

    held, other = pool.take(SLAB, None), pool.take(SLAB, None)
    other.release()
    pool.use(pin)
    pool.use(pin)
    assert pool.size == SLAB
    pool.take(10, None).release()
    assert pinned == [SLAB]
    held.release()
    pool.take(SLAB, None)
    pool.take(SLAB, None)
    assert pinned == [SLAB] * 3 and pool.size == 2 * SLAB, "what came free later is not used again either"


def test_what_is_begun_in_the_old_way_is_not_gone_on_with_in_the_new_one(monkeypatch) -> None:
    monkeypatch.setattr(staging, "SLAB", SLAB)
    pool = Pool()
    held = pool.take(10, None)
    pool.use(lambda size: np.ones(size, np.uint8))
    piece = pool.take(10, None)
    assert (piece.memory == 1).all() and piece._slab is not held._slab
    held.release()
    piece.release()
    assert pool.size == SLAB


def test_its_memory_is_given_up_when_nobody_has_needed_it_for_a_while(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(staging, "POOL_IDLE", 0.05)
    with casckpt.open(tmp_path / "store") as repo:
        for number in range(2):
            repo.commit_async({"w": np.arange(100_000) + number}).result()
            end = time.monotonic() + 20
            while repo._pool.size and time.monotonic() < end:
                time.sleep(0.01)
            assert repo._pool.size == 0


def test_while_it_is_needed_it_is_not_given_up(tmp_path) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        timers = []
        for number in range(3):
            repo.commit({"w": np.arange(100_000) + number})
            timers.append(repo._pool._timer)
            assert timers[-1].locked() and timers[-1] not in timers[:-1]
        pool = repo._pool
        pool.work()
        assert pool._timer is None and pool.size, "called off"


@pytest.mark.parametrize("behind", [False, True])
def test_it_does_not_grow_from_one_commit_to_the_next(tmp_path, behind: bool) -> None:
    state = {str(number): np.zeros(3 << 20, np.uint8) for number in range(16)}
    with casckpt.open(tmp_path / "store", codec="none") as repo:
        sizes = []
        for number in range(20):
            for index, held in enumerate(state.values()):
                held[:: 1 << 12] = (number + index) % 256
            repo.commit_async(state).result() if behind else repo.commit(state)
            sizes.append(repo._pool.size)
        assert max(sizes) == sizes[0] <= (48 << 20) * 1.4 + staging.SLAB
        assert repo._pool._in_use == 0
        memory = weakref.ref(repo._pool._open.memory)
    gc.collect()
    assert memory() is None
