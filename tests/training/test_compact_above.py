"""Checkpointer(compact_above=): the file shrinks between commits, and whatever keeps it from that stops no training."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import casckpt
from casckpt.errors import PolicyError, StoreBusyError, StoreError, StoreFailedError, StoreFullError
from casckpt.limits import MIB
from casckpt.store import filesystem
from casckpt.tensors.open import open_repository
from casckpt.tensors.repository import Repository
from casckpt.training import upkeep
from casckpt.training.upkeep import Upkeep
from tests.processes import Program

HOLD = """
import sys
from casckpt.store.lmdb_store import open_store
store = open_store(sys.argv[1])
print("holds it", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """A store with 8 MiB in use and 24 MiB free, where 4 MiB are worth a compact."""
    monkeypatch.setattr(upkeep, "COMPACT_LEAST", 4 * MIB)
    with open_repository(tmp_path / "run", codec="none") as made:
        for step in range(4):
            made.commit(state(step), step=step)
        made.prune(casckpt.Keep(last=1))
        made.gc()
        assert made.store.size().free > 20 * MIB
        yield made


def state(step: int) -> dict[str, torch.Tensor]:
    return {"data": torch.rand(2 * MIB, generator=torch.Generator().manual_seed(step))}


def free_share(repo: Repository) -> float:
    size = repo.store.size()
    return size.free / (size.used + size.free)


def test_the_file_shrinks_between_commits_as_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "COMPACT_LEAST", 4 * MIB)
    data = state(0)
    saw: list[float] = []
    files = set()
    path = tmp_path / "run"
    with casckpt.Checkpointer(
        path, data=data, every_steps=1, keep=casckpt.Keep(last=1), compact_above=0.5, signals=()
    ) as ckpt:
        ckpt._upkeep._spent = -1e9
        for step in range(1, 9):
            data["data"].copy_(state(step)["data"])
            ckpt.step(step)
            ckpt.wait()
            saw.append(free_share(ckpt.repo))
            files.add((path / "data.mdb").stat().st_ino)
    assert max(saw) <= 0.5
    assert len(files) > 1
    with open_repository(path, create=False) as again:
        assert torch.equal(again.load()["data"]["data"], state(8)["data"])
    assert filesystem.disk_bytes(path / "data.mdb") < 24 * MIB


def test_without_it_the_file_stays_as_it_is(repo: Repository) -> None:
    before = (Path(repo.path) / "data.mdb").stat()
    Upkeep(repo, casckpt.Keep(last=1)).run()
    after = (Path(repo.path) / "data.mdb").stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)


