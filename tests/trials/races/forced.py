"""The races that a store of this kind is lost by, each forced: one process is held at a point, the others play to their
ends, then it goes on. The seed says which race, at which point, and on which store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from random import Random
from typing import Final

from tests.trials.races.gate import FOR_EVER
from tests.trials.races.interleavings import Game, Held, Part, Table, table, took_chunks
from tests.trials.races.moves import STATES, Move
from tests.trials.races.templates import COUNT, Ledger
from tests.trials.races.witness import BASES, HIT
from tests.trials.recipe import Recipe

Race = Callable[[Random, Ledger], list[Part]]
"""What the processes play; the first is held."""


# States of which each is a little step from the one before it, and none is in a store to begin with.
_OF_A_LINE: Final = (STATES, STATES + 1, STATES + 2)


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
    """The base is the save before, which is dead when another takes the branch back. Nothing else is like it."""
    saver = Part("main", tuple(("commit", number, rng.choice(["auto", "small"])) for number in _OF_A_LINE))
    rest: tuple[Move, ...] = (("prune", 1), ("expire",), ("gc",), ("prune", 1), ("gc",))
    back: tuple[Move, ...] = (("reopen",), ("rollback", "HEAD~1"))
    return [saver, Part("main", (*back, *rest)) if rng.random() < 0.7 else Part("b", rest)]


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


def race_of(seed: int) -> str:
    """Which race it is that a seed tries."""
    return list(RACES)[seed % len(RACES)]


def game_of(seed: int, ledger: Callable[[int], Ledger], points: int | None = None) -> Game:
    """The race of a seed. points: of the process that is held, when nobody comes between; None: so it is played."""
    rng = Random(seed)
    name = race_of(seed)
    template = rng.randrange(COUNT)
    parts = RACES[name](rng, ledger(template))
    point = FOR_EVER if points is None else int(rng.random() * points)
    return Game(template, parts, Held(0, point), f"{name} (seed {seed}, point {point})")


def play(at: Table, seed: int) -> str:
    """Play the race of a seed one behind the other, to see how long it is, then as a race; returns what it came to."""
    points = at.play(game_of(seed, at.ledger))[0]
    game = game_of(seed, at.ledger, points)
    at.play(game)
    assert isinstance(game.turn, Held)
    came = ["held" if game.turn.was_held else "came to its end before"]
    came += ["gc took chunks"] * took_chunks(game)
    came += ["hit"] * any(game.seen[what] for what in HIT)
    came += ["base"] * any(game.seen[what] for what in BASES)
    return f"{race_of(seed)}: {', '.join(came)}"


def _trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    with table(folder) as at:
        for seed in seeds:
            yield Counter([play(at, seed)])


FORCED: Final = Recipe(
    name="forced-races",
    promises=("P2", "P5"),
    what="one process held between two of its transactions while others collect, revive, release or save",
    unit="interleavings",
    goal=20_000,
    trials=_trials,
)
