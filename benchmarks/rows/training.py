"""What checkpoints cost training: a GPT on the CPU, dense AdamW, a checkpoint every 10 steps, by each system in turn.

All systems save the same run, block of steps by block of steps. A block's checkpoints are not at its end, and what is
still under way there is waited for within it: nobody hands his work to the next. Before and after each block with
checkpoints comes one without, and what is lost is counted against the mean of these two: a machine that slows down
between them is nobody's loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import casckpt
from benchmarks.disk import check_room, remove, settle, sync_tree
from benchmarks.goals import Goal, Limit
from benchmarks.measure import RATE, SHARE, Series, Turn, alternate, timed
from benchmarks.outcome import TINY_STATE, Outcome, Setting
from benchmarks.peers.casckpt_store import drop_past
from benchmarks.peers.distributed import AsyncSaver
from benchmarks.rows.row import Row
from casckpt.cli.demo.model import VOCABULARY, ByteTransformer

EVERY = 10
BLOCK = 2 * EVERY
BATCH, CONTEXT = 4, 64
BYTES_A_WEIGHT = 12  # the weight and both moments of Adam, fp32

NONE, TORCH, DCP, OURS = "no checkpoint", "torch.save + fsync", "DCP async_save", "casckpt commit_async"


class Run:
    """A model in training."""

    def __init__(self, width: int, layers: int) -> None:
        torch.manual_seed(0)
        self.model = ByteTransformer(width=width, layers=layers, heads=4, context=CONTEXT, dropout=0.0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def step(self) -> None:
        text = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1))
        loss = functional.cross_entropy(self.model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


class TorchSaving:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.pt"

    def save(self, state: dict[str, Any]) -> None:
        torch.save(state, self._path)
        sync_tree(self._path)

    def drain(self) -> None:
        remove(self._path)


class DcpSaving:
    """As PyTorch's recipe has it: the last save is waited for before the next begins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._saver = AsyncSaver(keep_stager=True)
        self._pending: Future[Any] | None = None

    def save(self, state: dict[str, Any]) -> None:
        self._wait()
        self._number += 1
        self._pending = self._saver.save(state, self._folder / f"dcp-{self._number}")

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None
            remove(self._folder / f"dcp-{self._number - 1}")

    def drain(self) -> None:
        self._wait()


class OurSaving:
    def __init__(self, repo: casckpt.Repository) -> None:
        self._repo = repo

    def save(self, state: dict[str, Any]) -> None:
        self._repo.commit_async(state)

    def drain(self) -> None:
        self._repo.wait()


def measure(setting: Setting) -> Outcome:
    small = setting.size < TINY_STATE
    torch.set_num_threads(1 if small else min(2, len(os.sched_getaffinity(0))))
    width, layers = (32, 2) if small else (128, 4) if setting.quick else (384, 6)
    run = Run(width, layers)
    weights = sum(parameter.numel() for parameter in run.model.parameters())
    check_room(setting.folder, 20 * weights * BYTES_A_WEIGHT)
    run.step()
    with casckpt.open(setting.folder / "store") as repo:
        savers = {
            TORCH: TorchSaving(setting.folder),
            DCP: DcpSaving(setting.folder),
            OURS: OurSaving(repo),
        }
        turns: dict[str, Turn] = {}
        for name, saver in savers.items():
            tidy = (lambda: drop_past(repo)) if name == OURS else (lambda: None)
            turns[f"before {name}"] = _block(run, None, None, lambda: None)
            turns[name] = _block(run, saver.save, saver.drain, tidy)
        turns["at the end"] = _block(run, None, None, lambda: None)
        repeats = 1 if small else 2 * setting.repeats
        found = alternate(turns, repeats=repeats, unit=RATE)
    free = [series.values for name, series in found.items() if name not in savers]
    rates = {NONE: Series(RATE, tuple(chain.from_iterable(free)))} | {name: found[name] for name in savers}
    note = (
        f"{weights / 1e6:.1f} million weights, a state of {weights * BYTES_A_WEIGHT / 1e6:.0f} MB every {EVERY} steps; "
        "the ratio is of the medians of what is lost"
    )
    return Outcome({"rate": rates, "lost": lost(rates, free)}, note=note)


def _block(
    run: Run, save: Callable[[dict[str, Any]], None] | None, drain: Callable[[], None] | None, tidy: Callable[[], None]
) -> Turn:
    def turn() -> float:
        settle()
        with timed() as watch:
            for step in range(BLOCK):
                run.step()
                if save is not None and step % EVERY == EVERY // 2:
                    save(run.state())
            if drain is not None:
                drain()
        tidy()
        return BLOCK / watch.seconds

    return turn


def lost(rates: dict[str, Series], free: list[tuple[float, ...]]) -> dict[str, Series]:
    """The share of throughput that each system takes, against the blocks before and after its own.

    free: the rates of the blocks without checkpoints: before the first system, between each two, after the last.
    """
    systems = [(name, series) for name, series in rates.items() if name != NONE]
    return {
        name: Series(
            SHARE,
            tuple(1 - 2 * rate / (before + after) for rate, before, after in zip(own.values, *around, strict=True)),
        )
        for (name, own), around in zip(systems, pairwise(free), strict=True)
    }


TRAINING = Row(
    "training",
    "training throughput lost to a checkpoint every 10 steps",
    measure,
    tuple(
        Goal(
            f"training throughput lost with `commit_async` every {EVERY} steps, against {peer}",
            "lost",
            OURS,
            peer,
            Limit(0.5),
            Limit(0.1),
            pooled=True,
        )
        for peer in (DCP, TORCH)
    ),
)
