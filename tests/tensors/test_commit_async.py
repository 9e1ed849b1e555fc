"""commit_async: the state of the moment, in the order of calls; what fails is told once, and nothing waits for ever."""

from __future__ import annotations

import copy
import gc
import threading
from collections import deque
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casckpt
from casckpt.errors import (
    AbandonedCommitError,
    ForkedStoreError,
    RefMovedError,
    StoreBusyError,
    StoreFailedError,
    StoreFullError,
)
from casckpt.history.ingest import Ingest
from casckpt.limits import MIB
from casckpt.store import filesystem
from casckpt.store.memory import MemoryStore
from casckpt.tensors import committing, staging
from casckpt.tensors.pending import Lane
from casckpt.tensors.repository import Repository
from casckpt.tensors.staging import SLAB
from casckpt.tensors.writer import Writer
from tests.equality import assert_same
from tests.processes import forked
from tests.strategies import states

WAIT = 30


def called_back(repo: Repository, state: Any, callback: Any) -> None:
    """Hand a commit over whose callback is called on the lane, however soon it is done."""
    known = threading.Event()
    repo._lane.put(lambda: known.wait(WAIT))
    repo.commit_async(state, in_flight=2).add_done_callback(callback)
    known.set()


@contextmanager
def held(repo: Repository):
    """The lane is held up by a commit that is done, while others are handed over behind it."""
    began, go_on = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        began.set()
        assert go_on.wait(WAIT)

    called_back(repo, {"held": 0}, hold)
    assert began.wait(WAIT)
    try:
        yield
    finally:
        go_on.set()


# -- what is saved -----------------------------------------------------------------------------------------------------


def wreck(state: Any) -> None:
    """Change and free everything that a state holds, as training may the instant a commit is taken."""
    if isinstance(state, torch.Tensor):
        if state.layout is torch.strided and not state.is_inference() and state.numel():
            torch.empty(0, dtype=torch.uint8).set_(state.untyped_storage()).bitwise_not_()
            if state.untyped_storage().resizable():
                state.untyped_storage().resize_(0)
    elif isinstance(state, np.ndarray):
        if state.flags.writeable and state.flags.owndata and state.flags.c_contiguous and state.size:
            state.reshape(-1).view(np.uint8)[:] ^= 0xFF
    elif isinstance(state, dict):
        for item in list(state.values()):
            wreck(item)
        state.clear()
    elif isinstance(state, list):
        for item in state:
            wreck(item)
        state.clear()
    elif isinstance(state, tuple):
        for item in state:
            wreck(item)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(states(), min_size=1, max_size=4), st.sampled_from(["none", "auto", "small"]), st.integers(1, 3))
def test_what_is_saved_is_the_state_of_the_call_whatever_becomes_of_it(history, codec, in_flight) -> None:
    repo = Repository(MemoryStore(chunk_size=256, codec=codec, hash="blake3"))
    expected, pending = [], []
    for state in history:
        twin = Repository(MemoryStore(chunk_size=256))
        twin.commit({"state": state})
        expected.append(twin.load())
        pending.append(repo.commit_async({"state": state}, in_flight=in_flight))
    for state in history:
        wreck(state)
    for one, state in zip(pending, expected, strict=True):
        assert_same(state, repo.load(one.result(WAIT).id))
    assert [c.id for c in repo.log()] == [one.result().id for one in reversed(pending)]
    repo.close()


def odd_states(generator: torch.Generator) -> dict[str, Any]:
    base = torch.rand(40_000, generator=generator)
    return {
        "dense": torch.rand(300_000, generator=generator),
        "frozen": torch.arange(200_000),
        "rows": torch.zeros(2000, 64),
        "views": [base[:1000], base[20_000:].view(100, 200).t(), base[5:5000:7]],
        "array": np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
        "text": "é" * 90_000,
        "tiny": {number: torch.tensor(float(number)) for number in range(50)},
        "half": torch.rand(50_000, generator=generator).to(torch.bfloat16),
    }