def counting(repo: Repository, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[int]:
    """What compact was called at: bytes free."""
    calls: list[int] = []
    real = repo.compact

    def compact(**more: Any) -> Any:
        calls.append(repo.store.size().free)
        if error is not None:
            raise error
        return real(**more)

    monkeypatch.setattr(repo, "compact", compact)
    return calls


def test_only_above_the_share_and_only_where_it_is_worth_it(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(repo, monkeypatch)
    Upkeep(repo, None, lambda: 0.0, compact_above=0.9).run()
    assert calls == []
    monkeypatch.setattr(upkeep, "COMPACT_LEAST", 64 * MIB)
    Upkeep(repo, None, lambda: 0.0, compact_above=0.1).run()
    assert calls == []
    monkeypatch.setattr(upkeep, "COMPACT_LEAST", 4 * MIB)
    one = Upkeep(repo, None, lambda: 0.0, compact_above=0.5)
    one.run()
    one.run()
    assert len(calls) == 1 and free_share(repo) < 0.1


def test_its_time_counts_in_the_share_that_gc_has(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    at: list[float] = []

    def compact(**more: Any) -> None:
        at.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(repo, "compact", compact)
    one = Upkeep(repo, None, lambda: now[0], compact_above=0.5)
    for _ in range(25):
        one.run()
        now[0] += 1.0
    assert at == [0.0, 10.0, 20.0]


def test_another_process_that_has_it_open_stops_nothing_and_it_happens_when_that_is_gone(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(repo, monkeypatch)
    data = state(3)
    with casckpt.Checkpointer(repo, data=data, every_steps=1, compact_above=0.5, signals=()) as ckpt:
        ckpt._upkeep._spent = -1e9
        with Program(HOLD, repo.path) as other:
            assert other.line() == "holds it"
            ckpt.step(4)
            ckpt.wait()
            assert calls == []  # it is not even asked for: that would make the other threads of this process wait
            other.end()
        ckpt.step(5)
        ckpt.wait()
        assert len(calls) == 1 and free_share(repo) < 0.5
    assert [commit.step for commit in repo.log(limit=2)] == [5, 4]


def test_a_signal_to_stop_is_not_made_to_wait_for_a_compact(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (Path(repo.path) / "data.mdb").stat().st_ino
    stages: list[str] = []
    real = repo.compact

    def compact(*, progress: Any) -> Any:
        def told(stage: str, done: int, total: int) -> None:
            if not stages:
                os.kill(os.getpid(), signal.SIGTERM)
                while not ckpt.preempted:  # the main thread, which waits, has to come to it
                    time.sleep(0.001)
            stages.append(stage)
            progress(stage, done, total)

        return real(progress=told)

    monkeypatch.setattr(repo, "compact", compact)
    held = signal.signal(signal.SIGTERM, lambda *_: stages.append("the signal takes its course"))
    try:
        with casckpt.Checkpointer(repo, data=state(3), every_steps=1, compact_above=0.5) as ckpt:
            ckpt._upkeep._spent = -1e9
            ckpt.step(4)
            ckpt.wait()
            assert len(stages) == 1
            assert (Path(repo.path) / "data.mdb").stat().st_ino == before
            ckpt.step(5)
            assert stages[1:] == ["the signal takes its course"]
    finally:
        signal.signal(signal.SIGTERM, held)
    assert [commit.step for commit in repo.log(limit=2)] == [5, 4]


def test_a_compact_that_is_refused_stops_nothing_and_is_tried_again(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Upkeep(repo, None, lambda: 0.0, compact_above=0.3)
    with monkeypatch.context() as patch:
        calls = counting(repo, patch, StoreBusyError("gc is under way"))
        one.run()
        one.run()
        assert len(calls) == 2
    with monkeypatch.context() as patch:
        calls = counting(repo, patch, StoreFullError("no room", needed=2, available=1))
        one.run()
        one.run()
        assert len(calls) == 1  # nothing has changed since
        repo.commit(state(9))
        one.run()
        assert len(calls) == 2
    with monkeypatch.context() as patch:
        counting(repo, patch, StoreFailedError("the folder could not be synced"))
        with pytest.raises(StoreFailedError):
            Upkeep(repo, None, lambda: 0.0, compact_above=0.1).run()


def test_a_compact_that_fails_and_changed_nothing_is_warned_of_and_training_goes_on(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(repo, monkeypatch, StoreError("the new file could not be written: Input/output error"))
    data = state(3)
    with casckpt.Checkpointer(repo, data=data, every_steps=1, compact_above=0.5, signals=()) as ckpt:
        ckpt._upkeep._spent = -1e9
        ckpt.step(4)
        with pytest.warns(RuntimeWarning, match=r"was not compacted: .*Input/output") as told:
            ckpt.wait()
        assert [warning.filename for warning in told] == [__file__]
        ckpt.step(5)
        ckpt.wait()
        assert len(calls) == 1  # nothing has changed since
    assert [commit.step for commit in repo.log(limit=2)] == [5, 4]


def test_a_file_that_somebody_exchanged_stops_training_because_nothing_would_be_kept(
    repo: Repository, tmp_path: Path
) -> None:
    data = Path(repo.path) / "data.mdb"
    data.rename(tmp_path / "aside.mdb")
    data.write_bytes((tmp_path / "aside.mdb").read_bytes())
    with pytest.raises(StoreFailedError, match="exchanged by somebody else"):
        Upkeep(repo, None, lambda: 0.0, compact_above=0.5).run()


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan"), True, "half", 50])
def test_what_is_no_share_is_refused_before_anything_is_made(tmp_path: Path, share: Any) -> None:
    with pytest.raises(PolicyError, match="compact_above"):
        casckpt.Checkpointer(tmp_path / "run", data={"n": 1}, compact_above=share)
    assert list(tmp_path.iterdir()) == []
