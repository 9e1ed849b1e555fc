"""Damage to a store at rest, one for each seed; every bit of a store; every length; and damage while it is open."""

from __future__ import annotations

import contextlib
import math
import random
import re
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Final

from tests.history.pages import SIZE
from tests.trials.recipe import Recipe
from tests.trials.rot.damage import RECORD, Map, damage, flip, flip_in_record
from tests.trials.rot.look import HARMLESS, look
from tests.trials.rot.onward import go_on
from tests.trials.rot.stores import TEMPLATES, Template, template
from tests.trials.warm import in_child, warm

_BATCH: Final = 25
_BITS: Final = 150


@cache
def template_of(name: str, folder: Path) -> tuple[Template, Map]:
    """Made once in each warm process, which has no threads: so in a child."""
    made = in_child(template, name, folder)
    path = folder / f"map {name}"
    path.mkdir()
    made.put(path)
    known = Map(path, made.files["data.mdb"])
    shutil.rmtree(path)
    return made, known


def _tell(path: Path, words: str) -> None:
    """Note what is tried, for when the child does not live to tell."""
    (path.parent / f"{path.name} trying").write_text(words)


def _trying(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (path.parent / f"{path.name} trying").read_text()
    return "nothing yet"


# -- at rest -----------------------------------------------------------------------------------------------------------


def damages(seed: int, folder: Path) -> Counter[str]:
    """So many damages to one store, one after the other, each to a store that is whole but for it."""
    name = list(TEMPLATES)[seed % len(TEMPLATES)]
    made, known = template_of(name, folder)
    return _in_child(_damages, seed, folder / str(seed), made, known)


def _in_child(work, seed: int, path: Path, *arguments) -> Counter[str]:
    path.mkdir()
    try:
        return in_child(work, seed, path, *arguments)
    except AssertionError as error:
        raise AssertionError(f"trying {_trying(path)}: {error}") from None
    finally:
        shutil.rmtree(path)
        (path.parent / f"{path.name} trying").unlink(missing_ok=True)


def _damages(seed: int, path: Path, made: Template, known: Map) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for number in range(_BATCH):
        made.put(path)
        how = damage(random.Random(f"{seed} {number}"), made, known, path)
        _tell(path, f"damage {number} of seed {seed}: {how}")
        outcomes[_outcome(path, made, how, number % 4 == 0)] += 1
    return outcomes


def _outcome(path: Path, made: Template, how: str, many: bool) -> str:
    """many: whether to go on with more commits than there are moves, which would all be written over if they were
    counted from 0 again."""
    data = (path / "data.mdb").read_bytes()
    outcome = look(path, made.view)
    if RECORD in how and not outcome.startswith("not opened"):
        made.put(path)
        (path / "data.mdb").write_bytes(data)
        go_on(path, made.view, made.view.moves if many else 1)
    assert outcome != HARMLESS or RECORD not in how, "what a record says is another, and nobody tells"
    return outcome


def records(seed: int, folder: Path) -> Counter[str]:
    """So many bits of the small records beside the objects, each of which must be told."""
    name = list(TEMPLATES)[seed % len(TEMPLATES)]
    made, known = template_of(name, folder)
    return _in_child(_flips_in_records, seed, folder / str(seed), made, known)


def _flips_in_records(seed: int, path: Path, made: Template, known: Map) -> Counter[str]:
    chance = random.Random(f"records {seed}")
    outcomes: Counter[str] = Counter()
    for number in range(_BATCH):
        made.put(path)
        data = bytearray(made.files["data.mdb"])
        how = flip_in_record(chance, made, known, data)
        (path / "data.mdb").write_bytes(data)
        _tell(path, f"seed {seed}: {how}")
        outcomes[_outcome(path, made, how, number % 4 == 0)] += 1
    return outcomes


def stratum(how: str) -> str:
    """What sort of thing a damage was done to, of what `damage` says of it."""
    return re.sub(r"^(bit|cut|pages).*", r"\1", how) if ", " not in how else how.partition(", ")[2]


def strata(seed: int, folder: Path) -> Counter[str]:
    """What the damages of a seed are done to, without a look at what comes of it."""
    made, known = template_of(list(TEMPLATES)[seed % len(TEMPLATES)], folder)
    path = folder / f"strata {seed}"
    path.mkdir()
    found: Counter[str] = Counter()
    for number in range(_BATCH):
        made.put(path)
        how = damage(random.Random(f"{seed} {number}"), made, known, path)
        found[stratum(how)] += 1
    shutil.rmtree(path)
    return found


# -- every bit ---------------------------------------------------------------------------------------------------------


def bits(seed: int, folder: Path) -> Counter[str]:
    """The next so many bits, in an order that leads everywhere.

    Those where nothing is are flipped all at once: nothing may come of it. The others are flipped one by one.
    """
    made, known = template_of("mixed", folder)
    return _in_child(_bits, seed, folder / str(seed), made, known)


def order(total: int) -> int:
    """A step that leads to every one of so many places, in an order without a pattern that matters."""
    step = int(total * 0.6180339887) | 1
    while math.gcd(step, total) != 1:
        step += 2
    return step


def _bits(seed: int, path: Path, made: Template, known: Map) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    total = 8 * len(made.files["data.mdb"])
    step = order(total)
    chosen = [number * step % total for number in range(seed * _BITS, (seed + 1) * _BITS)]
    idle = [bit for bit in chosen if known.is_idle(bit // 8)]
    if idle and _flipped(path, made, idle) == HARMLESS:
        outcomes[HARMLESS] += len(idle)
    else:
        idle = []
    for bit in sorted({*chosen} - {*idle}):
        outcomes[_flipped(path, made, [bit])] += 1
    return outcomes


def _flipped(path: Path, made: Template, bits: list[int]) -> str:
    data = bytearray(made.files["data.mdb"])
    for bit in bits:
        flip(data, bit)
    made.put(path)
    (path / "data.mdb").write_bytes(data)
    _tell(path, f"bits {bits}")
    return look(path, made.view)


# -- every length ------------------------------------------------------------------------------------------------------


def lengths(seed: int, folder: Path) -> Counter[str]:
    """A file cut at a page's bound, a byte before and a byte behind it."""
    names = list(TEMPLATES)
    made, _ = template_of(names[seed % len(names)], folder)
    return _in_child(_lengths, seed // len(names), folder / str(seed), made)


def _lengths(number: int, path: Path, made: Template) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    whole = made.files["data.mdb"]
    bounds = len(whole) // SIZE + 1
    bound = (number + 1) * order(bounds) % bounds * SIZE
    for length in (bound - 1, bound, bound + 1):
        if 0 <= length <= len(whole):
            made.put(path)
            (path / "data.mdb").write_bytes(whole[:length])
            _tell(path, f"{length} bytes of {len(whole)}")
            outcomes[look(path, made.view)] += 1
    return outcomes


RECIPES = (
    Recipe(
        name="rot",
        promises=("P3",),
        what="one damage to a store at rest: a bit, a sector, a page, a length; by kinds of pages and frames",
        unit="damages",
        goal=100_000,
        trials=warm("tests.trials.rot.recipes:damages"),
    ),
    Recipe(
        name="every-bit",
        promises=("P3",),
        what="every bit of a store of some 200 KB is flipped, one at a time",
        unit="flips",
        goal=1_600_000,
        trials=warm("tests.trials.rot.recipes:bits"),
    ),
    Recipe(
        name="every-length",
        promises=("P3",),
        what="a data file is cut at the bounds of its pages, a byte before them and a byte behind",
        unit="lengths",
        goal=2_000,
        trials=warm("tests.trials.rot.recipes:lengths"),
    ),
    Recipe(
        name="rot-while-open",
        promises=("P3",),
        what="a file is damaged under a process that has it open, which may be killed by it; then another opens it",
        unit="damages",
        goal=10_000,
        trials=warm("tests.trials.rot.opened:trial"),
    ),
)