def trains_on(state: dict[str, Any], number: int) -> None:
    state["dense"] += 1
    state["rows"][number * 13 % 2000] = number
    state["views"][0][0] += 1
    state["array"][number, number] += 1
    state["text"] = state["text"][:-1]
    state["tiny"][number] += 1
    state["half"][number * 1000 :] *= 0.5


@pytest.mark.parametrize("memory", [None, 300_000])
@pytest.mark.parametrize(("chunk_size", "codec"), [(256, "none"), (4096, "auto"), (1 << 18, "small")])
def test_training_goes_on_at_once_and_each_commit_is_of_its_own_moment(tmp_path, chunk_size, codec, memory) -> None:
    state = odd_states(torch.Generator().manual_seed(0))
    with casckpt.open(tmp_path / "store", chunk_size=chunk_size, codec=codec, hash="blake3") as repo:
        expected = []
        for number in range(6):
            expected.append(copy.deepcopy(state))
            repo.commit_async(state, step=number, in_flight=3, memory=memory)
            trains_on(state, number)
        last = repo.commit_async(state, step=6)
        final = copy.deepcopy(state)
        wreck(state)
        assert_same(final, repo.load(last.result(WAIT).id))
        for number, commit in enumerate(reversed(list(repo.log(limit=7)))):
            assert commit.step == number
            if number < 6:
                assert_same(expected[number], repo.load(commit.id))
        assert repo._pool._in_use == 0


