"""Calls that change files fail, once or from then on, in a process that lives on: typed errors, and nothing is lost.

Once the fault is over the store is of use in the same process: by the same handle, or opened again where the error says
that it must be. While it is opened again a second fault befalls it. What failed to be synced is never called done.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import lmdb

import casckpt
from casckpt.errors import (
    AbandonedCommitError,
    CasckptError,
    ExportError,
    StoreError,
    StoreFailedError,
    StoreFullError,
)
from casckpt.store.environment import Environment
from tests.native import SHORT, build
from tests.native.faults import Faults
from tests.trials.model import Act, Model
from tests.trials.oracle import go_on, hold
from tests.trials.recipe import Recipe
from tests.trials.stages import WORKS, stage
from tests.trials.story import Story, settings, small_batches
from tests.trials.warm import in_child, warm

CODES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EINTR": errno.EINTR, "short": SHORT}
FOR_EVER = 1 << 30
# LMDB and Python call again after EINTR, for as long as it takes; no kernel goes on so for ever.
TIMES = {"once": dict.fromkeys(CODES, 1), "on": dict.fromkeys(CODES, FOR_EVER) | {"EINTR": 40}}
STRIDE = 8
ROUND = len(WORKS) * len(CODES) * len(TIMES) * STRIDE


def seed_of(work: str, code: str, times: str, offset: int) -> int:
    """The seed, of the first round, of a trial with faults at the calls 1 + offset + n * STRIDE."""
    place = list(WORKS).index(work) * len(CODES) + list(CODES).index(code)
    return (place * len(TIMES) + list(TIMES).index(times)) * STRIDE + offset


def trial(seed: int, folder: Path) -> Counter[str]:
    """One work meets a fault at every eighth of its calls, until it has fewer."""
    turn, place = divmod(seed, ROUND)
    place, offset = divmod(place, STRIDE)
    place, times = divmod(place, len(TIMES))
    work, code = list(WORKS)[place // len(CODES)], list(CODES)[place % len(CODES)]
    how = list(TIMES)[times]
    ready = stage(folder, work, turn)
    seen: Counter[str] = Counter()
    n = 1 + offset
    there_is = True
    while there_is:
        path, model = ready.copy(folder / "run")
        chance = Random(f"faults {seed} {n}")
        try:
            there_is, said = in_child(_case, path, model, ready.act, n, CODES[code], TIMES[how][code], chance)
        except AssertionError as error:
            raise AssertionError(f"{work}, {code} ({how}) at call {n}: {error}") from error
        seen.update(one if one.startswith("again") else f"{code}: {one}" for one in said)
        n += STRIDE
    seen["none any more"] += 1
    return seen


def _case(
    path: Path, model: Model, act: Act, n: int, what: int, times: int, chance: Random
) -> tuple[bool, tuple[str, ...]]:
    """Whether there are so many calls, and of each fault that there was how it went."""
    small_batches()
    story = Story(path, model)
    if act.name != "open":
        story.do(Act("open"))
    story.make_way(act)
    faults = Faults()
    faults.arm(path.parent, n, what, times)
    error: CasckptError | None = None
    try:
        story.do(act)
    except CasckptError as raised:
        error = raised
    faults.disarm()
    there_is, call = faults.count >= n, faults.met
    if not call:  # a fault that this call, and what followed it, let pass: none
        assert error is None, error
        return there_is, ()
    try:
        assert error is None or fits(error), "an error of another sort"
        assert error is not None or not faults.unsynced, "what failed to be synced was called done"
        assert not faults.resynced, "what failed to be synced was synced again"
        return there_is, _after(path, story, act, error, chance)
    except Exception as broken:
        raise AssertionError(f"it met {call}, and ended with {error!r}: {type(broken).__name__}: {broken}") from broken


def _after(path: Path, story: Story, act: Act, error: CasckptError | None, chance: Random) -> tuple[str, ...]:
    """Look at what is there, with the handle that is there if it is of any use, and go on."""
    model = story.model
    repo = story.handle
    outcome = "success" if error is None else type(error).__name__
    again: tuple[str, ...] = ()
    if repo is not None:
        try:
            said = hold(path, repo, model)
        except StoreFailedError:
            assert isinstance(error, (StoreFailedError, StoreFullError, AbandonedCommitError)), "an error that is late"
            outcome += ", opened again"
            leave(repo)
            repo = None
    if repo is None:
        repo, again = _opened_again(path, model, chance)
        said = hold(path, repo, model)
    if error is not None:
        assert not isinstance(error, StoreFullError) or act.name != "commit" or said == "no newer", said
    go_on(path, model, repo)
    return f"{outcome}, {said}", *again


def fits(error: CasckptError) -> bool:
    """Whether it is what a call that fails may be called: never damage, nor the loss of anything."""
    fitting = (StoreFailedError, StoreFullError, ExportError, AbandonedCommitError)
    return type(error) is StoreError or isinstance(error, fitting)  # "it cannot be opened"


def leave(repo: casckpt.Repository) -> None:
    """Close a handle that is of no use any more."""
    with contextlib.suppress(CasckptError):  # of a commit in flight that nobody was told of
        repo.close()


def _opened_again(path: Path, model: Model, chance: Random) -> tuple[casckpt.Repository, tuple[str, ...]]:
    """The store, after an attempt to open it that meets a fault of its own; and what that came to, if it met one."""
    faults = Faults()
    given = {} if model.made else settings(model.seed)
    name = chance.choice(list(CODES))
    faults.arm(path.parent, chance.randint(1, max(1, _calls_to_open(path, model))), CODES[name], 1)
    said = "success"
    try:
        leave(casckpt.open(path, create=not model.made, **given))
    except CasckptError as error:
        assert fits(error), f"opening again met {faults.met}, and ended with {error!r}"
        said = type(error).__name__
    faults.disarm()
    assert said != "success" or not faults.unsynced, "what failed to be synced as it was opened was called done"
    again = (f"again, {faults.met.partition(' ')[0]} meets {name}: {said}",) if faults.met else ()
    return casckpt.open(path, create=not model.made, **given), again


def _calls_to_open(path: Path, model: Model) -> int:
    """How many calls that change files it takes to open this store and to leave it: of a copy."""
    beside = path.parent.with_name(f"{path.parent.name} counted")
    shutil.copytree(path.parent, beside)
    try:
        faults = Faults()
        faults.arm(beside, 0, 0)
        casckpt.open(beside / path.name, create=not model.made, **({} if model.made else settings(model.seed))).close()
        faults.disarm()
        return faults.count
    finally:
        shutil.rmtree(beside)


def swallowing(seed: int, folder: Path, again: str = "") -> Counter[str]:
    """As `trial`, of a store that is broken, for the harness to see: it takes no notice where a sync fails.

    again: or it tells of it when it has tried once more, as if that brought anything back.
    """
    sync = Environment.sync

    def tried(self: Environment) -> None:
        try:
            sync(self)
        except lmdb.Error:
            if again:
                sync(self)
                raise

    Environment.sync = tried  # type: ignore[method-assign]
    return trial(seed, folder)


def trials(
    seeds: Iterable[int], folder: Path, work: str = "tests.trials.faults:trial", *arguments: str
) -> Generator[Counter[str], None, None]:
    """Under the shim, which is built first."""
    with TemporaryDirectory() as built:
        yield from warm(work, build("faults", Path(built)), *arguments)(seeds, folder)


RECIPES = (
    Recipe(
        name="faults",
        promises=("P1", "P3", "P4"),
        what="calls that change files fail with EIO, ENOSPC, EDQUOT, EINTR or take a part, once or from then on",
        unit="faults",
        goal=20_000,
        trials=trials,
    ),
)
