"""The save pipeline: it stores what was there, copies what changed, and lets go of all that it took."""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import casckpt
from casckpt.errors import StateError, StoreFullError
from casckpt.history.ingest import Ingest
from casckpt.limits import KIB
from casckpt.objects.node import chunk_bounds
from casckpt.store.memory import MemoryStore
from casckpt.tensors import flatten
from casckpt.tensors import save as module
from casckpt.tensors.bell import Bell
from casckpt.tensors.device import DeviceCopies
from casckpt.tensors.repository import Repository
from casckpt.tensors.save import Save
from casckpt.tensors.spans import Span
from casckpt.tensors.writer import Writer
from tests.equality import assert_same

CHUNK = 64 * KIB
NAMES = ("a", "b", "c")
# Where in a chunk an edit goes: to what is probed, 4 KiB in its middle, or past it on either side.
PLACES = st.sampled_from([0, 100, CHUNK // 2 - 2 * KIB - 1, CHUNK // 2 - 2 * KIB, CHUNK // 2, CHUNK - 1])


class Edits(RuleBasedStateMachine):
    """A state of chunks large enough to be probed is edited, and put back, between commits of either kind."""

    @initialize(
        lengths=st.tuples(*[st.sampled_from([CHUNK, 3 * CHUNK, 2 * CHUNK + 777, CHUNK + 5000])] * 3),
        threads=st.integers(1, 2),
        codec=st.sampled_from(["none", "auto"]),
    )
    def begins(self, lengths: tuple[int, ...], threads: int, codec: str) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "thread_count", lambda: threads)
        self.patch.setattr(module, "_ALONE", 0)
        self.patch.setattr(module, "_RUN", CHUNK)
        self.store = MemoryStore(chunk_size=CHUNK, codec=codec)
        self.repo = Repository(self.store)
        rng = np.random.default_rng(len(NAMES))
        self.state = {
            name: torch.from_numpy(rng.integers(0, 256, length, np.uint8))
            for name, length in zip(NAMES, lengths, strict=True)
        }
        self.seen = {name: [tensor.clone()] for name, tensor in self.state.items()}
        self.base: dict[str, torch.Tensor] = {}

    def teardown(self) -> None:
        self.patch.undo()
        self.lets_go()

    def lets_go(self) -> None:
        if self.repo._pool is not None:
            self.repo._pool.give_up()

    @rule(name=st.sampled_from(NAMES), chunk=st.integers(0, 3), place=PLACES, by=st.integers(1, 255))
    def edits_a_byte(self, name: str, chunk: int, place: int, by: int) -> None:
        tensor = self.state[name]
        tensor[(chunk * CHUNK + place) % len(tensor)] += by

    @rule(name=st.sampled_from(NAMES))
    def edits_every_chunk(self, name: str) -> None:
        self.state[name] += 1

    @rule(name=st.sampled_from(NAMES), data=st.data())
    def goes_back(self, name: str, data: st.DataObject) -> None:
        self.state[name] = data.draw(st.sampled_from(self.seen[name])).clone()

    @rule(name=st.sampled_from(NAMES), length=st.sampled_from([CHUNK, 2 * CHUNK + 777, 3 * CHUNK, 3 * CHUNK + 70_000]))
    def becomes_shorter_or_longer(self, name: str, length: int) -> None:
        self.state[name] = torch.cat([self.state[name], self.state[name].flip(0)])[:length].clone()

    @rule()
    def swaps(self) -> None:
        self.state["a"], self.state["b"] = self.state["b"], self.state["a"]

    @rule()
    def another_handle_takes_over(self) -> None:
        """It remembers nothing, and has no probes."""
        self.lets_go()
        self.repo = Repository(self.store)

    @rule(behind=st.booleans())
    def commits(self, behind: bool) -> None:
        if behind:
            pending = self.repo.commit_async(dict(self.state))
            pending.result()
            figures = pending.figures
            differs = sum(len(now) for now, before in self.chunks() if before is None or not torch.equal(now, before))
            same = sum(len(now) for now, _ in self.chunks()) - differs
            assert figures.copied == differs
            assert same + differs <= figures.hashed <= same + 2 * differs
        else:
            self.repo.commit(dict(self.state))
        for name, tensor in self.state.items():
            self.seen[name].append(tensor.clone())
        self.base = {name: tensor.clone() for name, tensor in self.state.items()}
        assert_same(self.base, self.repo.load())

    def chunks(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Each chunk of the state with the one in its place in the last commit."""
        found = []
        for name, tensor in self.state.items():
            before = self.base.get(name, tensor[:0])
            for start, end in chunk_bounds(len(tensor), CHUNK):
                at_place = before[start : start + CHUNK] if start < len(before) else None
                found.append((tensor[start:end], at_place))
        return found

    @invariant()
    def all_memory_is_back(self) -> None:
        pool = getattr(self, "repo", None) and self.repo._pool
        assert not pool or pool._in_use == 0


TestEdits = Edits.TestCase
TestEdits.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_what_changes_every_time_is_hashed_once_and_what_never_does_is_not_copied(tmp_path) -> None:
    state = {"w": torch.rand(1 << 18), "frozen": torch.rand(1 << 18)}
    with casckpt.open(tmp_path / "store", chunk_size=CHUNK) as repo:
        for number in range(4):
            state["w"] += 1
            pending = repo.commit_async(state)
            pending.result()
            size = 1 << 20
            assert (pending.figures.hashed, pending.figures.copied) == (2 * size, size if number else 2 * size)


def test_a_state_that_was_read_by_nobody_before_is_compared_by_its_hashes(tmp_path) -> None:
    state = {"w": torch.rand(1 << 18)}
    with casckpt.open(tmp_path / "store", chunk_size=CHUNK) as repo:
        repo.commit(state)
    with casckpt.open(tmp_path / "store") as repo:
        state["w"][0] += 1
        pending = repo.commit_async(state)
        pending.result()
        assert (pending.figures.copied, pending.figures.hashed) == (CHUNK, (1 << 20) + CHUNK)
        assert pending.figures.written < CHUNK + 100


def test_the_figures_say_what_a_commit_did(tmp_path) -> None:
    state = {"w": torch.rand(1 << 18)}
    with casckpt.open(tmp_path / "store", chunk_size=CHUNK, codec="none") as repo:
        pending = repo.commit_async(state)
        first = pending.result()
        assert pending.figures.written == first.figures.stored
        assert set(pending.figures.seconds) == {"take", "store", "trees", "publish"}
        assert 0 <= pending.figures.waited < pending.figures.stall
        state["v"] = state["w"].clone()  # the same chunks in another place: copied, but not written again
        pending = repo.commit_async(state)
        assert pending.result().figures.new == pending.figures.written == 0
        assert pending.figures.copied == 1 << 20


# -- memory ------------------------------------------------------------------------------------------------------------


def small(monkeypatch, *, slab: int, batch: int, threads: int) -> None:
    """Limits as small as the states of these tests."""
    monkeypatch.setattr("casckpt.tensors.staging.SLAB", slab)
    monkeypatch.setattr("casckpt.tensors.writer.SAVE_BATCH", batch)
    monkeypatch.setattr("casckpt.history.ingest.SAVE_BATCH", batch)
    monkeypatch.setattr(module, "thread_count", lambda: threads)
    monkeypatch.setattr(module, "_ALONE", 0)
    monkeypatch.setattr(module, "_RUN", 1)


@pytest.mark.parametrize("codec", ["none", "auto"])
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("memory", [1, 5000, 20_000])
@pytest.mark.parametrize("behind", [False, True])
def test_whatever_the_memory_a_save_comes_to_its_end(tmp_path, monkeypatch, codec, threads, memory, behind) -> None:
    """Whoever waits for memory is not left alone by others who had the last of it: what they add is written too."""
    small(monkeypatch, slab=4096, batch=1 << 30, threads=threads)
    monkeypatch.setattr("casckpt.tensors.committing.SAVE_MEMORY", memory)
    rng = np.random.default_rng(0)
    state = {str(number): rng.integers(0, 256, 3000, np.uint8) for number in range(40)}
    with casckpt.open(tmp_path / "store", chunk_size=1024, codec=codec) as repo:
        for turn in range(3):
            for held in state.values():
                held[turn::512] += 1
            if behind:
                for _ in range(2):
                    repo.commit_async(state, in_flight=2, memory=memory)
                assert repo._pool.size <= max(memory, 4096)
                repo.wait()
            else:
                repo.commit(state)
            assert repo._pool.size <= max(memory, 4096) and repo._pool._in_use == 0
            assert_same(state, repo.load())


def test_a_chunk_that_is_added_last_is_written_for_who_waits_for_its_memory(tmp_path, monkeypatch) -> None:
    """It holds a slab that another thread needs, and nobody comes after it."""
    small(monkeypatch, slab=1100, batch=1 << 30, threads=2)
    waits, real_wait, real_digest = threading.Event(), module.Pool.wait, Save._finish
    begun: list[int] = []

    def wait(pool: Any, freed: int, may_go_on: Any) -> None:
        waits.set()
        real_wait(pool, freed, may_go_on)

    def finish(save: Save, taken: Any) -> None:
        begun.append(taken.index)
        if len(begun) == 1:
            assert waits.wait(30)  # the other thread wants memory, and has had all written that there was
        real_digest(save, taken)

    monkeypatch.setattr(module.Pool, "wait", wait)
    monkeypatch.setattr(Save, "_finish", finish)
    monkeypatch.setattr("casckpt.tensors.committing.SAVE_MEMORY", 1)
    state = {"w": np.random.default_rng(0).integers(0, 256, 2048, np.uint8)}
    with casckpt.open(tmp_path / "store", chunk_size=1024, codec="none") as repo:
        repo.commit(state)
        assert waits.is_set()
        assert_same(state, repo.load())


def without_threads(monkeypatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr("casckpt.tensors.threads.start_new_thread", refuse)
    monkeypatch.setattr("casckpt.tensors.workers.start_new_thread", refuse)


@pytest.mark.parametrize("behind", [False, True])
def test_where_no_thread_can_be_begun_a_commit_is_made_all_the_same(tmp_path, monkeypatch, behind) -> None:
    """So it is from Python 3.12 on while the interpreter's exit waits for what is in flight."""
    small(monkeypatch, slab=8192, batch=4096, threads=4)
    monkeypatch.setattr("casckpt.tensors.committing.SAVE_MEMORY", 20_000)
    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo:
        repo.commit({"w": 1})
        with monkeypatch.context() as patch:
            without_threads(patch)
            said = []
            for number in range(3):
                state = {"w": np.random.default_rng(number).integers(0, 256, 50_000, np.uint8)}
                if behind:
                    pending = repo.commit_async(state, memory=20_000)
                    assert pending.done()
                    pending.add_done_callback(lambda _: said.append(repo.commit({"after": 1}).id))
                else:
                    repo.commit(state)
                assert_same(state, repo.load("HEAD^" if behind else "HEAD"))
            assert len(said) == (3 if behind else 0)
    assert repo._pool.size == 0


# -- what fails, and what is let go of ---------------------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A repository with small limits, and a check that nothing of a save is left behind."""
    small(monkeypatch, slab=8192, batch=4096, threads=2)
    pools: list[Any] = []
    make = module.Pool.__init__

    def made(pool: Any, *args: Any) -> None:
        make(pool, *args)
        pools.append(pool)

    monkeypatch.setattr(module.Pool, "__init__", made)
    with casckpt.open(tmp_path / "store", chunk_size=1024, codec="none") as repo:
        repo.commit({"w": np.zeros(50_000, np.uint8)})
        yield repo
        nothing_is_left(repo)
        for pool in pools:
            assert pool._in_use == 0 and (pool is repo._pool or pool.size == 0)


def nothing_is_left(repo: Repository) -> None:
    environment = repo.store._environment
    assert environment.gate.live == set()
    assert environment._raw.readers().strip() in ("(no active readers)", "") or not environment.gate.live
    assert not [one for one in gc.get_objects() if type(one) is Writer and one._is_running]


STATE = {"w": np.random.default_rng(5).integers(0, 256, 50_000, np.uint8)}

PLACES_TO_FAIL = [
    ("casckpt.history.ingest.Ingest.claim_chunk", 20),
    ("casckpt.history.ingest.Ingest.flush", 0),
    ("casckpt.history.ingest.Ingest._put", 0),
    ("casckpt.history.ingest.Ingest._secure", 1),
    ("casckpt.history.ingest.Ingest.add_node", 0),
    ("casckpt.history.ingest.Ingest.publish", 0),
    ("casckpt.history.ingest.Ingest._look_again", 0),
    ("casckpt.tensors.save.encode_chunk", 20),
    ("casckpt.tensors.save._probe", 20),
    ("casckpt.tensors.save.write_tree", 0),
    ("casckpt.tensors.staging.Pool.take", 3),
]


@pytest.mark.parametrize("memory", [None, 20_000])
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(("place", "after"), PLACES_TO_FAIL)
def test_wherever_a_save_fails_it_lets_go_of_everything(watched, monkeypatch, place, after, behind, memory) -> None:
    real = _resolve(place)
    left, lock = [after], threading.Lock()

    def fail(*args: Any, **more: Any) -> Any:
        with lock:
            left[0] -= 1
            if left[0] < 0:
                raise StoreFullError("no room", needed=1, available=0, remedy="free some")
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        patch.setattr("casckpt.tensors.committing.SAVE_MEMORY", memory or 100_000)
        with pytest.raises(StoreFullError):
            if behind:
                watched.commit_async(STATE, memory=memory).result()
            else:
                watched.commit(STATE)
    watched._lane.wait()
    nothing_is_left(watched)
    assert len(list(watched.log())) == 1
    watched.commit_async(STATE).result()
    assert_same(STATE, watched.load())


def _resolve(place: str) -> Any:
    parts = place.split(".")
    for at in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:at]))
        except ModuleNotFoundError:
            continue
        for part in parts[at:]:
            found = getattr(found, part)
        return found
    raise AssertionError(place)