def test_an_optimizer_steps_on_while_its_state_is_written(tmp_path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.BatchNorm1d(300), torch.nn.Linear(300, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    expected = []
    with casckpt.open(tmp_path / "store", chunk_size=4096) as repo:
        for step in range(8):
            model(torch.rand(16, 200)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            expected.append(copy.deepcopy(state))
            repo.commit_async(state, step=step, in_flight=2)
        repo.wait()
        for step, state in enumerate(expected):
            assert_same(state, repo.load(f"step:{step}"))


def test_the_memory_of_the_state_is_not_kept(tmp_path) -> None:
    import weakref

    with casckpt.open(tmp_path / "store") as repo:
        repo.commit({"n": 0})
        with held(repo):
            array = np.zeros(1 << 20)
            kept = weakref.ref(array)
            repo.commit_async({"a": array, "n": 1}, in_flight=2)
            del array
            assert kept() is None
        repo.wait()


# -- order, and who waits ----------------------------------------------------------------------------------------------


def test_several_in_flight_come_in_the_order_of_calls_and_in_bounded_memory(tmp_path) -> None:
    state = {str(number): torch.rand(2 * MIB) for number in range(20)}  # 160 MiB
    with casckpt.open(tmp_path / "store", codec="none") as repo:
        stop, largest = threading.Event(), [0]

        def look() -> None:
            while not stop.wait(0.001):
                pool = repo._pool
                largest[0] = max(largest[0], pool.size if pool is not None else 0)

        looking = threading.Thread(target=look)
        looking.start()
        made = []
        for number in range(3):
            for tensor in state.values():
                tensor[0] = number
                tensor[MIB :: 1 << 18] += 1
            made.append(repo.commit_async(state, step=number, in_flight=3, memory=64 * MIB))
        repo.wait()
        stop.set()
        looking.join()
        assert 0 < largest[0] <= 64 * MIB + SLAB
        commits = [one.result() for one in made]
        assert [c.parents for c in commits] == [(), (commits[0].id,), (commits[1].id,)]
        assert_same(state, repo.load())
        assert repo.load("HEAD~2", paths=["7"])["7"][0] == 0


def test_what_the_last_published_one_has_is_not_stored_again(tmp_path) -> None:
    state = {"w": torch.rand(1 << 18)}
    with casckpt.open(tmp_path / "store", chunk_size=1 << 16) as repo:
        repo.commit_async(state).result()
        size = repo.stats().chunks
        with held(repo):
            state["w"][0] += 1
            both = [repo.commit_async(state, in_flight=3), repo.commit_async(state, in_flight=3)]
        assert both[0].result(WAIT).figures.new_chunks == 1 and both[1].exception(WAIT) is None
        assert repo.stats().chunks == size + 1


def test_one_in_flight_waits_or_is_skipped(tmp_path) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        with held(repo):
            assert repo.commit_async({"n": 1}, busy="skip") is None
            assert repo.commit_async({"n": 2}, busy="skip", in_flight=1) is None
            second = repo.commit_async({"n": 3}, busy="skip", in_flight=2)
            assert second is not None and not second.done()
            assert repo.commit_async({"n": 4}, busy="skip", in_flight=2) is None
            waiting = threading.Thread(target=lambda: repo.commit_async({"n": 5}, in_flight=2))
            waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive()
        waiting.join(WAIT)
        repo.wait()
        assert [repo.load(c.id).get("n") for c in repo.log()] == [5, 3, None]
        for wrong in ({"busy": "later"}, {"in_flight": 0}):
            with pytest.raises(ValueError, match="neither 'wait' nor 'skip'"):
                repo.commit_async({}, **wrong)


def test_threads_commit_behind_each_other_each_in_its_own_order(tmp_path) -> None:
    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo:
        errors: list[BaseException] = []

        def work(name: int) -> None:
            try:
                for number in range(15):
                    state = {"w": torch.full((3000,), name * 100 + number)}
                    if number % 5 == 4:
                        repo.commit(state, f"{name}/{number}")
                    else:
                        repo.commit_async(state, f"{name}/{number}", in_flight=1 + name)
                    state["w"].zero_()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        repo.wait()
        assert not errors
        log = list(repo.log())[::-1]
        for name in range(3):
            mine = [c for c in log if c.message.startswith(f"{name}/")]
            assert [c.message for c in mine] == [f"{name}/{number}" for number in range(15)]
            for number, commit in enumerate(mine):
                assert_same({"w": torch.full((3000,), name * 100 + number)}, repo.load(commit.id))


# -- what fails --------------------------------------------------------------------------------------------------------


def break_next(monkeypatch, error: BaseException, times: int = 1) -> None:
    """The next publications fail."""
    publish, left = Ingest.publish, [times]

    def fail(ingest: Ingest, *args: Any, **more: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return publish(ingest, *args, **more)

    monkeypatch.setattr(Ingest, "publish", fail)


def full() -> StoreFullError:
    return StoreFullError("no room", needed=1, available=0, remedy="free some")


TELLING = {
    "commit": lambda repo: repo.commit({"n": 9}),
    "commit_async": lambda repo: repo.commit_async({"n": 9}),
    "several": lambda repo: repo.commit_async({"n": 9}, in_flight=3),
    "wait": lambda repo: repo.wait(),
    "close": lambda repo: repo.close(),
}


@pytest.mark.parametrize("way", TELLING)
@pytest.mark.parametrize("asked", [False, True])
def test_an_error_is_told_once_to_who_asks_or_else_by_the_next_call(tmp_path, monkeypatch, way, asked) -> None:
    repo = casckpt.open(tmp_path / "store")
    repo.commit({"n": 0})
    break_next(monkeypatch, full())
    pending = repo.commit_async({"n": 1})
    wait([pending], WAIT)
    if asked:
        with pytest.raises(StoreFullError):
            pending.result(WAIT)
        assert isinstance(pending.exception(), StoreFullError)
        TELLING[way](repo)
    else:
        with pytest.raises(StoreFullError):
            TELLING[way](repo)
        if way != "close":
            TELLING[way](repo)
    repo.close()
    with casckpt.open(tmp_path / "store") as again:
        assert again.load("main")["n"] == (9 if "commit" in way or way == "several" else 0)
        assert len(list(again.log())) == (2 if "commit" in way or way == "several" else 1)
        assert again.fsck(read_data=True).ok


@pytest.mark.parametrize("told", ["before", "after", "by the next"])
def test_those_behind_one_that_failed_fail_with_it_whenever_it_is_told(tmp_path, monkeypatch, told) -> None:
    """Were it told and forgotten while they still wait for their turn, they would be published without it."""
    with casckpt.open(tmp_path / "store") as repo:
        repo.commit({"n": 0})
        failed, go_on = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            failed.set()
            assert go_on.wait(WAIT)

        with held(repo):
            break_next(monkeypatch, full())
            first = repo.commit_async({"n": 1}, in_flight=4)
            first.add_done_callback(hold)
            behind = [repo.commit_async({"n": n}, in_flight=4) for n in (2, 3)]
        assert failed.wait(WAIT)
        if told == "before":
            assert isinstance(first.exception(), StoreFullError)
        if told == "by the next":
            raised: list[type] = []

            def next_one() -> None:
                try:
                    repo.commit_async({"n": 4}, in_flight=9)
                except Exception as error:
                    raised.append(type(error))

            calling = threading.Thread(target=next_one)
            calling.start()
            calling.join(0.2)
            go_on.set()
            calling.join(WAIT)
            assert raised == [StoreFullError]
        go_on.set()
        for one in behind:
            assert isinstance(one.exception(WAIT), AbandonedCommitError)
        if told == "after":
            assert isinstance(first.exception(), StoreFullError)
        repo.wait()
        assert [repo.load(c.id).get("n") for c in repo.log()] == [None, 0]
        repo.commit({"n": 5})
        assert repo.load() == {"n": 5}


def test_a_disk_that_is_full_behind_training_is_told_and_the_handle_works_again(tmp_path, monkeypatch) -> None:
    with casckpt.open(tmp_path / "store", codec="none") as repo:
        repo.commit({"n": 0})
        with monkeypatch.context() as patch:
            patch.setattr(filesystem, "free_bytes", lambda path: 0)
            pending = repo.commit_async({"w": torch.rand(8 * MIB)})
            error = pending.exception(WAIT)
        assert isinstance(error, StoreFullError) and error.needed > 32 * MIB
        assert repo.commit_async({"n": 1}).result(WAIT).parents == (repo.resolve("HEAD~1").id,)


def test_a_sync_that_fails_behind_training_is_told_and_the_store_is_to_be_opened_again(tmp_path, monkeypatch) -> None:
    import lmdb

    repo = casckpt.open(tmp_path / "store")
    repo.commit({"n": 0})

    def fail() -> None:
        raise lmdb.Error("Input/output error")

    with held(repo):
        monkeypatch.setattr(repo.store._environment, "sync", fail)
        first, second = (repo.commit_async({"n": n}, in_flight=3) for n in (1, 2))
    assert isinstance(first.exception(WAIT), StoreFailedError)
    assert isinstance(second.exception(WAIT), (AbandonedCommitError, StoreFailedError))
    with pytest.raises(StoreFailedError):
        repo.commit({"n": 3})
    repo.close()
    with casckpt.open(tmp_path / "store") as again:
        assert again.load().get("n", 0) in (0, 1) and again.fsck(read_data=True).ok


def test_a_branch_that_somebody_else_moved_is_told(tmp_path) -> None:
    with casckpt.open(tmp_path / "store") as repo, casckpt.open(tmp_path / "store") as other:
        repo.commit({"n": 0})
        with casckpt.open(tmp_path / "store") as other:
            other.commit({"n": 1})
        pending = repo.commit_async({"n": 2})
        assert isinstance(pending.exception(WAIT), RefMovedError)
        assert repo.load() == {"n": 1}
        repo.follow(repo.resolve("main"))
        repo.commit_async({"n": 3}).result(WAIT)
        assert [repo.load(f"main~{n}")["n"] for n in range(3)] == [3, 1, 0]


def test_a_block_left_by_an_exception_keeps_it_and_notes_the_other(tmp_path, monkeypatch) -> None:
    break_next(monkeypatch, full())
    with pytest.raises(KeyError) as caught, casckpt.open(tmp_path / "store") as repo:
        repo.commit_async({"n": 1})
        raise KeyError("of the block")
    assert any("no room" in note for note in caught.value.__notes__)
    break_next(monkeypatch, full())
    with pytest.raises(StoreFullError), casckpt.open(tmp_path / "store") as repo:
        repo.commit_async({"n": 1})


# -- cancelling, and callbacks -----------------------------------------------------------------------------------------


def test_what_is_cancelled_before_its_turn_leaves_nothing_and_those_behind_it_come(tmp_path) -> None:
    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo:
        with held(repo):
            pending = [repo.commit_async({"w": torch.full((5000,), n)}, step=n, in_flight=9) for n in range(5)]
            assert [pending[n].cancel() for n in (1, 3)] == [True, True]
        repo.wait()
        assert not pending[0].cancel() and pending[0].done()
        with pytest.raises(CancelledError):
            pending[1].result()
        assert [c.step for c in repo.log(limit=3)] == [4, 2, 0]
        chunks = repo.stats().chunks
        repo.gc()
        assert repo.stats().chunks == chunks and repo._pool._in_use == 0
        assert not repo.store._environment.gate.live


def test_a_callback_may_commit_load_and_wait(tmp_path) -> None:
    said: list[object] = []
    done = threading.Event()

    def back(pending: Any) -> None:
        try:
            said.append(repo.load(pending.result().id))
            repo.wait()
            said.append(repo.commit({"n": 2}).parents)
            said.append(repo.commit_async({"n": 3}))
            repo.gc()
        except BaseException as error:
            said.append(error)
        done.set()

    with casckpt.open(tmp_path / "store") as repo:
        first = repo.commit_async({"n": 1})
        first.add_done_callback(back)
        assert done.wait(WAIT)
        repo.wait()
        state, parents, third = said
        assert (state, parents) == ({"n": 1}, (first.result().id,))
        assert third.result().step is None and repo.load() == {"n": 3}


def test_a_callback_that_would_wait_for_itself_is_told(tmp_path) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        said: list[object] = []
        handed, began, done = threading.Event(), threading.Event(), threading.Event()
        behind: list[Any] = []

        def back(_: object) -> None:
            began.set()
            assert handed.wait(WAIT)
            for use in (
                lambda: repo.commit({"n": 7}),
                repo.wait,
                repo.close,
                repo.compact,
                lambda: repo.commit_async({"n": 8}),
                behind[0].result,
                behind[0].exception,
            ):
                try:
                    said.append(use())
                except StoreBusyError as error:
                    said.append(error.holders)
            done.set()

        called_back(repo, {"n": 1}, back)
        assert began.wait(WAIT)
        behind.append(repo.commit_async({"n": 2}, in_flight=2))
        handed.set()
        assert done.wait(WAIT)
        assert said == [("this thread",)] * 7
        repo.wait()
        assert repo.load() == {"n": 2}


def test_a_callback_does_not_wait_for_memory_that_those_behind_it_have(tmp_path) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        said: list[object] = []
        handed, began = threading.Event(), threading.Event()

        def back(_: object) -> None:
            began.set()
            assert handed.wait(WAIT)
            said.append(repo.commit_async({"w": torch.rand(500_000)}, in_flight=3, memory=1, busy="skip"))
            try:
                repo.commit_async({"w": torch.rand(500_000)}, in_flight=3, memory=1)
            except StoreBusyError as error:
                said.append(error.holders)

        called_back(repo, {"n": 1}, back)
        assert began.wait(WAIT)
        behind = repo.commit_async({"w": torch.rand(500_000)}, in_flight=3)
        handed.set()
        behind.result(WAIT)
        assert said == [None, ("this thread",)]


def test_who_commits_within_a_commit_is_told(tmp_path) -> None:
    """As from a signal handler, which runs wherever its thread is."""
    with casckpt.open(tmp_path / "store") as repo:
        said: list[object] = []

        def again() -> None:
            for use in (lambda: repo.commit({"n": 2}), lambda: repo.commit_async({"n": 3}), repo.close):
                with pytest.raises(StoreBusyError, match="already") as caught:
                    use()
                said.append(caught.value.holders)

        repo.commit({"n": 1}, before_publish=again)
        assert said == [("this thread",)] * 3
        repo.commit({"n": 4})
        assert [repo.load("HEAD~1"), repo.load()] == [{"n": 1}, {"n": 4}]


def test_a_callback_that_ends_its_thread_does_not_end_the_lane(tmp_path, monkeypatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    with casckpt.open(tmp_path / "store") as repo:
        with held(repo):
            first = repo.commit_async({"n": 1}, in_flight=3)
            first.add_done_callback(lambda _: (_ for _ in ()).throw(SystemExit()))
            second = repo.commit_async({"n": 2}, in_flight=3)
        assert second.result(WAIT).parents == (first.result(WAIT).id,)
        repo.commit_async({"n": 3}).result(WAIT)
    assert [one.exc_type for one in told] == [SystemExit]


def test_a_hook_for_errors_of_threads_that_fails_itself_does_not_end_the_lane(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: 1 / 0)
    with casckpt.open(tmp_path / "store") as repo:
        with held(repo):
            first = repo.commit_async({"n": 1}, in_flight=3)
            first.add_done_callback(lambda _: (_ for _ in ()).throw(SystemExit()))
            second = repo.commit_async({"n": 2}, in_flight=3)
        assert second.result(5).parents == (first.result(5).id,)


# -- beside gc, compact and others -------------------------------------------------------------------------------------


def test_a_compact_waits_for_what_is_in_flight_and_a_callback_that_looks_does_not_wait_for_it(tmp_path) -> None:
    """The callback would wait for the compact at the gate, and the compact for the commit behind that one."""
    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo:
        began, waiting, done = threading.Event(), threading.Event(), threading.Event()
        loaded: list[object] = []

        def back(_: object) -> None:
            began.set()
            assert waiting.wait(WAIT)
            loaded.append(repo.load("HEAD"))
            done.set()

        called_back(repo, {"n": 1}, back)
        assert began.wait(WAIT)
        second = repo.commit_async({"w": torch.rand(5000)}, in_flight=2)
        compacting = threading.Thread(target=repo.compact)
        compacting.start()
        compacting.join(0.2)
        assert compacting.is_alive()
        waiting.set()
        assert done.wait(WAIT)
        compacting.join(WAIT)
        assert not compacting.is_alive() and loaded == [{"n": 1}]
        assert second.done() and len(repo.load()["w"]) == 5000


def test_who_handed_a_commit_over_may_compact_and_back_up_at_once(tmp_path) -> None:
    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo, casckpt.open(tmp_path / "store") as other:
        for number in range(10):
            repo.commit_async({"w": torch.full((5000,), number)})
            repo.compact() if number % 2 else other.compact()
            repo.commit_async({"w": torch.full((5000,), -number)})
            repo.backup(tmp_path / f"copy-{number}")
        with held(repo):
            repo.commit_async({"n": 1}, in_flight=2)
            repo.backup(tmp_path / "copy")  # its snapshot is no more this thread's
        repo.wait()
        assert len(list(repo.log())) == 22


def test_gc_prune_and_compact_go_on_beside_commits_in_flight(tmp_path, monkeypatch) -> None:
    """Chunks that a save wrote itself are nobody's until it is published, and are collected: it is published whole."""
    monkeypatch.setattr("casckpt.history.ingest.SAVE_BATCH", 20_000)
    monkeypatch.setattr("casckpt.tensors.writer.SAVE_BATCH", 20_000)
    monkeypatch.setattr("casckpt.history.ingest.PUBLISHED_WITH", 0)
    path = tmp_path / "store"
    with casckpt.open(path, chunk_size=1024) as repo:
        repo.commit({"n": 0})
        repo.branch("other")
        stop, errors, rounds = threading.Event(), [], [0, 0]

        def clear_away() -> None:
            try:
                with casckpt.open(path, branch="other") as mine:
                    while not stop.wait(0.005):  # between two of them there is time for a compact
                        mine.prune(casckpt.Keep(last=3))
                        mine.expire_reflog()
                        with suppress(StoreBusyError):  # compact is under way
                            rounds[0] += mine.gc().chunks
            except BaseException as error:
                errors.append(error)

        def compact() -> None:
            try:
                while not stop.wait(0.02):
                    with suppress(StoreBusyError):
                        repo.compact()
                        rounds[1] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=clear_away), threading.Thread(target=compact)]
        for thread in threads:
            thread.start()
        states = []
        try:
            for number in count():
                if errors or (number >= 40 and all(rounds)):
                    break
                generator = torch.Generator().manual_seed(number % 5)  # what was collected comes back
                state = {"w": torch.rand(30_000, generator=generator), "n": torch.full((500,), number)}
                states.append(copy.deepcopy(state))
                repo.commit_async(state, step=number, in_flight=3)
                state["w"].zero_()
                if number % 4 == 3:
                    repo.wait()
        finally:
            stop.set()
            for thread in threads:
                thread.join(WAIT)
        repo.wait()
        assert not errors and all(rounds)
        for commit in repo.log(limit=2):
            assert_same(states[commit.step], repo.load(commit.id))
        assert repo.fsck(read_data=True).ok
        assert not repo.store._environment.gate.live


# -- forks -------------------------------------------------------------------------------------------------------------


def test_a_child_of_a_fork_is_told_and_the_parent_s_commits_go_on(tmp_path) -> None:
    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo:
        for number in range(20):
            state = {"w": torch.full((20_000,), number)}
            pending = [repo.commit_async(state, in_flight=3), repo.commit_async({"n": number}, in_flight=3)]

            def child(pending: Any = pending) -> list[str]:
                said = []
                for use in (
                    pending[1].result,
                    pending[0].exception,
                    lambda: repo.commit({"child": 1}),
                    lambda: repo.commit_async({"child": 1}),
                    repo.load,
                ):
                    try:
                        use()
                        said.append("done")
                    except ForkedStoreError as error:
                        said.append(bool(error.remedy))
                pending[1].done()
                pending[1].cancel()
                repo.wait()
                repo.close()
                return said

            assert forked(child) == "[True, True, True, True, True]"
            for one in pending:
                one.result(WAIT)
        assert_same({"w": torch.full((20_000,), 19)}, repo.load("HEAD~1"))
        assert len(list(repo.log())) == 40


def test_what_an_interrupt_left_behind_in_the_lane_is_done_and_counted_once() -> None:
    lane = Lane("store")
    done: list[int] = []

    class Interrupting(deque[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            raise KeyboardInterrupt

    lane._waiting = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        lane.put(lambda: done.append(1))
    assert not lane.has_room(0) and lane.has_room(1)
    lane.wait()
    assert done == [1] and lane.has_room(0) and not lane.has_room(-1)


@pytest.mark.parametrize("place", ["_Making.figures", "_Making.hand_over"])
@pytest.mark.parametrize("late", [False, True])
def test_an_interrupt_between_taking_and_handing_over_leaves_nothing_behind(tmp_path, monkeypatch, place, late) -> None:
    """Else the writer's thread would wait for ever, and the interpreter's exit for it."""
    real = getattr(committing._Making, place.partition(".")[2])

    def interrupted(making: Any, *args: Any, **more: Any) -> Any:
        monkeypatch.undo()
        if late:
            real(making, *args, **more)
        raise KeyboardInterrupt

    with casckpt.open(tmp_path / "store", chunk_size=4096, codec="none") as repo:
        monkeypatch.setattr(staging, "SLAB", 16_384)
        monkeypatch.setattr(f"casckpt.tensors.committing.{place}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            repo.commit_async({"w": torch.rand(100_000)}, memory=1)
        repo.wait()
        assert not [one for one in gc.get_objects() if type(one) is Writer and one._is_running]
        assert not repo.store._environment.gate.live and list(repo.log()) == []
        repo.commit_async({"n": 1}).result(WAIT)
        assert repo.load() == {"n": 1}
