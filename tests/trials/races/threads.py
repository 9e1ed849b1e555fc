"""One process whose threads share a Repository: they commit, load, collect and move refs at once, children are forked
in the midst of it and touch what they inherited, and in the end somebody closes it under all of them."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import itertools
import os
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Final

import torch

import casckpt
from casckpt.errors import (
    ForkedStoreError,
    PrunedCommitError,
    RefExistsError,
    StoreBusyError,
    StoreClosedError,
    UnknownRevisionError,
)
from tests.equality import assert_same
from tests.trials.races.children import family
from tests.trials.races.members import CHUNK, state, state_of
from tests.trials.recipe import Recipe

_SECONDS: Final = 1.5
# Seconds after which it counts as a hang that one of the threads has done nothing yet.
_PATIENCE: Final = 60.0
# Without these in a round it proved nothing.
_MUST: Final = ("commit", "commit_async", "load", "collect", "move", "fork")
_GONE: Final = (PrunedCommitError, UnknownRevisionError)


class _Threads:
    """What the threads of the process do, and what they were told."""

    def __init__(self, path: str, seed: int) -> None:
        self.path = path
        self.rng = Random(seed)
        self.repo = casckpt.open(path, chunk_size=CHUNK, codec=("auto", "small")[seed % 2])
        self.steps = itertools.count()
        self.told: list[str] = []
        self.did: Counter[str] = Counter()
        self.errors: list[str] = []
        self.stop = threading.Event()
        made = self.repo.commit(state(1, next(self.steps)), step=0, meta={"lane": 1})
        # A child that is forked while another thread is torch's first to do a thing waits in torch, for ever, when it
        # does so itself. Nothing of ours can help that, so every thing is done once before.
        assert_same(state_of(made), self.repo.load())

    def run(self, work: Callable[[], None]) -> None:
        """Do it again and again, until it is time to stop, or the store is closed under it."""
        try:
            while not self.stop.is_set():
                try:
                    work()
                except StoreClosedError:
                    self.did["closed under it"] += 1
                    return
                self.did[work.__name__] += 1
        except BaseException:
            self.errors.append(traceback.format_exc())

    def commit(self) -> None:
        step = next(self.steps)
        self.told.append(self.repo.commit(state(1, step), step=step, meta={"lane": 1}).id)

    def commit_async(self) -> None:
        step = next(self.steps)
        live = state(1, step)
        pending = self.repo.commit_async(live, step=step, meta={"lane": 1}, in_flight=2)
        live["model"]["dense"].zero_()
        self.told.append(pending.result(60).id)

    def load(self) -> None:
        kept = [one for one in self.repo.log(limit=20) if not one.pruned]
        chosen = self.rng.choice(kept)
        with contextlib.suppress(*_GONE):
            assert_same(state_of(chosen), self.repo.load(chosen.id))

    def collect(self) -> None:
        self.repo.prune(casckpt.Keep(last=8))
        with contextlib.suppress(StoreBusyError):
            self.repo.gc()
        time.sleep(0.02)

    def move(self) -> None:
        name = f"b{self.rng.randrange(4)}"
        with contextlib.suppress(RefExistsError, *_GONE):
            self.repo.branch(name, at="HEAD~1")
            self.repo.delete_branch(name)

    def compact(self) -> None:
        with contextlib.suppress(StoreBusyError):  # a forked child has it open, or gc is at work
            self.repo.compact()
        time.sleep(0.2)

    def fork(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _in_child(self, self.rng.random() < 0.5)
        _, status = os.waitpid(child, 0)
        said = Path(f"{self.path} {child}")
        assert status == 0, f"a forked child ended with {status}: {said.read_text()}"
        said.unlink()
        time.sleep(0.02)


def _in_child(threads: _Threads, opens: bool) -> None:
    """What a DataLoader's worker might do with what it inherited; never returns."""
    said = os.open(f"{threads.path} {os.getpid()}", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 2)  # of itself, and where it hangs
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.dump_traceback_later(20)
    signal.alarm(30)
    code = 1
    try:
        for use in (threads.repo.load, threads.repo.refs, lambda: threads.repo.commit({"n": 1}), threads.repo.gc):
            with contextlib.suppress(ForkedStoreError):
                use()
                os._exit(4)
        if opens:
            with casckpt.open(threads.path, branch=f"child-{os.getpid()}") as own:
                made = own.commit(state(2, os.getpid()), step=os.getpid(), meta={"lane": 2})
                assert_same(state_of(made), own.load(made.id))
        threads.repo.close()
        gc.collect()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _let_them(all_of: _Threads, works: set[str]) -> None:
    """Give the threads their time; on a machine that does much else, until each has done its work once."""
    began = time.monotonic()
    while (took := time.monotonic() - began) < _SECONDS or not works <= all_of.did.keys():
        if all_of.errors or took > _PATIENCE:
            return
        time.sleep(0.05)


def _process(pipe: Connection, path: str, seed: int) -> None:
    torch.set_num_threads(1)
    all_of = _Threads(path, seed)
    works = [all_of.commit, all_of.commit_async, all_of.load, all_of.load, all_of.collect, all_of.move, all_of.fork]
    if seed % 2:
        works.append(all_of.compact)
    running = [threading.Thread(target=all_of.run, args=(work,), daemon=True) for work in works]
    for one in running:
        one.start()
    _let_them(all_of, {work.__name__ for work in works})
    if seed % 3 == 0:
        all_of.repo.close()  # under all of them
    all_of.stop.set()
    for one in running:
        one.join(60)
    assert not any(one.is_alive() for one in running), "a thread hangs"
    assert not all_of.errors, "\n".join(all_of.errors)
    all_of.repo.close()
    pipe.send((all_of.told, all_of.did))


def _judge(path: Path, told: list[str]) -> None:
    with casckpt.open(path, create=False) as repo:
        log = list(repo.log("main"))
        missing = set(told) - {one.id for one in log}
        assert not missing, f"acknowledged, and not there: {missing}"
        for one in repo.log(None):
            if not one.pruned:
                assert_same(state_of(one), repo.load(one.id))
        report = repo.fsck(read_data=True)
        assert report.ok, report.findings


def _trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    for seed in seeds:
        path = folder / "store"
        with family() as child:
            process = child("threads", _process, str(path), seed)
            told, did = process.hear(3 * _PATIENCE)
            process.end()
        _judge(path, told)
        idle = [work for work in _MUST if not did[work]]
        assert not idle, f"nobody came to {idle} in {_PATIENCE:.0f} s: {did}"
        shutil.rmtree(path)
        yield Counter(["closed under its threads" if seed % 3 == 0 else "all threads came to their ends"])


THREADS: Final = Recipe(
    name="threads-and-forks",
    promises=("P1", "P2", "P5"),
    what="threads that share a Repository, with children forked in the midst that use what they inherited",
    unit="rounds",
    goal=2_000,
    trials=_trials,
)