def test_a_storage_that_is_freed_before_it_was_read_is_named(watched, monkeypatch) -> None:
    state = {"w": torch.rand(5000), "v": torch.rand(5000)}
    real = flatten.flatten

    def freed(live: Any) -> Any:
        flat = real(live)
        state["v"].untyped_storage().resize_(0)
        return flat

    with monkeypatch.context() as patch:
        patch.setattr(flatten, "flatten", freed)
        with pytest.raises(StateError) as caught:
            watched.commit_async(state)
    assert caught.value.path == "v"
    nothing_is_left(watched)


def test_an_interrupted_wait_for_the_writer_lets_nobody_end_what_it_reads(watched, monkeypatch) -> None:
    began, go_on = threading.Event(), threading.Event()
    real_secure, real_wait = Ingest._secure, Bell.wait_for

    def slow(ingest: Ingest, written: Any) -> Any:
        began.set()
        assert go_on.wait(30)
        assert all(snapshot._transaction.raw is not None for snapshot in ingest._snapshots)
        return real_secure(ingest, written)

    def interrupted(bell: Bell, is_so: Callable[[], bool]) -> None:
        if threading.current_thread() is threading.main_thread() and not go_on.is_set():
            go_on.set()
            raise KeyboardInterrupt
        real_wait(bell, is_so)

    def fail(*_: Any) -> None:
        assert began.wait(30)
        raise ValueError

    with monkeypatch.context() as patch:
        patch.setattr(Ingest, "_secure", slow)
        patch.setattr(Bell, "wait_for", interrupted)
        patch.setattr("casckpt.tensors.writer.SAVE_BATCH", 1)
        patch.setattr("casckpt.tensors.writer.Writer.end", fail)
        with pytest.raises(KeyboardInterrupt):
            watched.commit(STATE)
    nothing_is_left(watched)
    watched.commit(STATE)
    assert_same(STATE, watched.load())


