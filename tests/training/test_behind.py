"""Commits and upkeep behind training: what step() takes is what was there, all is in order, no error is lost."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import casckpt
from casckpt.errors import CasckptError, PolicyError, RefMovedError, StoreFullError
from casckpt.history.ingest import Ingest
from casckpt.store.memory import MemoryStore
from casckpt.tensors.open import open_repository
from casckpt.tensors.pending import PendingCommit
from casckpt.tensors.repository import Repository
from casckpt.tensors.save import Save
from casckpt.training import upkeep
from casckpt.training.rounds import Rounds
from tests.equality import assert_same
from tests.processes import PATIENCE, Program, forked, run
from tests.training.runs import Numbers

USR = signal.SIGUSR1


@pytest.fixture
def repo() -> Iterator[Repository]:
    with Repository(MemoryStore()) as made:
        yield made


class Gate:
    """Holds commits behind training up, before anything is stored, while it is closed; fails those that it is to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.failing: list[Exception] = []
        finish = Save.finish

        def gated(save: Save) -> Any:
            if not save._deferred:
                return finish(save)
            assert self.opened.wait(PATIENCE)
            if self.failing:
                raise self.failing.pop(0)
            return finish(save)

        monkeypatch.setattr(Save, "finish", gated)
        waiting = PendingCommit.exception

        def exception(pending: PendingCommit, timeout: float | None = None) -> BaseException | None:
            if self.opens_for_those_who_wait:
                self.opened.set()
            return waiting(pending, timeout)

        self.opens_for_those_who_wait = False
        monkeypatch.setattr(PendingCommit, "exception", exception)

    def close(self, *, until_somebody_waits: bool = False) -> None:
        self.opens_for_those_who_wait = until_somebody_waits
        self.opened.clear()

    def open(self) -> None:
        self.opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open()


def counted(repo: Any, **settings: Any) -> casckpt.Checkpointer:
    return casckpt.Checkpointer(repo, data={"n": torch.zeros(1)}, **{"signals": (), "every_steps": 1, **settings})


def steps(repo: Repository) -> list[int | None]:
    """What the branch shows; nothing is waited for."""
    return [commit.step for commit in repo.log()]


def full() -> StoreFullError:
    return StoreFullError("no room", needed=1)


# -- the state is the one of the call ----------------------------------------------------------------------------------


