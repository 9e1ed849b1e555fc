"""The races that a store of this kind is lost by, each forced: one process is held at a point, the others play to their
ends, then it goes on. The seed says which race, at which point, and on which store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from random import Random
from typing import Final

from tests.trials.races.interleavings import Game, Part, held, table
from tests.trials.races.moves import STATES, Move
from tests.trials.races.templates import COUNT, Ledger
from tests.trials.recipe import Recipe

Race = Callable[[Random, Ledger], list[Part]]
"""What the processes play; the first is held."""
# Points of the longest of the moves that are held, on the largest of the stores.
_FARTHEST: Final = 90


def _save(rng: Random) -> Move:
    return ("commit", rng.randrange(STATES), rng.choice(["auto", "small", "none"]))


def _hit_on_what_gc_deletes(rng: Random, known: Ledger) -> list[Part]:
    dead = [known.states[one] for one in known.dead]
    saves = tuple(("commit", number, rng.choice(["auto", "small"])) for number in rng.sample(dead, 3))
    return [Part("main", (("gc",),)), Part("a", saves)]


def _collected_under_a_hit(rng: Random, known: Ledger) -> list[Part]:
    collector, saver = _hit_on_what_gc_deletes(rng, known)
    return [saver, collector]


def _base_released_under_a_save(rng: Random, known: Ledger) -> list[Part]:
    return [
        Part("main", (_save(rng), _save(rng))),
        Part("b", (("prune", 1), ("expire",), ("gc",), ("prune", 1), ("gc",))),
    ]


def _save_on_a_base_that_is_being_released(rng: Random, known: Ledger) -> list[Part]:
    saver, collector = _base_released_under_a_save(rng, known)
    return [collector, saver]


def _revival(rng: Random, known: Ledger) -> list[Part]:
    one, other = rng.sample(known.dead, 2)
    ways: list[Move] = [("make", "saved", one), ("tag", "kept", other), ("rollback", one), ("reinstate", other)]
    rng.shuffle(ways)
    return [Part("a", (("gc",),)), Part("main", (*ways, _save(rng)))]


def _reinstated_while_collected(rng: Random, known: Ledger) -> list[Part]:
    one = rng.choice(known.dead)
    return [Part("main", (("reinstate", one), ("rollback", one))), Part("b", (("gc",),))]


def _revival_by_the_reflog(rng: Random, known: Ledger) -> list[Part]:
    reviver = Part("main", (("rollback", "main@{1}"), ("make", "again", "main@{2}"), _save(rng)))
    return rng.sample([Part("b", (("expire",), ("gc",))), reviver], 2)


def _gc_repack_and_compact(rng: Random, known: Ledger) -> list[Part]:
    moves: list[tuple[Move, ...]] = [
        (("gc",), ("gc",)),
        (("repack", "small"), ("compact",)),
        (("compact",), ("repack", "none")),
        (("prune", 1), ("gc",)),
    ]
    return [Part(branch, made) for branch, made in zip(("main", "a", "b", "a"), rng.sample(moves, 4), strict=True)]


def _branch_deleted_under_its_writer(rng: Random, known: Ledger) -> list[Part]:
    deleter = Part("main", (("delete", "a"), ("expire",), ("gc",), ("make", "a", "b"), ("gc",)))
    return rng.sample([deleter, Part("a", (_save(rng), _save(rng)))], 2)


def _read_while_it_is_taken(rng: Random, known: Ledger) -> list[Part]:
    reads: list[Move] = [("load", rng.choice([*known.states, "main~1", "a", "b~1"])) for _ in range(2)]
    taker = Part("b", (("prune", 1), ("expire",), ("gc",), ("repack", "none"), _save(rng), _save(rng)))
    return [Part("main", (*reads, ("fsck",), ("log",))), taker]


RACES: Final[dict[str, Race]] = {
    "a hit on what gc deletes": _hit_on_what_gc_deletes,
    "collected under a hit": _collected_under_a_hit,
    "a base released under a save": _base_released_under_a_save,
    "a save on a base that is being released": _save_on_a_base_that_is_being_released,
    "revived while gc strips it": _revival,
    "reinstated while gc takes it": _reinstated_while_collected,
    "revived by the reflog": _revival_by_the_reflog,
    "gc, repack and compact at once": _gc_repack_and_compact,
    "a branch deleted under its writer": _branch_deleted_under_its_writer,
    "read while it is taken": _read_while_it_is_taken,
}


def game_of(seed: int, ledger: Callable[[int], Ledger]) -> Game:
    """The race of a seed."""
    rng = Random(seed)
    name = list(RACES)[seed % len(RACES)]
    template = rng.randrange(COUNT)
    point = int(rng.random() ** 2 * _FARTHEST)
    return Game(template, RACES[name](rng, ledger(template)), held(0, point), f"{name} (seed {seed}, point {point})")


def _trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    with table(folder) as at:
        for seed in seeds:
            at.play(game_of(seed, at.ledger))
            yield Counter([list(RACES)[seed % len(RACES)]])


FORCED: Final = Recipe(
    name="forced-races",
    promises=("P2", "P5"),
    what="one process held between two of its transactions while others collect, revive, release or save",
    unit="interleavings",
    goal=20_000,
    trials=_trials,
)
