"""The commands of `commands.py`, killed at any call and at any moment, and with calls that fail: each comes to its end
when it is given again, and what it only reads is never touched."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from casckpt.errors import CasckptError
from casckpt.history import repair
from casckpt.history.salvage import build as built
from casckpt.history.salvage import run
from casckpt.store.protocol import Space, Store
from casckpt.tensors.intake import intake
from tests.history.damage import put
from tests.native import AFTER, BEFORE, build
from tests.native.faults import Faults
from tests.trials.commands import COMMANDS, Command, Known, finish, in_small_steps, remove_left
from tests.trials.faults import CODES, TIMES, fits
from tests.trials.oracle import AS_BEFORE, DONE
from tests.trials.recipe import Recipe
from tests.trials.warm import fork, in_child, warm

STRIDE = 24
"""A trial takes one call of so many, from one that its seed says."""
WAYS: tuple[int | None, ...] = (BEFORE, AFTER, None)
"""When a command is killed: instead of a call, after it, or at a random moment."""
KILLS = 4
"""Kills at random moments of one command, one after the other."""

# Seconds that commands last took, by which a moment is drawn.
_took: defaultdict[str, float] = defaultdict(lambda: 0.1)


def seed_to_kill(name: str, way: int | None, offset: int) -> int:
    """The seed, of the first round, of a trial at the calls 1 + offset + n * STRIDE."""
    return (list(COMMANDS).index(name) * len(WAYS) + WAYS.index(way)) * STRIDE + offset


def seed_to_fail(name: str, code: str, times: str, offset: int) -> int:
    """The seed, of the first round, of a trial with faults at the calls 1 + offset + n * STRIDE."""
    place = list(COMMANDS).index(name) * len(CODES) + list(CODES).index(code)
    return (place * len(TIMES) + list(TIMES).index(times)) * STRIDE + offset


# -- killed ------------------------------------------------------------------------------------------------------------


def kill(seed: int, folder: Path) -> Counter[str]:
    """One command is killed at one of so many of its calls, or at some moments, until it comes to its end."""
    place, offset = divmod(seed, STRIDE)
    place, way = divmod(place, len(WAYS))
    turn, number = divmod(place, len(COMMANDS))
    name = list(COMMANDS)[number]
    ready, known = _ready(folder, name, turn)
    when = WAYS[way]
    if when is None:
        return _kill_at_random(seed, name, ready, folder / "run", known)
    seen: Counter[str] = Counter()
    n = 1 + offset
    ended = False
    while not ended:
        _copy(ready, folder / "run")
        ended = not _killed(COMMANDS[name], folder / "run", n, when)
        try:
            said = in_child(finish, COMMANDS[name], folder / "run", known)
        except AssertionError as error:
            raise AssertionError(
                f"{name}, killed {'after' if when == AFTER else 'before'} call {n}: {error}"
            ) from error
        assert said == DONE or not ended, f"{name} came to its end: {said}"
        seen[f"{name} {'through' if ended else 'killed'}: {said}"] += 1
        n += STRIDE
    return seen


def _kill_at_random(seed: int, name: str, ready: Path, folder: Path, known: Known) -> Counter[str]:
    """Killed again and again on its way, it comes to its end all the same."""
    chance = Random(f"killed {seed}")
    seen: Counter[str] = Counter()
    _copy(ready, folder)
    for _ in range(KILLS):
        began = time.perf_counter()
        if not _killed(COMMANDS[name], folder, 0, BEFORE, chance.uniform(0, 1.2 * _took[name])):
            _took[name] = time.perf_counter() - began
            seen[f"{name} through: {DONE}"] += 1
            break
        said = in_child(COMMANDS[name].look, folder, known)
        seen[f"{name} killed at a moment: {said}"] += 1
        if said == DONE and not COMMANDS[name].twice:
            break
        remove_left(folder / COMMANDS[name].store)
    in_child(finish, COMMANDS[name], folder, known)
    return seen


def _killed(command: Command, folder: Path, n: int, when: int, seconds: float | None = None) -> bool:
    """Give the command in a child that dies at its n-th call, or after so many seconds. False: it had ended by then."""
    child = fork()
    if child == 0:
        signal.alarm(30)
        try:
            in_small_steps()
            faults = Faults()
            faults.arm(folder, n, when)
            command.do(folder)
            os._exit(0 if not n or faults.count < n else 3)
        finally:
            os._exit(4)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), f"{type(command).__name__} ended with {ended} at call {n}"
    return ended != 0


# -- failing -----------------------------------------------------------------------------------------------------------


def fail(seed: int, folder: Path) -> Counter[str]:
    """One command meets a fault at one of so many of its calls, until it has fewer."""
    place, offset = divmod(seed, STRIDE)
    place, times = divmod(place, len(TIMES))
    place, code = divmod(place, len(CODES))
    turn, number = divmod(place, len(COMMANDS))
    name, fault, how = list(COMMANDS)[number], list(CODES)[code], list(TIMES)[times]
    ready, known = _ready(folder, name, turn)
    seen: Counter[str] = Counter()
    n = 1 + offset
    there_is = True
    while there_is:
        _copy(ready, folder / "run")
        try:
            there_is, said = in_child(_case, COMMANDS[name], folder / "run", known, n, CODES[fault], TIMES[how][fault])
        except AssertionError as error:
            raise AssertionError(f"{name}, {fault} ({how}) at call {n}: {error}") from error
        if said:
            seen[f"{name}: {fault}: {said}"] += 1
        n += STRIDE
    seen["none any more"] += 1
    return seen


def _case(command: Command, folder: Path, known: Known, n: int, what: int, times: int) -> tuple[bool, str]:
    """Whether there are so many calls, and of the fault, if there was one, how it went."""
    in_small_steps()
    faults = Faults()
    faults.arm(folder, n, what, times)
    error: CasckptError | None = None
    try:
        command.do(folder)
    except CasckptError as raised:
        error = raised
    faults.disarm()
    there_is, call = faults.count >= n, faults.met
    if not call:
        assert error is None, error
        return there_is, ""
    try:
        assert error is None or fits(error), "an error of another sort"
        assert error is not None or not faults.unsynced, "what failed to be synced was called done"
        assert not faults.resynced, "what failed to be synced was synced again"
        said = finish(command, folder, known)
        assert error is not None or said == DONE, f"it was called done: {said}"
    except Exception as broken:
        raise AssertionError(f"it met {call}, and ended with {error!r}: {type(broken).__name__}: {broken}") from broken
    return there_is, f"{'success' if error is None else type(error).__name__}, {said}"


# -- what lies ready ---------------------------------------------------------------------------------------------------

_made: dict[tuple[Path, str, int], tuple[Path, Known]] = {}


def _ready(folder: Path, name: str, turn: int) -> tuple[Path, Known]:
    """The folder that a command begins with, made when it is first asked for. turn: what it is made of."""
    key = folder, name, turn
    if key not in _made:
        for other in [old for old in _made if old[0] == folder and old[2] != turn]:
            shutil.rmtree(_made.pop(other)[0])
        own = folder / f"{name} {turn}".replace(" ", "-")
        own.mkdir()
        known = in_child(COMMANDS[name].make, own, turn)
        assert in_child(COMMANDS[name].look, own, known) == AS_BEFORE
        _made[key] = own, known
    return _made[key]


def _copy(ready: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ready, folder)


def trials(seeds: Iterable[int], folder: Path, work: str) -> Generator[Counter[str], None, None]:
    """Under the shim, which is built first."""
    with TemporaryDirectory() as place:
        yield from warm(f"tests.trials.interrupted:{work}", build("faults", Path(place)))(seeds, folder)


# -- broken on purpose -------------------------------------------------------------------------------------------------


def _writes_to_the_other() -> None:
    """repair notes in the other store that it was there."""
    heal = repair._Repair._heal

    def noting(self: repair._Repair, wanted: list[repair.ObjectKey]) -> None:
        put(self._other, Space.META, b"healed from", b"it")
        heal(self, wanted)

    repair._Repair._heal = noting  # type: ignore[method-assign]


def _named_too_early() -> None:
    """salvage gives the new store its name before it has a history."""
    put_objects, put_in_place = built._put_objects, run.put_in_place
    named: list[Path] = []

    def naming(store: Store, *given: Any) -> None:
        put_objects(store, *given)
        named.append(Path(shutil.copy(Path(store.path) / "data.mdb", Path(store.path).parent)))

    def naming_again(*given: Any) -> None:
        named.pop().unlink()
        put_in_place(*given)

    built._put_objects, run.put_in_place = naming, naming_again  # type: ignore[attr-defined]


def _forgets_what_it_took() -> None:
    """An import that is given again takes all of it again."""
    intake.Intake.present = lambda self, one: None  # type: ignore[method-assign]


BREAKS = {
    "repair": (_writes_to_the_other, "changed, though only to be read"),
    "salvage": (_named_too_early, "what came back is not all"),
    "import a folder": (_forgets_what_it_took, "it took again what was there"),
}
"""By the name of a command: what breaks it, and what must be said of it."""


def broken(seed: int, folder: Path) -> Counter[str]:
    """Of each command that can be broken, whether that is found out."""
    seen: Counter[str] = Counter()
    for name, (_, words) in BREAKS.items():
        try:
            in_child(_broken, name, folder)
        except AssertionError as error:
            seen[f"{name}: {words if words in str(error) else error}"] += 1
        else:
            seen[f"{name}: nothing was noticed"] += 1
    return seen


def _broken(name: str, folder: Path) -> None:
    BREAKS[name][0]()
    for offset in range(0, STRIDE, 8):
        kill(seed_to_kill(name, BEFORE, offset), folder)


RECIPES = (
    Recipe(
        name="commands-killed",
        promises=("P3", "P4", "P7"),
        what="repair, salvage, import, reinstate and upgrade are killed at any call or moment, and given again",
        unit="kills",
        goal=10_000,
        trials=lambda seeds, folder: trials(seeds, folder, "kill"),
    ),
    Recipe(
        name="commands-failing",
        promises=("P3", "P4", "P7"),
        what="calls of repair, salvage, import, reinstate and upgrade fail, and they are given again",
        unit="faults",
        goal=20_000,
        trials=lambda seeds, folder: trials(seeds, folder, "fail"),
    ),
)