# -- devices -----------------------------------------------------------------------------------------------------------


class Slow(DeviceCopies):
    """A device whose copies are there only when they are waited for, as those of a stream are."""

    pending: ClassVar[list[Any]] = []

    def copy(self, live: torch.Tensor, out: Any) -> Any:
        held = live.clone()  # in the device's order, training changes it behind this
        out[:] = 7

        def ready() -> None:
            if ready in Slow.pending:
                Slow.pending.remove(ready)
                torch.from_numpy(out).copy_(held)

        Slow.pending.append(ready)
        return ready

    def wait(self) -> None:
        for ready in list(Slow.pending):
            ready()


@pytest.fixture
def on_a_device(monkeypatch):
    """Spans of tensors are taken for a device's."""
    Slow.pending.clear()
    real = Save._part

    def of_device(save: Save, span: Span) -> Any:
        if hasattr(span, "storage"):
            span.on_host = False
        return real(save, span)

    monkeypatch.setattr(Save, "_part", of_device)
    monkeypatch.setattr(module, "DeviceCopies", Slow)
    yield
    assert not Slow.pending


@pytest.mark.parametrize("memory", [None, 20_000])
def test_what_lies_on_a_device_is_stored_as_it_was_however_late_it_comes(
    watched, on_a_device, monkeypatch, memory
) -> None:
    generator = torch.Generator().manual_seed(1)
    state = {"w": torch.rand(5000, generator=generator), "t": torch.rand(70, 90, generator=generator).t(), "n": STATE}
    kept = {name: held.clone() if isinstance(held, torch.Tensor) else held for name, held in state.items()}
    kept["t"] = state["t"].t().clone().t()
    pending = [watched.commit_async(state, memory=memory)]
    state["w"] += 1
    pending.append(watched.commit_async(state, memory=memory, in_flight=2))
    state["w"] += 1
    state["t"].zero_()
    assert_same(kept, watched.load(pending[0].result().id))
    assert_same({**kept, "w": kept["w"] + 1}, watched.load(pending[1].result().id))
    assert pending[0].figures.copied == 5000 * 4 + 70 * 90 * 4 + 50_000


def test_the_memory_that_a_device_still_writes_to_is_not_used_again(watched, on_a_device) -> None:
    """Where a commit is cancelled, or fails, its copies may still be on their way."""
    held, go_on = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        held.set()
        assert go_on.wait(30)

    watched._lane.put(lambda: hold(None))
    watched._lane.go()
    assert held.wait(30)
    cancelled = watched.commit_async({"w": torch.rand(5000)}, in_flight=2)
    assert Slow.pending and cancelled.cancel()
    go_on.set()
    watched.wait()
    assert not Slow.pending and watched._pool._in_use == 0


def test_a_failure_between_copies_from_a_device_waits_for_them(tmp_path, on_a_device, monkeypatch) -> None:
    put_off, left = Save._put_off, [4]

    def fail(save: Save, taken: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise MemoryError  # its copy has begun, and nobody else knows of it
        put_off(save, taken)

    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo:
        monkeypatch.setattr(Save, "_put_off", fail)
        with pytest.raises(MemoryError):
            repo.commit_async({"w": torch.rand(5000)})
        assert repo._pool is None  # the piece of that copy is lost with it
    assert not Slow.pending