class Everything:
    """A state with one of each kind of leaf that is taken in its own way; trained, and scribbled over."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.BatchNorm1d(96), torch.nn.Linear(96, 64))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        table = torch.zeros(30_000)
        self.more: dict[str, Any] = {
            "table": table,
            "view": table.view(100, 300)[:, 7],
            "array": np.zeros(20_000),
            "tiny": [torch.zeros(1) for _ in range(50)],
            "list": [0],
            "nested": {"set": set(), "bytes": bytearray(10_000)},
        }

    def update(self, step: int) -> None:
        loss = self.model(torch.randn(8, 64)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        more = self.more
        more["table"][step * 100 :: 7] += random.random()
        more["array"][step::11] += np.random.rand()
        more["tiny"][step] += step
        more["list"].append(step)
        more["nested"]["set"].add(step)
        more["nested"]["bytes"][step * 7] = step

    def checkpointer(self, path: Path, **settings: Any) -> casckpt.Checkpointer:
        return casckpt.Checkpointer(
            open_repository(path, chunk_size=4096),
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            more=self.more,
            signals=(),
            **settings,
        )


def test_a_commit_holds_the_state_as_it_was_when_step_was_called_bit_for_bit(tmp_path: Path, gate: Gate) -> None:
    """Against a twin that commits while it stands still. Nothing of a commit is stored before the next step is done."""
    twin = Everything()
    with twin.checkpointer(tmp_path / "twin") as ckpt:
        for step in range(1, 9):
            twin.update(step)
            ckpt.save(step)
        expected = [ckpt.repo.load(f"step:{step}") for step in range(1, 9)]
        ckpt.repo.close()
    run = Everything()
    with run.checkpointer(tmp_path / "behind", every_steps=1) as ckpt:
        for step in range(1, 9):
            run.update(step)
            gate.open()
            ckpt.wait()
            gate.close()
            ckpt.step(step)
        gate.open()
        ckpt.wait()
        assert steps(ckpt.repo) == list(range(8, 0, -1))
        for step in range(1, 9):
            assert_same(ckpt.repo.load(f"step:{step}"), expected[step - 1])
        ckpt.repo.close()


def test_a_run_resumed_from_a_commit_behind_training_ends_as_one_that_never_stopped(tmp_path: Path, gate: Gate) -> None:
    whole = Everything()
    for step in range(1, 9):
        whole.update(step)
    first = Everything()
    with first.checkpointer(tmp_path / "run") as ckpt, pytest.raises(ZeroDivisionError):
        for step in range(1, 5):
            first.update(step)
        ckpt._due._every_steps = 4
        gate.close()
        ckpt.step(4)
        for step in range(5, 8):
            first.update(step)
        gate.open()
        with ckpt:
            raise ZeroDivisionError
    again = Everything()
    with again.checkpointer(tmp_path / "run") as ckpt:
        assert ckpt.resume() == 4
        for step in range(5, 9):
            again.update(step)
        ckpt.repo.close()
        ckpt._uncommitted = False
    assert_same(again.model.state_dict(), whole.model.state_dict())
    assert_same(again.optimizer.state_dict(), whole.optimizer.state_dict())
    assert_same(again.more, whole.more)


# -- when --------------------------------------------------------------------------------------------------------------


def test_step_returns_before_the_commit_is_durable_and_last_is_it_once_it_is(repo: Repository, gate: Gate) -> None:
    with counted(repo) as ckpt:
        gate.close()
        ckpt.step(1)
        assert ckpt.last is None
        assert steps(repo) == []
        gate.open()
        ckpt.wait()
        assert ckpt.last == repo.resolve()
        assert steps(repo) == [1]
        gate.close()
        ckpt.step(2)
        assert ckpt.last is not None and ckpt.last.step == 1
        gate.open()
    assert ckpt.last is not None and ckpt.last.step == 2


def test_a_commit_that_is_due_waits_for_the_one_in_flight(repo: Repository, gate: Gate) -> None:
    with counted(repo) as ckpt:
        gate.close(until_somebody_waits=True)
        ckpt.step(1)
        assert steps(repo) == []
        ckpt.step(2)
        assert 1 in steps(repo)
        gate.close(until_somebody_waits=True)
        commit = ckpt.save(3)
        assert (commit.step, steps(repo)) == (3, [3, 2, 1]), "what is saved is durable, and so is what was before it"


def test_where_it_is_to_be_skipped_the_next_step_that_finds_nothing_in_flight_commits(
    repo: Repository, gate: Gate
) -> None:
    read: list[int] = []
    with counted(repo, every_steps=2, busy="skip") as ckpt:
        gate.close()
        for step in range(2, 6):
            ckpt.step(step, {"loss": lambda step=step: read.append(step) or 1.0})
        assert read == [2], "no metric is read for a commit that is not made"
        gate.open()
        ckpt.wait()
        ckpt.step(7)
        ckpt.wait()
        ckpt.step(8)
        ckpt.wait()
        assert steps(repo) == [8, 7, 2]
        gate.close()
        ckpt.step(10)
        ckpt.step(12)
        gate.open()
    assert steps(repo) == [12, 10, 8, 7, 2], "the end of the block makes up for it"


def test_skipping_heeds_what_else_a_commit_would_wait_for(repo: Repository, gate: Gate) -> None:
    with counted(repo, busy="skip") as ckpt:
        gate.close()
        pending = repo.commit_async({"somebody": "else's"})
        ckpt.step(1)
        gate.open()
        pending.result()
        repo.wait()
        ckpt._upkeep.compacting = True
        ckpt.step(2)
        ckpt._upkeep.compacting = False
        ckpt.step(3)
        ckpt.wait()
        assert steps(repo) == [3, None]


def test_busy_is_one_of_two(repo: Repository) -> None:
    with pytest.raises(PolicyError, match="busy='drop'"):
        counted(repo, busy="drop")


def test_going_back_waits_for_what_is_in_flight(repo: Repository, gate: Gate) -> None:
    data = {"n": torch.zeros(1)}
    with casckpt.Checkpointer(repo, data=data, every_steps=1, signals=()) as ckpt:
        for step in (1, 2):
            data["n"].fill_(step)
            ckpt.step(step)
        ckpt.wait()
        gate.close(until_somebody_waits=True)
        data["n"].fill_(3)
        ckpt.step(3)
        data["n"].fill_(4)
        assert ckpt.rollback("HEAD") == 3
        assert data["n"] == 3
        gate.close(until_somebody_waits=True)
        ckpt.step(4)
        assert ckpt.resume() == 4
        assert ckpt.last is not None and ckpt.last.step == 4


# -- errors ------------------------------------------------------------------------------------------------------------

_CALLS: dict[str, Callable[[casckpt.Checkpointer], object]] = {
    "step": lambda ckpt: ckpt.step(2),
    "save": lambda ckpt: ckpt.save(2),
    "wait": lambda ckpt: ckpt.wait(),
    "resume": lambda ckpt: ckpt.resume(),
    "rollback": lambda ckpt: ckpt.rollback("HEAD"),
    "close": lambda ckpt: ckpt.close(),
}


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_what_fails_behind_training_is_told_once_by_the_next_call(
    repo: Repository, gate: Gate, call: str, on_error: Any
) -> None:
    repo.commit(dict(counted(repo)._run.state(0, None)), step=0)
    ckpt = counted(repo, on_error=on_error)
    gate.failing.append(full())
    ckpt.step(1)
    if on_error == "raise":
        with pytest.raises(StoreFullError, match="no room") as caught:
            _CALLS[call](ckpt)
        assert caught.value.__notes__ == ["behind training: step 1 was not saved"]
        assert ckpt.last is None
    else:
        with pytest.warns(RuntimeWarning, match="step 1 was not saved: StoreFullError: no room") as warned:
            _CALLS[call](ckpt)
        assert [warning.filename for warning in warned] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ckpt.wait()
        repo.wait()
        ckpt.save(5)
        ckpt.close()
    made = {("step", "warn"): [5, 2, 0], ("save", "warn"): [5, 2, 0]}
    assert steps(repo) == made.get((call, on_error), [5, 0])


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_failed_commit_is_made_up_for_when_the_next_is_due_and_its_metric_is_not_the_best(
    repo: Repository, gate: Gate, on_error: Any
) -> None:
    with counted(repo, every_steps=2, on_error=on_error, monitor="loss") as ckpt:
        gate.failing.append(full())
        ckpt.step(2, {"loss": 1.0})
        if on_error == "raise":
            with pytest.raises(StoreFullError):
                ckpt.wait()
        else:
            with pytest.warns(RuntimeWarning, match="step 2 was not saved"):
                ckpt.wait()
        ckpt.step(3, {"loss": 0.5})  # not due
        ckpt.step(4, {"loss": 1.5})
        ckpt.wait()
        assert repo.load()["progress"]["best"] == 1.5
    assert steps(repo) == [4]


def test_a_due_step_that_tells_of_a_failure_is_committed_by_the_next_one(repo: Repository, gate: Gate) -> None:
    with counted(repo, every_steps=10) as ckpt:
        gate.failing.append(full())
        gate.close(until_somebody_waits=True)
        ckpt.step(10)
        with pytest.raises(StoreFullError):
            ckpt.step(20)
        ckpt.step(21)
        ckpt.wait()
        assert steps(repo) == [21]


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_last_step_that_failed_is_tried_again_at_the_end_of_the_block(
    repo: Repository, gate: Gate, on_error: Any
) -> None:
    told = pytest.raises(StoreFullError) if on_error == "raise" else pytest.warns(RuntimeWarning, match="step 1 was")
    with told, counted(repo, on_error=on_error) as ckpt:
        gate.failing.append(full())
        ckpt.step(1)
    assert steps(repo) == [1], "the error is told all the same"


def test_leaving_by_an_exception_drains_and_notes_what_failed(repo: Repository, gate: Gate) -> None:
    with pytest.raises(ZeroDivisionError) as caught, counted(repo) as ckpt:
        gate.close(until_somebody_waits=True)
        gate.failing.append(full())
        ckpt.step(1)
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["and at the end of the Checkpointer: StoreFullError: no room"]
    with pytest.raises(ZeroDivisionError), counted(repo) as ckpt:
        gate.close(until_somebody_waits=True)
        ckpt.step(2)
        raise ZeroDivisionError
    assert steps(repo) == [2]


def test_a_branch_that_somebody_else_moved_is_told_and_nothing_is_published(repo: Repository, gate: Gate) -> None:
    with counted(repo) as ckpt:
        gate.close()
        ckpt.step(1)
        Repository(repo.store).commit({"other": 1}, step=100)
        gate.open()
        with pytest.raises(RefMovedError):
            ckpt.wait()
        assert steps(repo) == [100]
        ckpt._uncommitted = False


def test_an_error_that_is_none_of_ours_is_raised_even_where_ours_are_warned_of(repo: Repository, gate: Gate) -> None:
    with counted(repo, on_error="warn") as ckpt:
        gate.failing += [ZeroDivisionError()]  # type: ignore[list-item]
        ckpt.step(1)
        with pytest.raises(ZeroDivisionError):
            ckpt.wait()


def test_several_failures_are_told_together_and_none_twice(
    repo: Repository, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prune(*_: Any) -> Any:
        raise CasckptError("no pruning")

    ckpt = counted(repo, keep=casckpt.Keep(last=1))
    with monkeypatch.context() as patch:
        patch.setattr(repo, "prune", prune)
        ckpt.step(1)
        repo.wait()
        ckpt._behind._rounds.wait()
        gate.failing.append(full())
        ckpt._untold = ckpt._behind._rounds.failures.copy()
        ckpt._behind._rounds.failures.clear()
        ckpt.step(2)
        ckpt._behind._rounds.failures.extend(ckpt._untold)
        with pytest.raises(StoreFullError) as caught:
            ckpt.wait()
    assert caught.value.__notes__ == [
        "behind training: step 2 was not saved",
        "and old commits could not be cleared away: CasckptError: no pruning",
    ]
    ckpt.wait()
    assert ckpt.last is not None and ckpt.last.step == 1


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def caught() -> Iterator[list[int]]:
    """Signals that came to the handler that was there before."""
    found: list[int] = []
    before = signal.signal(USR, lambda number, _: found.append(number))
    yield found
    signal.signal(USR, before)


def test_a_signal_is_acted_on_once_what_is_in_flight_and_this_step_are_durable(
    repo: Repository, gate: Gate, caught: list[int]
) -> None:
    saw: list[list[int | None]] = []
    signal.signal(USR, lambda *_: saw.append(steps(repo)))
    with counted(repo, signals=(USR,), every_steps=10) as ckpt:
        gate.close(until_somebody_waits=True)
        ckpt.step(10)
        os.kill(os.getpid(), USR)
        assert saw == []
        ckpt.step(11)
        assert saw == [[11, 10]]
        assert repo.resolve().message == "stopped by SIGUSR1"


def test_a_failure_before_it_keeps_a_signal_from_nothing(repo: Repository, gate: Gate, caught: list[int]) -> None:
    with pytest.raises(StoreFullError), counted(repo, signals=(USR,)) as ckpt:
        gate.failing.append(full())
        ckpt.step(1)
        assert ckpt._behind._flight is not None
        futures.wait([ckpt._behind._flight.pending])
        os.kill(os.getpid(), USR)
        ckpt.step(2)
    assert caught == [USR]
    assert steps(repo) == [2]
    assert repo.resolve().message == "stopped by SIGUSR1"


def test_a_signal_to_stop_ends_a_gc(repo: Repository, caught: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def gc(*, progress: Any) -> None:
        progress("looking", 0, 0)
        os.kill(os.getpid(), USR)
        while not ckpt.preempted:
            signal.sigtimedwait((), 0.001)
        progress("deleting", 1, 2)
        told.append("went on")

    monkeypatch.setattr(repo, "gc", gc)
    with counted(repo, signals=(USR,), keep=casckpt.Keep(last=1)) as ckpt:
        ckpt._upkeep._garbage = True
        ckpt.step(1)
        ckpt.wait()
        assert told == []
        assert ckpt._upkeep._garbage, "the next round takes it up"
        ckpt.step(2)
        assert caught == [USR]
        ckpt._upkeep._garbage = False


# -- upkeep ------------------------------------------------------------------------------------------------------------


class Slow:
    """In the place of repo.gc: does nothing until it may."""

    def __init__(self, repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.calls = 0
        self._real = repo.gc
        monkeypatch.setattr(repo, "gc", self)

    def __call__(self, **more: Any) -> Any:
        self.calls += 1
        self.began.set()
        assert self.may_end.wait(PATIENCE)
        return self._real()


def test_neither_steps_nor_commits_wait_for_upkeep_and_the_end_of_the_block_does(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(repo, monkeypatch)
    with counted(repo, keep=casckpt.Keep(last=1)) as ckpt:
        ckpt._upkeep._spent = -1e9
        for step in (1, 2):
            ckpt.step(step)
            repo.wait()
        assert slow.began.wait(PATIENCE)
        for step in (3, 4, 5):
            ckpt.step(step)
        assert ckpt.save(6).step == 6
        assert steps(repo) == [6, 5, 4, 3, 2, 1]
        assert slow.calls == 1
        slow.may_end.set()
    assert slow.calls == 2, "one more round for all that came meanwhile"
    assert [commit.step for commit in repo.log() if not commit.pruned] == [6]


def test_what_fails_in_upkeep_is_raised_once_and_the_commit_stands(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(repo, keep=casckpt.Keep(last=1)) as ckpt:
        with monkeypatch.context() as patch:
            patch.setattr(repo, "prune", lambda *_: (_ for _ in ()).throw(full()))
            ckpt.step(1)
            repo.wait()
            ckpt._behind._rounds.wait()
        with pytest.raises(StoreFullError) as caught:
            ckpt.step(2)
        assert caught.value.__notes__ == ["behind training: old commits could not be cleared away"]
        ckpt.step(3)
    assert steps(repo) == [3, 1]


def test_upkeep_of_a_store_that_was_closed_is_no_error(repo: Repository, gate: Gate) -> None:
    ckpt = counted(repo, keep=casckpt.Keep(last=1))
    ckpt.step(1)
    repo.close()
    ckpt._behind.clear_away()
    ckpt.close()


def test_a_round_that_finds_no_thread_is_made_by_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[threading.Thread] = []
    rounds = Rounds(lambda: made.append(threading.current_thread()))

    def no_more(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("casckpt.tensors.threads.start_new_thread", no_more)
    rounds.ask()
    rounds.ask()
    assert made == []
    rounds.wait()
    assert made == [threading.current_thread()]
    rounds.wait()
    assert len(made) == 1


def test_rounds_never_overlap_and_none_is_forgotten() -> None:
    inside, most, done = [0], [0], [0]
    asked = 0

    def work() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        done[0] = asked
        inside[0] -= 1

    rounds = Rounds(work)
    for number in range(1, 500):
        asked = number
        rounds.ask()
        if number % 7 == 0:
            rounds.wait()
            assert done[0] == number
    rounds.wait()
    assert (most[0], done[0]) == (1, 499)


def test_the_file_is_compacted_beside_commits_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "COMPACT_LEAST", 2**20)
    data = {"n": torch.zeros(2**19)}
    path = tmp_path / "run"
    files = set()
    with casckpt.Checkpointer(
        path, data=data, every_steps=1, keep=casckpt.Keep(last=1), compact_above=0.3, signals=()
    ) as ckpt:
        ckpt._upkeep._spent = -1e9
        for step in range(1, 21):
            data["n"].uniform_(generator=torch.Generator().manual_seed(step))
            ckpt.step(step)
            files.add((path / "data.mdb").stat().st_ino)
    assert len(files) > 1
    with open_repository(path, create=False) as again:
        assert_same(again.load()["data"], data)
        assert again.fsck(read_data=True).findings == ()


# -- what it holds, and whom it outlives -------------------------------------------------------------------------------


def test_a_checkpointer_and_its_loader_are_gone_while_a_commit_and_upkeep_of_theirs_go_on(
    repo: Repository, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(repo, monkeypatch)
    gc.disable()
    try:
        loader = DataLoader(Numbers())
        ckpt = counted(repo, dataloader=loader, keep=casckpt.Keep(last=1))
        ckpt._upkeep._garbage = True
        batches = ckpt.batches()
        next(batches)
        ckpt.step(1)
        assert slow.began.wait(PATIENCE)
        gate.close()
        next(batches)
        ckpt.step(2)
        held = weakref.ref(ckpt), weakref.ref(ckpt._behind), weakref.ref(loader)
        del ckpt, loader, batches
        assert [one() for one in held] == [None, None, None]
    finally:
        gc.enable()
        gate.open()
        slow.may_end.set()
    repo.wait()
    assert steps(repo) == [2, 1]


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_it_is_gone_after_a_failure_too(repo: Repository, gate: Gate, on_error: Any) -> None:
    gc.disable()
    try:
        ckpt = counted(repo, on_error=on_error)
        gate.failing.append(full())
        ckpt.step(1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ckpt.wait()
        except StoreFullError:
            pass
        held = weakref.ref(ckpt)
        del ckpt
        assert held() is None
    finally:
        gc.enable()


def test_a_forked_child_waits_for_nothing_of_its_parents(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_repository(tmp_path / "run") as repo:
        slow = Slow(repo, monkeypatch)
        with counted(repo, keep=casckpt.Keep(last=1)) as ckpt:
            ckpt._upkeep._garbage = True
            ckpt.step(1)
            assert slow.began.wait(PATIENCE)
            gate.close()
            ckpt.step(2)

            def child() -> str:
                assert ckpt.last is None or ckpt.last.step == 1
                ckpt.wait()
                with pytest.raises(casckpt.errors.ForkedStoreError):
                    ckpt.step(3)
                ckpt.close()
                return "well"

            with ckpt._behind._rounds._lock:
                assert forked(child) == "well"
            gate.open()
            slow.may_end.set()
        assert steps(repo) == [2, 1]


TRAINING = """
    import sys, threading
    import torch
    import casckpt
    from casckpt.history.ingest import Ingest

    publish = Ingest.publish

    def stuck(*args, **more):
        if threading.current_thread() is not threading.main_thread() and args[1].step == 3:
            print("in flight", flush=True)
            threading.Event().wait()
        return publish(*args, **more)

    Ingest.publish = stuck
    data = {"n": torch.zeros(100_000)}
    ckpt = casckpt.Checkpointer(sys.argv[1], data=data, every_steps=1, keep=casckpt.Keep(last=2))
    for step in (1, 2, 3):
        data["n"].fill_(step)
        ckpt.step(step)
        data["n"].fill_(100)
    input()
