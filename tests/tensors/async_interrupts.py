"""Programs that interrupt commits by real signals, at many moments: `python -m tests.tensors.async_interrupts NAME
STORE`. Each is a process of its own, as those of `tests.store.interrupts`."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

import casckpt
from casckpt.tensors import committing, save, staging, writer
from casckpt.tensors.repository import Repository
from tests.store.interrupts import interrupt_in, raise_interrupt

ROUNDS = 150


def _open(path: Path) -> Repository:
    """With limits so small that every kind of waiting comes up."""
    staging.SLAB = 16_384  # type: ignore[misc]
    committing.SAVE_MEMORY = 40_000  # type: ignore[misc]
    writer.SAVE_BATCH = 8192  # type: ignore[misc]
    save._ALONE = 0  # type: ignore[misc]
    save._RUN = 4096  # type: ignore[misc]
    return casckpt.open(path, chunk_size=2048, codec="none")


def _check(repo: Repository, acknowledged: int) -> int:
    """All is let go of, and the newest commit is the last acknowledged or one that was under way; returns its step."""
    assert not repo.store._environment.gate.live, repo.store._environment.gate.live
    assert repo._pool is None or repo._pool._in_use == 0, repo._pool._in_use
    newest = repo.resolve("main").step
    assert newest is not None and newest >= acknowledged, (newest, acknowledged)
    held = repo.load("main")["w"]
    assert (held == newest).all(), (newest, acknowledged, held.unique(return_counts=True))
    return newest


def _interrupted(path: Path, work: Any) -> None:
    state = {"w": torch.zeros(40_000), "n": 0}
    came = 0
    with _open(path) as repo:
        repo.commit(state, step=0)
        state["w"].fill_(1)
        began = time.monotonic()
        work(repo, state, 1)
        repo.wait()
        lasts = time.monotonic() - began
        acknowledged = step = 1
        for _ in range(ROUNDS):
            step += 1
            state["w"].fill_(step)
            try:
                interrupt_in(max(1e-5, random.uniform(0, 1.2) * lasts))
                work(repo, state, step)
                interrupt_in(0)
                acknowledged = step
            except KeyboardInterrupt:
                came += 1
            interrupt_in(0)
            repo.wait()
            newest = _check(repo, acknowledged)
            assert newest <= step
            acknowledged = newest
        state["w"].fill_(step + 1)
        repo.commit(state, step=step + 1)
        _check(repo, step + 1)
        assert repo.fsck(read_data=True).ok
    assert came > ROUNDS / 10, came


def commit(path: Path) -> None:
    """Interrupts at any moment of commits that are waited for."""
    _interrupted(path, lambda repo, state, step: repo.commit(state, step=step))


def commit_async(path: Path) -> None:
    """Interrupts at any moment of the part of a commit for which training stands still, and of the wait for it."""

    def work(repo: Repository, state: Any, step: int) -> None:
        repo.commit_async(state, step=step, memory=40_000)
        repo.wait()

    _interrupted(path, work)


def several(path: Path) -> None:
    """Interrupts while several are in flight."""

    def work(repo: Repository, state: Any, step: int) -> None:
        for _ in range(3):
            repo.commit_async(state, step=step, in_flight=3)

    _interrupted(path, work)


def handled(path: Path) -> None:
    """Whoever commits where the interrupt is handled, its traceback still at hand, does not wait for ever."""
    came = 0
    with _open(path) as repo:
        repo.commit({"n": 0}, step=0)
        for number in range(ROUNDS):
            try:
                interrupt_in(1e-5 + random.uniform(0, 0.003))
                for _ in range(100):  # not for ever: an interrupt that comes within a `__del__` is lost
                    repo.commit_async({"n": number}, step=number)
                interrupt_in(0)
            except KeyboardInterrupt:
                came += 1
                made = repo.commit({"n": -number}, step=number)
                assert repo.load(made.id) == {"n": -number}
        repo.commit({"n": ROUNDS})
        assert repo.load() == {"n": ROUNDS}
    assert came > ROUNDS / 10, came


PROGRAMS = {program.__name__: program for program in (commit, commit_async, several, handled)}

if __name__ == "__main__":
    signal.signal(signal.SIGALRM, raise_interrupt)
    try:
        PROGRAMS[sys.argv[1]](Path(sys.argv[2]))
    finally:
        interrupt_in(0)
