"""What the demo's processes do. Each is one act, run as `python -m casckpt.cli.demo.acts ACT PLAN STORE`.

An act tells the director what happens by lines of JSON on stdout: {"step": 3, "loss": 4.1} for each update, and one
object with figures where the story needs them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import casckpt
from casckpt.cli.demo.plan import Plan
from casckpt.cli.demo.training import Batch, Training
from casckpt.store.protocol import Store, Writer

# How often a commit is measured against torch.save.
_TRIALS = 3
# How long the run that is to be killed waits inside of its commit; should nobody kill it, it ends by itself.
_FROZEN_SECONDS = 60


def tell(**what: Any) -> None:
    """A line for the director."""
    print(json.dumps(what), flush=True)


def reference(plan: Plan, store: str) -> None:
    """The run as it is without casckpt, from its first update to its last."""
    run = Training(plan)
    for step, batch in enumerate(run.epochs(), 1):
        tell(step=step, loss=run.update(batch))
        if step == plan.steps:
            break
    tell(weights=run.weights_hash(), parameters=sum(parameter.numel() for parameter in run.model.parameters()))


def killed(plan: Plan, store: str) -> None:
    """The same run, committing as it goes; it stops inside the commit of step `killed_at`, and waits to be killed."""
    _saved(plan, store, doomed=True)


def resumed(plan: Plan, store: str) -> None:
    """The same run again, from wherever the store is to the end."""
    _saved(plan, store, doomed=False)


def _saved(plan: Plan, store: str, *, doomed: bool) -> None:
    run, ckpt = _with_checkpoints(plan, store)
    with ckpt:
        step = ckpt.resume()
        tell(resumed=step)
        while step < plan.steps:
            for batch in ckpt.batches():
                loss = run.update(batch)
                step += 1
                tell(step=step, loss=loss)
                if doomed and step == plan.killed_at:
                    ckpt.wait()  # or it is the one before that stops
                    _stop_inside_the_next_commit(ckpt.repo.store)
                ckpt.step(step, metrics={"loss": loss})
                if doomed and step == plan.killed_at:
                    ckpt.wait()  # for whoever kills it
                if step >= plan.steps:
                    break
    tell(weights=run.weights_hash())


def afterwards(plan: Plan, store: str) -> None:
    """What commits cost; a loss spike, taken back; pruning. All on the finished run."""
    run, ckpt = _with_checkpoints(plan, store)
    with ckpt:
        ckpt.resume()
        batches = ckpt.batches()
        tell(dense=_cost(plan, run, ckpt, batches, "all layers train"))
        run.model.freeze_all_but_last()
        tell(frozen=_cost(plan, run, ckpt, batches, "last layer trains"))
        tell(spike=_spike(plan, run, ckpt, batches))
        tell(pruned=_prune(ckpt))


def _with_checkpoints(plan: Plan, store: str) -> tuple[Training, casckpt.Checkpointer]:
    run = Training(plan)
    ckpt = casckpt.Checkpointer(
        store,
        model=run.model,
        optimizer=run.optimizer,
        scheduler=run.scheduler,
        dataloader=run.loader,
        every_steps=plan.every,
    )
    return run, ckpt


def _stop_inside_the_next_commit(store: Store) -> None:
    """Let the transaction that would publish the next commit be written, and stop before it can be committed."""
    write = store.write

    @contextmanager
    def stopping(*, durable: bool, room: int | None) -> Iterator[Writer]:
        with write(durable=durable, room=room) as writer:
            yield writer
            if durable:
                tell(inside_commit=True)
                time.sleep(_FROZEN_SECONDS)
                os._exit(1)

    store.write = stopping  # type: ignore[method-assign]  # the one seam of the demo: a commit that takes too long


def _cost(
    plan: Plan, run: Training, ckpt: casckpt.Checkpointer, batches: Iterator[Batch], message: str
) -> dict[str, float]:
    """Bytes and milliseconds of a commit and of torch.save with fsync, of the same state: the middle one of a few."""
    commits, files = [], []
    step = ckpt.repo.resolve().step or 0
    for _ in range(_TRIALS):
        for _ in range(plan.late):
            loss = run.update(next(batches))
            step += 1
            tell(step=step, loss=loss)
        began = time.perf_counter()
        commit = ckpt.save(step, message, metrics={"loss": loss})
        taken = time.perf_counter() - began
        assert commit.figures is not None
        commits.append((commit.figures.stored, commit.figures.logical, 1000 * taken))
        files.append(_torch_save(run, Path(ckpt.repo.path).parent))
    commits = commits[1:]  # the first commit after a resume reads the tree that it builds on, the others know it
    files = files[1:]
    return {
        "commit_bytes": statistics.median([stored for stored, _, _ in commits]),
        "state_bytes": statistics.median([logical for _, logical, _ in commits]),
        "commit_ms": statistics.median([taken for _, _, taken in commits]),
        "file_bytes": statistics.median([size for size, _ in files]),
        "file_ms": statistics.median([taken for _, taken in files]),
    }


def _torch_save(run: Training, folder: Path) -> tuple[int, float]:
    """Bytes and milliseconds of torch.save to a file that is synced, as a commit is."""
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        torch.save(run.state(), file)
        file.flush()
        os.fsync(file.fileno())
        return file.tell(), 1000 * (time.perf_counter() - began)


def _spike(plan: Plan, run: Training, ckpt: casckpt.Checkpointer, batches: Iterator[Batch]) -> dict[str, Any]:
    """A bad batch at a huge learning rate; the commit after it is rolled back, and training goes on from a branch."""
    assert ckpt.last is not None
    good = ckpt.last
    step = good.step or 0
    before = run.state_hash()

    text, following = next(batches)
    for group in run.optimizer.param_groups:
        group["lr"] = 0.5
    run.update((text, following.flip(1)))
    worst = run.update(next(batches))
    tell(step=step + 2, loss=worst)
    ckpt.save(step + 2, "loss spike", tag="spike", metrics={"loss": worst})
    spoiled = run.state_hash()

    began = time.perf_counter()
    step = ckpt.rollback("spike~1")
    taken = time.perf_counter() - began
    after = run.state_hash()
    ckpt.repo.switch("steady", create=True)
    losses = []
    for _ in range(2 * plan.late):
        losses.append(run.update(next(batches)))
        step += 1
        tell(step=step, loss=losses[-1])
    ckpt.save(step, "on from before the spike", metrics={"loss": losses[-1]})
    return {
        "before": good.metrics["loss"],
        "spike": worst,
        "after": statistics.mean(losses),
        "rollback_ms": 1000 * taken,
        "restored": before == after != spoiled,
    }


def _prune(ckpt: casckpt.Checkpointer) -> dict[str, Any]:
    """A policy, gc, and every commit that is still there loaded, with all that is left of it."""
    repo = ckpt.repo
    before = repo.stats().stored
    keep = casckpt.Keep(last=2, best={"loss": ("min", 1)}, parts={"optimizer": casckpt.Keep(last=1)})
    report = repo.prune(keep)
    began = time.perf_counter()
    repo.gc()
    taken = time.perf_counter() - began
    loaded = 0
    for decision in report.kept:
        held = [part.name for part in repo.parts(decision.id) if not part.released]
        loaded += "model" in held and list(repo.load(decision.id, paths=held)) == held
    return {
        "commits": len(report.decisions),
        "kept": len(report.kept),
        "thinned": sum(1 for decision in report.kept if decision.released),
        "loaded": loaded,
        "before": before,
        "after": repo.stats().stored,
        "gc_ms": 1000 * taken,
    }


ACTS: dict[str, Callable[[Plan, str], None]] = {
    "reference": reference,
    "killed": killed,
    "resumed": resumed,
    "afterwards": afterwards,
}

if __name__ == "__main__":
    ACTS[sys.argv[1]](Plan.loads(sys.argv[2]), sys.argv[3])