"""


def test_a_run_that_is_killed_before_its_commit_is_durable_resumes_from_the_one_before(tmp_path: Path) -> None:
    with Program(TRAINING, tmp_path / "run") as program:
        assert program.line() == "in flight"
        program.kill()
    data = {"n": torch.zeros(100_000)}
    with casckpt.Checkpointer(tmp_path / "run", data=data, signals=()) as ckpt:
        assert ckpt.resume() == 2
        assert_same(data, {"n": torch.full((100_000,), 2.0)})
        assert ckpt.repo.fsck(read_data=True).findings == ()
        assert steps(ckpt.repo) == [2, 1]


def test_the_interpreters_exit_waits_for_what_was_handed_over(tmp_path: Path) -> None:
    said = run(
        """
        import sys, time
        import torch
        import casckpt
        from casckpt.history.ingest import Ingest
        from casckpt.tensors import threads

        publish = Ingest.publish

        def late(*args, **more):
            while not threads._exiting:
                time.sleep(0.01)
            return publish(*args, **more)

        data = {"n": torch.zeros(100_000)}
        ckpt = casckpt.Checkpointer(sys.argv[1], data=data, every_steps=1, keep=casckpt.Keep(last=1))
        ckpt.step(1)
        ckpt.wait()
        Ingest.publish = late
        data["n"].fill_(2)
        ckpt.step(2)
        print([commit.step for commit in ckpt.repo.log()])
        """,
        tmp_path / "run",
    )
    assert said == "[1]\n"
    data = {"n": torch.zeros(100_000)}
    with casckpt.Checkpointer(tmp_path / "run", data=data, signals=(), keep=casckpt.Keep(last=1)) as ckpt:
        assert ckpt.resume() == 2
        assert data["n"][0] == 2
        ckpt.save(3)
    with open_repository(tmp_path / "run", create=False) as repo:
        assert [commit.step for commit in repo.log() if not commit.pruned] == [3], "the next run makes up for it"


def test_publishing_is_what_the_kill_is_held_up_in() -> None:
    """The programs above wrap it by its name and its first argument."""
    assert Ingest.publish.__code__.co_varnames[:2] == ("self", "commit")
