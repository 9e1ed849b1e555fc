"""A worker that does operations on one store through casckpt's own interface, and says so: before, and when it is done.

What it does is determined by a seed and by what was done before; what a state holds, by the seed and the step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import torch

import casckpt
from casckpt import Keep
from casckpt.history import gc, ingest, recode
from casckpt.store import compact
from casckpt.tensors import writer
from tests.trials.model import THINNED, Act, Model, acknowledgement, announcement, message_of

Say = Callable[[bytes], object]

CODECS = (None, None, "none", "fast", "auto", "small")
# What is done how often, once there is a commit.
WEIGHTS = {
    "commit": 12,
    "commit behind": 5,
    "branch": 2,
    "switch": 2,
    "switch to new": 1,
    "tag": 1,
    "rollback": 2,
    "delete branch": 2,
    "delete tag": 1,
    "expire": 2,
    "prune": 3,
    "thin": 1,
    "gc": 4,
    "compact": 2,
    "repack": 2,
    "backup": 1,
    "export": 1,
    "close": 2,
}
_MOST = 4  # branches, and tags: a story is not to grow for ever
_TALL = 14  # commits with a state; beyond, it is time to prune


# -- states ------------------------------------------------------------------------------------------------------------


def _noise(seed: int, name: str, count: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(crc32(f"{seed} {name}".encode())))


@lru_cache(8)
def _fixed(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(_noise(seed, name, count) for name, count in (("a", 4500), ("b", 3000), ("c", 3000), ("d", 3000)))  # type: ignore[return-value]


def state(seed: int, step: int) -> dict[str, Any]:
    """The state of a step, of some 75 KB: frozen, drifting, changed here and there, new, and come back from before."""
    frozen, start, slope, base = _fixed(seed)
    drift = start + slope * (step * 1e-3)
    sparse = base.clone()
    sparse[step % 7 * 400 :][:3] = float(step)
    return {
        "model": {"frozen": frozen, "drift": drift, "half": drift.bfloat16(), "sparse": sparse, "tied": sparse[1000:]},
        THINNED: {"new": _noise(seed, f"new {step}", 2500), "again": _noise(seed, f"again {step % 5}", 2000)},
        "progress": {"step": step, "rate": 0.1 / (step + 1), "note": "é" * (step % 3), "scalar": torch.tensor(step)},
    }


def expected(model: Model, step: int) -> dict[str, Any]:
    """What a commit must load to: its state without what was released of it."""
    found = state(model.seed, step)
    return {part: held for part, held in found.items() if part not in model.commits[step].released}


def settings(seed: int) -> dict[str, Any]:
    """How the store of a story is made."""
    chance = Random(f"settings {seed}")
    hash = chance.choice(["xxh3_128", "xxh3_128", "blake3"])
    return {"chunk_size": 4096, "hash": hash, "codec": chance.choice(["none", "fast", "auto", "auto", "small"])}


# -- what comes next ---------------------------------------------------------------------------------------------------


def choose(model: Model) -> Act:
    """What is done next, of what can be done."""
    chance = Random(f"{model.seed} {model.turn}")
    if not model.open:
        return Act("open")
    if f"branch/{model.head}" not in model.refs:
        return _commit(model, chance)
    whole = model.whole()
    if len(whole) > _TALL:
        return Act("prune", keep=chance.randint(1, 3))
    while True:
        name = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        act = _act(model, chance, name, whole)
        if act is not None:
            return act


def _commit(model: Model, chance: Random, name: str = "commit", count: int = 1) -> Act:
    return Act(name, step=model.next, count=count, codec=chance.choice(CODECS))


def _act(model: Model, chance: Random, name: str, whole: list[int]) -> Act | None:
    """An act of that name; None where there can be none."""
    branches, tags = model.names("branch"), model.names("tag")
    others = [branch for branch in branches if branch != model.head]
    if name == "commit":
        return _commit(model, chance)
    if name == "commit behind":
        return _commit(model, chance, name, chance.randint(1, 2))
    if name in ("branch", "switch to new"):
        new = Act(name, at=chance.choice(whole), ref=f"b{model.turn}")
        return new if len(branches) < _MOST else None
    if name == "tag":
        return Act(name, at=chance.choice(whole), ref=f"t{model.turn}") if len(tags) < _MOST else None
    if name in ("switch", "delete branch"):
        return Act(name, ref=chance.choice(others)) if others else None
    if name == "delete tag":
        return Act(name, ref=chance.choice(tags)) if tags else None
    if name == "expire":
        return Act(name, ref=chance.choice(["", *branches]))
    if name in ("prune", "thin"):
        return Act(name, keep=chance.randint(1, 4))
    if name == "repack":
        return Act(name, codec=chance.choice(CODECS))
    if name == "rollback":
        return Act(name, at=chance.choice(whole))
    if name == "export":
        whole = [step for step in whole if not model.commits[step].released]
        return Act(name, at=chance.choice(whole)) if whole else None
    return Act(name)


# -- doing it ----------------------------------------------------------------------------------------------------------


def copy_of(path: Path) -> Path:
    """Where a story puts its backups."""
    return path.with_name(f"{path.name}.copy")


def export_of(path: Path) -> Path:
    """Where a story exports to."""
    return path.with_name(f"{path.name}.pt")


def small_batches() -> None:
    """Have all that goes to the store in batches go in many small ones, in this process from now on."""
    ingest.SAVE_BATCH = writer.SAVE_BATCH = 16 << 10
    ingest.PUBLISHED_WITH = 8 << 10
    gc.WRITE_BATCH = recode.WRITE_BATCH = 24 << 10
    gc._BATCH = 24
    compact._BATCH_ENTRIES = 16


class Story:
    """Does acts on the store at `path`, announcing and acknowledging each by `say`, and moves the model on."""

    def __init__(
        self, path: Path, model: Model, say: Say = lambda line: None, repo: casckpt.Repository | None = None
    ) -> None:
        self.path = path
        self.model = model
        self._say = say
        self._repo = repo

    @property
    def repo(self) -> casckpt.Repository:
        """The open store."""
        assert self._repo is not None
        return self._repo

    @property
    def handle(self) -> casckpt.Repository | None:
        """The store, if it is open."""
        return self._repo

    def go_on(self, acts: int) -> None:
        """Do so many, whatever comes next."""
        for _ in range(acts):
            self.do(choose(self.model))

    def do(self, act: Act) -> None:
        """Do this one, of those that `choose` might have chosen."""
        self.model.announce(act)
        self._say(announcement(act))
        ids = self._do(act)
        self._say(acknowledgement(ids))
        self.model.acknowledge(ids)

    def _do(self, act: Act) -> list[str]:
        if act.name == "open":
            fresh = {} if self.model.made else settings(self.model.seed)
            self._repo = casckpt.open(self.path, create=not self.model.made, **fresh)
            return []
        repo, model = self.repo, self.model
        if act.name == "close":
            self._repo = None
            repo.close()
        elif act.name == "commit":
            made = repo.commit(state(model.seed, act.step), message_of(act.step), step=act.step, codec=act.codec)
            return [made.id]
        elif act.name == "commit behind":
            return self._commit_behind(act)
        elif act.name == "branch":
            repo.branch(act.ref, self._id(act.at))
        elif act.name == "tag":
            repo.tag(act.ref, self._id(act.at))
        elif act.name in ("switch", "switch to new"):
            repo.switch(act.ref, create=act.name == "switch to new")
        elif act.name == "rollback":
            repo.rollback(self._id(act.at))
        elif act.name == "delete branch":
            repo.delete_branch(act.ref)
        elif act.name == "delete tag":
            repo.delete_tag(act.ref)
        elif act.name == "expire":
            repo.expire_reflog(branch=act.ref or None)
        elif act.name == "prune":
            repo.prune(Keep(last=act.keep))
        elif act.name == "thin":
            repo.prune(Keep(parts={THINNED: Keep(last=act.keep)}))
        elif act.name == "repack":
            repo.repack(codec=act.codec)
        elif act.name == "backup":
            self.make_way(act)
            repo.backup(copy_of(self.path))
        elif act.name == "export":
            repo.export(self._id(act.at), export_of(self.path), format="torch", overwrite=True)
        else:
            {"gc": repo.gc, "compact": repo.compact}[act.name]()
        return []

    def make_way(self, act: Act) -> None:
        """Take away what is in the way of an act: a backup that is whole, or what one left that was killed."""
        if act.name == "backup" and copy_of(self.path).exists():
            gone = self.path.with_name(f"{self.path.name}.gone")
            shutil.rmtree(gone, ignore_errors=True)
            copy_of(self.path).rename(gone)
            shutil.rmtree(gone)

    def _id(self, step: int) -> str:
        return self.model.commits[step].id

    def _commit_behind(self, act: Act) -> list[str]:
        """Commits that are in flight together, of states that change as soon as they may."""
        pending = []
        for step in range(act.step, act.step + act.count):
            held = state(self.model.seed, step)
            one = self.repo.commit_async(held, message_of(step), step=step, codec=act.codec, in_flight=2)
            held[THINNED]["new"].zero_()
            held["model"]["drift"].add_(1)
            pending.append(one)
        for one in pending:  # each is heard of, or a later call would tell what became of it
            one.exception()
        return [one.result().id for one in pending]
