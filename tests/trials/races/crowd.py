"""Two writers, four readers, a collector, a pruner and a visitor on one store, all at once, and what must be there at
the end: everything that a writer was told is durable, and that the pruner was not told is released."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from random import Random
from typing import Final

import casckpt
from casckpt.errors import CasckptError
from tests.equality import assert_same
from tests.trials.races.children import BrokenPromiseError, Child, family
from tests.trials.races.members import CHUNK, SHARED, Account, member, state_of
from tests.trials.recipe import Recipe

ROUND: Final = 20
"""Seconds that one crowd goes on: the trial of one seed."""
_CROWD: Final = ("writer", "writer", "reader", "reader", "reader", "reader", "collector", "pruner", "visitor")
# Without these in a round it proved nothing.
_MUST: Final = ("commit", "commit_async", "commit_shared", "load", "look_into", "diff", "gc", "prune", "chunks deleted")


def crowd(seed: int, folder: Path, seconds: float, control: str | None = None) -> Counter[str]:
    """One round; returns how often everything was done.

    Raises:
        BrokenPromiseError
    """
    path = folder / "store"
    codec = ("auto", "small", "fast")[seed % 3]
    casckpt.open(path, chunk_size=CHUNK, codec=codec).close()
    with family() as child:
        members = [
            child(f"{role} {number}", member, role, str(path), 100 * seed + number, control)
            for number, role in enumerate(_CROWD)
        ]
        for one in members:
            assert one.hear() == "there"
        for one in members:
            one.say("begin")
        _watch(members, seconds, Random(seed))
        for one in members:
            one.say("stop")
        accounts = [one.hear() for one in members]
        for one in members:
            one.end()
    try:
        _judge(path, accounts)
    except CasckptError as error:
        raise BrokenPromiseError(f"seed {seed}: {type(error).__name__}: {error}") from error
    except AssertionError as error:
        raise BrokenPromiseError(f"seed {seed}: {error}") from error
    shutil.rmtree(path)
    return sum((account.did for account in accounts), Counter())


def _watch(members: list[Child], seconds: float, rng: Random) -> None:
    """Let them go on for so long, unless one of them fails; now and then one is frozen, whatever it is at."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for one in members:
            if one.pipe.poll():
                raise BrokenPromiseError(f"{one.name} ended early: {one.hear()}")
        if rng.random() < 0.15:
            frozen = rng.choice(members)
            frozen.stop()
            time.sleep(rng.choice([0.05, 0.5]))
            frozen.go_on()
        time.sleep(min(0.1, left))


def _judge(path: Path, accounts: list[Account]) -> None:
    released = set().union(*(account.released for account in accounts))
    with casckpt.open(path, create=False) as repo:
        report = repo.fsck(read_data=True)
        assert report.ok, report.findings
        there = {commit.id: commit for commit in repo.log(None)}
        branches = {ref.name for ref in repo.refs() if ref.kind == "branch"}
        for account in accounts:
            if account.line:
                writer = f"lane-{there[account.line[-1]].meta['lane']}"
                line = [commit.id for commit in repo.log(writer)][::-1]
                assert line == account.line, f"{writer} is not what its writer was told"
            for tag, commit in account.tags.items():
                assert repo.resolve(tag).id == commit and not there[commit].pruned, f"{tag} was lost"
            for is_unknown, commits in account.gone:
                really = [one for one in commits if one not in there or (one in released and not is_unknown)]
                assert really, f"told that of {commits} one is gone, and they are there"
        if SHARED in branches:
            shared = {commit.id for commit in repo.log(SHARED)}
            told = {commit for account in accounts for commit in account.shared}
            assert told == shared, "what the writers committed to one branch is not what is there"
        _check_states(repo, there, released)
        repo.gc()
        _check_states(repo, there, released)
        assert repo.fsck(read_data=True).ok


def _check_states(repo: casckpt.Repository, there: dict[str, casckpt.Commit], released: set[str]) -> None:
    for commit in there.values():
        if commit.pruned:
            assert commit.id in released, f"{commit.id} was released by nobody"
        else:
            assert_same(state_of(commit), repo.load(commit.id))


def _trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    for seed in seeds:
        did = crowd(seed, folder, ROUND)
        missing = [what for what in _MUST if not did[what]]
        assert not missing, f"a crowd in which nobody did {missing} proves nothing: {did}"
        lost = did["lost the branch to another"]
        yield Counter({f"all was there; {'the branch was contended' if lost else 'the branch was shared'}": ROUND})


CROWD: Final = Recipe(
    name="crowd",
    promises=("P1", "P2", "P5"),
    what="two writers, four readers, a collector, a pruner and a visitor on one store at once",
    unit="seconds",
    goal=7200,
    trials=_trials,
)
