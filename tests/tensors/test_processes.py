"""Several processes on one store, and forks while a commit is under way: no wait, no hang, no harm."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import torch
from torch.utils.data import DataLoader, Dataset

import casckpt
from casckpt.errors import ForkedStoreError, StoreBusyError
from tests.equality import assert_same
from tests.processes import Program, forked

ROUNDS = 40


class Numbers(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        return index


class Touching(Numbers):
    """A dataset that reaches for the store it inherited, in a worker."""

    def __init__(self, repo: casckpt.Repository) -> None:
        self.repo = repo

    def __getitem__(self, index: int) -> int:
        try:
            self.repo.load()
        except ForkedStoreError:
            return index
        return -1


def test_loader_workers_fork_while_commits_go_on(tmp_path) -> None:
    with casckpt.open(tmp_path / "store", chunk_size=4096) as repo:
        stop, errors = threading.Event(), []

        def commit_on() -> None:
            state = {"w": torch.zeros(50_000), "step": 0}
            try:
                while not stop.is_set():
                    state["step"] += 1
                    state["w"][state["step"] % 50_000] += 1
                    repo.commit(state, step=state["step"])
            except BaseException as error:
                errors.append(error)

        writer = threading.Thread(target=commit_on)
        writer.start()
        try:
            for _ in range(ROUNDS):
                loader = DataLoader(Numbers(), batch_size=4, num_workers=2, multiprocessing_context="fork")
                assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        finally:
            stop.set()
            writer.join()
        assert not errors
        steps = repo.resolve().step
        assert steps is not None and steps > 0
        repo.prune(casckpt.Keep(last=10))
        repo.gc()
        for commit in repo.log(limit=10):
            state = repo.load(commit.id)
            assert state["step"] == commit.step and state["w"].sum() == commit.step
    with casckpt.open(tmp_path / "store") as again:
        assert again.resolve().step == steps and len(list(again.log())) == steps


def test_a_worker_that_uses_the_store_it_inherited_is_told(tmp_path) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        repo.commit({"w": 1})
        loader = DataLoader(Touching(repo), batch_size=8, num_workers=2, multiprocessing_context="fork")
        assert [batch.tolist() for batch in loader] == [list(range(8))]
        assert repo.load() == {"w": 1}


def test_a_child_forked_in_the_middle_of_a_save_can_open_the_store_anew(tmp_path, monkeypatch) -> None:
    from casckpt.history.ingest import Ingest

    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo:
        repo.commit({"w": torch.zeros(3000)})
        publish = Ingest.publish

        def fork_first(ingest, *args, **kwargs):
            monkeypatch.setattr(Ingest, "publish", publish)

            def child() -> object:
                try:
                    repo.commit({"w": 2})
                except ForkedStoreError as error:
                    assert "open the store anew" in error.remedy
                    with casckpt.open(tmp_path / "store", branch="child") as own:
                        own.commit({"mine": torch.ones(3000)})
                        return own.load("main")["w"].sum().item()
                return "no error"

            assert forked(child) == "0.0"
            return publish(ingest, *args, **kwargs)

        monkeypatch.setattr(Ingest, "publish", fork_first)
        repo.commit({"w": torch.ones(3000)})
        assert_same({"w": torch.ones(3000)}, repo.load())
        assert_same({"mine": torch.ones(3000)}, repo.load("child"))


WRITER = """
    import sys, torch, casckpt
    path, branch, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with casckpt.open(path, branch=branch, chunk_size=1024) as repo:
        print("open", flush=True)
        sys.stdin.readline()
        for n in range(count):
            repo.commit({"w": torch.arange(n, n + 2000), "branch": branch}, step=n)
            if n == 5:
                print("under way", flush=True)
"""


def test_two_processes_on_two_branches_leave_both_histories_whole(tmp_path) -> None:
    path = tmp_path / "store"
    with Program(WRITER, path, "a", 150) as one, Program(WRITER, path, "b", 150) as two:
        assert one.line() == two.line() == "open"
        one.say()
        two.say()
        assert one.line() == two.line() == "under way"
        with casckpt.open(path) as repo:
            for _ in range(5):  # gc beside two writers; a save that lost what it wrote to one holds the next one off
                with contextlib.suppress(StoreBusyError):
                    repo.gc()
        one.end()
        two.end()
    with casckpt.open(path) as repo:
        for branch in ("a", "b"):
            log = list(repo.log(branch))
            assert [commit.step for commit in log] == list(range(149, -1, -1))
            for commit in log[::10]:
                n = commit.step
                assert_same({"w": torch.arange(n, n + 2000), "branch": branch}, repo.load(commit.id))


ENDLESS = """
    import sys, torch, casckpt
    with casckpt.open(sys.argv[1], chunk_size=1024) as repo:
        state = {"w": torch.zeros(20000)}
        tip = repo.resolve().step if len(repo.refs()) else 0
        for n in range(tip + 1, 100000):
            state["w"][:] = n
            state["w"][n % 20000] = -n
            repo.commit(state, step=n)
            print(n, flush=True)
"""


def test_what_was_acknowledged_survives_kill_minus_nine(tmp_path) -> None:
    path = tmp_path / "store"
    for round_number in range(4):  # the trials kill by the hundred
        with Program(ENDLESS, path) as program:
            acknowledged = int(program.line())
            until = time.monotonic() + 0.1 * round_number + 0.02
            while time.monotonic() < until:
                acknowledged = int(program.line())
            os.kill(program.process.pid, signal.SIGKILL)
            assert program.process.stdout is not None
            for line in program.process.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)
        with casckpt.open(path) as repo:
            tip = repo.resolve().step
            assert tip is not None and acknowledged <= tip <= acknowledged + 1
            for commit in repo.log(limit=3):
                n = commit.step
                expected = torch.full((20000,), float(n))
                expected[n % 20000] = -n
                assert_same({"w": expected}, repo.load(commit.id))
            repo.gc()
            assert_same(repo.load("HEAD"), repo.load())
