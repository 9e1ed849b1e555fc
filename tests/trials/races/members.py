"""The processes of a crowd: each does what people do with a store, as fast as it can, until it is told to stop.

What a member was told (that a commit is durable, that one was pruned) it tells at its end, and others are held to it.
Every state follows from who saved it and when, so that whoever reads one knows each bit of what must come.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from random import Random
from typing import Any, Final

import torch

import casckpt
from casckpt.errors import (
    PrunedCommitError,
    RefExistsError,
    RefMovedError,
    StoreBusyError,
    UnknownRevisionError,
)
from casckpt.history.commits import Commit
from tests.equality import assert_same
from tests.trials.races.controls import CONTROLS

CHUNK: Final = 4096
SHARED: Final = "shared"
# What a reader may meet who names a commit that retention or gc was about to take.
_GONE: Final = (PrunedCommitError, UnknownRevisionError)


@dataclass(slots=True)
class Account:
    """What a member did and was told. did: by what it was. line: ids of its branch, as it must be, the oldest first.
    shared: ids on the branch that all writers use. tags: by name. released: ids that prune said it released.
    gone: whether it was told that there is no such commit, or that it is pruned, and the ids one of which that is."""

    did: Counter[str] = field(default_factory=Counter)
    line: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    gone: list[tuple[bool, tuple[str, ...]]] = field(default_factory=list)

    @contextlib.contextmanager
    def may_be_gone(self, what: str, *commits: str) -> Iterator[None]:
        """A block for what needs these commits, which retention or gc may have taken: whether they have is judged."""
        try:
            yield
            self.did[what] += 1
        except _GONE as error:
            self.gone.append((isinstance(error, UnknownRevisionError), commits))
            self.did[f"{what}: gone"] += 1


def state(lane: int, step: int) -> dict[str, Any]:
    """Some 80 KiB: dense weights that drift and begin anew, a frozen part that all share, rows of which one changes,
    and a part that is one of five, so that what was collected comes again."""
    fresh = torch.Generator().manual_seed(lane * 1000 + step // 10)
    frozen = torch.Generator().manual_seed(7)
    rows = torch.zeros(128, 32)
    rows[step % 128] = step
    return {
        "model": {
            "dense": torch.rand(6000, generator=fresh) + (step % 10) * 1e-3,
            "frozen": torch.rand(4000, generator=frozen),
            "rows": rows,
        },
        "again": {"cycle": torch.full((4096,), float(step % 5)), "small": torch.arange(5) + step % 7},
        "step": step,
        "lane": lane,
    }


def state_of(commit: Commit) -> dict[str, Any]:
    """What a commit must hold, by what it says of itself."""
    assert commit.step is not None
    return state(int(commit.meta["lane"]), commit.step)  # type: ignore[call-overload]


def member(pipe: Connection, role: str, path: str, seed: int, control: str | None) -> None:
    """Play a role until there is something to hear; then tell the account."""
    if control is not None:
        CONTROLS[control]()
    torch.set_num_threads(1)
    os.nice(5)  # there are more of them than cores, and others have work to do
    account = Account()
    act = ROLES[role](path, seed, account)
    pipe.send("there")
    pipe.recv()
    with contextlib.closing(act):
        while not pipe.poll():
            next(act)
    pipe.send(account)


def _writer(path: str, seed: int, account: Account) -> Any:
    """Commits to a branch of its own, now and then to one that others use too, and goes back at times."""
    rng = Random(seed)
    branch = f"lane-{seed}"
    pending: list[Any] = []
    with casckpt.open(path, branch=branch) as repo, casckpt.open(path, branch=SHARED) as shared:
        step = 0

        def settle() -> None:
            for one in pending:
                account.line.append(one.result(60).id)
            pending.clear()

        def commit() -> None:
            account.line.append(repo.commit(state(seed, step), step=step, meta={"lane": seed}).id)

        def commit_async() -> None:
            live = state(seed, step)
            pending.append(repo.commit_async(live, step=step, meta={"lane": seed}, in_flight=rng.randint(1, 3)))
            live["model"]["dense"].zero_()

        def commit_shared() -> None:
            try:
                account.shared.append(shared.commit(state(seed, step), step=step, meta={"lane": seed}).id)
            except RefMovedError:
                account.did["lost the branch to another"] += 1
                shared.follow(shared.resolve(SHARED))

        def go_back() -> None:
            at = rng.randrange(len(account.line))
            with account.may_be_gone("a way back", account.line[at]):
                repo.rollback(account.line[at])
                del account.line[at + 1 :]

        def tag() -> None:
            with contextlib.suppress(RefExistsError):
                name = f"tag-{seed}-{rng.randrange(50)}"
                account.tags[name] = repo.tag(name, at=account.line[-1]).id

        def side_branch() -> None:
            at = rng.choice(account.line)
            with account.may_be_gone("a side branch", at):
                repo.branch(f"side-{seed}", at=at)
                with casckpt.open(path, branch=f"side-{seed}") as side:
                    side.commit(state(seed, step + 500), step=step + 500, meta={"lane": seed})
                repo.delete_branch(f"side-{seed}")

        def restore() -> None:
            at = rng.choice(account.line[-4:])
            with account.may_be_gone("a restore", at):
                chosen = repo.resolve(at)
                assert_same(state_of(chosen), repo.restore(state(seed, step), chosen.id))

        moves: list[Callable[[], None]] = [commit, commit_async, commit_shared, go_back, tag, side_branch, restore]
        while True:
            chosen = rng.choices(moves, [8, 8, 3, 0.5, 1, 0.5, 1])[0]
            if chosen is not commit_async:
                settle()
            if chosen not in (commit, commit_async, commit_shared) and not account.line:
                continue
            chosen()
            account.did[chosen.__name__] += 1
            step += 1
            try:
                yield
            except GeneratorExit:
                settle()
                raise


def _reader(path: str, seed: int, account: Account) -> Any:
    """Reads whole commits, tensors row by row, and what differs; each bit must be the one that was saved."""
    rng = Random(seed)
    with casckpt.open(path) as repo:
        handles: list[tuple[Commit, Any]] = []

        def load() -> None:
            chosen = rng.choice(kept)
            with account.may_be_gone("load", chosen.id):
                assert_same(state_of(chosen), repo.load(chosen.id))

        def load_tip() -> None:
            branch = rng.choice(branches)
            deleted = (UnknownRevisionError,) if branch.startswith("side-") else ()
            with contextlib.suppress(*deleted):  # what a branch leads to is never pruned
                loaded = repo.load(branch)
                assert_same(state(loaded["lane"], loaded["step"]), loaded)

        def open_tensor() -> None:
            chosen = rng.choice(kept)
            with account.may_be_gone("open_tensor", chosen.id):
                handles.append((chosen, repo.open_tensor(chosen.id, "model.dense")))

        def look_into() -> None:
            if handles:
                chosen, handle = handles.pop(rng.randrange(len(handles)))
                at = rng.randrange(5000)
                with account.may_be_gone("look_into", chosen.id):
                    assert_same(state_of(chosen)["model"]["dense"][at : at + 900], handle[at : at + 900])

        def diff() -> None:
            old, new = rng.choice(kept), rng.choice(kept)
            with account.may_be_gone("diff", old.id, new.id):
                assert bool(repo.diff(old.id, new.id)) == ((old.step, old.meta) != (new.step, new.meta))

        moves = [load, load_tip, open_tensor, look_into, diff]
        while True:
            log = list(repo.log(None))
            assert len({one.id for one in log}) == len(log)
            kept = [one for one in log if not one.pruned]
            branches = [ref.name for ref in repo.refs() if ref.kind == "branch"]
            account.did["log"] += 1
            for _ in range(5 if kept else 0):
                rng.choices(moves, [4, 2, 2, 2, 1])[0]()
            yield


def _collector(path: str, seed: int, account: Account) -> Any:
    """Forgets moves and collects, repacks now and then, and asks in vain for the store alone."""
    rng = Random(seed)
    with casckpt.open(path) as repo:
        while True:
            repo.expire_reflog(older_than=timedelta(seconds=1))
            account.did["chunks deleted"] += repo.gc().chunks
            account.did["gc"] += 1
            if rng.random() < 0.2:
                account.did["chunks repacked"] += repo.repack(codec=rng.choice(["small", "auto"])).reencoded_chunks
            if rng.random() < 0.1:
                try:
                    repo.compact()
                    account.did["compacted, as the last that was left"] += 1
                except StoreBusyError:
                    account.did["compact refused"] += 1
            time.sleep(0.05)
            yield


def _pruner(path: str, seed: int, account: Account) -> Any:
    """Thins out what the writers leave."""
    rng = Random(seed)
    with casckpt.open(path) as repo:
        while True:
            keep = casckpt.Keep(last=rng.randint(2, 6), every_steps=rng.choice([None, 10]))
            account.released.update(one.id for one in repo.prune(keep).pruned)
            account.did["prune"] += 1
            time.sleep(0.1)
            yield


def _visitor(path: str, seed: int, account: Account) -> Any:
    """Opens the store, looks, and leaves, again and again."""
    while True:
        with casckpt.open(path, create=False) as repo:
            tip = next(repo.log(None, limit=1), None)
            if tip is not None and not tip.pruned:
                with account.may_be_gone("a visitor's load", tip.id):
                    assert_same(state_of(tip), repo.load(tip.id))
        account.did["visit"] += 1
        yield


ROLES: Final[dict[str, Callable[[str, int, Account], Any]]] = {
    "writer": _writer,
    "reader": _reader,
    "collector": _collector,
    "pruner": _pruner,
    "visitor": _visitor,
}
