"""Processes whose transactions on one store come in an order that the seed decides on; any of them can be made again.

Each stops before every transaction and after every commit, and goes on when it is told to.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from tests.trials.races.children import BrokenPromiseError, Child, family
from tests.trials.races.gate import FOR_EVER
from tests.trials.races.judge import judge, sole_writers
from tests.trials.races.moves import STATES, Move, play, state
from tests.trials.races.templates import COUNT, Ledger, copy, make
from tests.trials.recipe import Recipe

PLAYERS: Final = 4
# Moves whose last word is a revision, mostly an id, that may be gone.
_BY_ID: Final = frozenset({"load", "make", "tag", "rollback", "reinstate"})


@dataclass(frozen=True, slots=True)
class Part:
    """What one process plays: on a branch, so many moves."""

    branch: str
    moves: tuple[Move, ...]


@dataclass(slots=True)
class Game:
    """One game. turn: who goes next, of those who can, and how many points it may pass. doomed: who is killed, and at
    which of the points where it waits. seen: what the processes met of each other (`witness`)."""

    template: int
    parts: list[Part]
    turn: Callable[[list[int]], tuple[int, int]]
    name: str
    doomed: tuple[int, int] = (-1, 0)
    trace: list[str] = field(default_factory=list)
    outcomes: list[list[object]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def done(self) -> Iterator[tuple[int, Part, Move, object]]:
        """Every move that came to its end: of whom, and its outcome."""
        for number, (part, outcomes) in enumerate(zip(self.parts, self.outcomes, strict=True)):
            for move, outcome in zip(part.moves, outcomes, strict=False):
                yield number, part, move, outcome

    def in_flight(self) -> list[tuple[Part, Move]]:
        """Moves of which nobody knows whether they came about: of who was killed in one."""
        pairs = zip(self.parts, self.outcomes, strict=True)
        return [(part, part.moves[len(got)]) for part, got in pairs if len(got) < len(part.moves)]


class Table:
    """Processes that are kept from game to game, and the stores that games begin with."""

    def __init__(self, folder: Path, child: Callable[..., Child], control: str | None = None) -> None:
        self._folder = folder
        self._child = child
        self._control = control
        self._players = [child(f"player {number}", play, control) for number in range(PLAYERS)]
        self._ledgers = [make(folder / f"template {number}", number) for number in range(COUNT)]

    def ledger(self, template: int) -> Ledger:
        return self._ledgers[template].copy()

    def play(self, game: Game) -> list[int]:
        """Play a game to its end, and judge it; returns how many points each process passed.

        Raises:
            BrokenPromiseError: with all that was done.
        """
        path = self._folder / "store"
        copy(self._folder / f"template {game.template}", path)
        game.outcomes = [[] for _ in game.parts]
        try:
            points = self._run(game, path)
            self._judge(game, path)
        except AssertionError as error:
            parts = "\n".join(map(repr, game.parts))
            told = "\n".join(game.trace)
            raise BrokenPromiseError(f"{error}\n{game.name} on template {game.template}\n{parts}\n{told}") from error
        except Exception as error:  # casckpt's: the store is not what it should be
            told = "\n".join(game.trace)
            raise BrokenPromiseError(f"{type(error).__name__}: {error}\n{game.name}\n{told}") from error
        shutil.rmtree(path)
        return points

    def _run(self, game: Game, path: Path) -> list[int]:
        players = self._players[: len(game.parts)]
        for player, part in zip(players, game.parts, strict=True):
            player.say((str(path), part.branch, part.moves))
        points = [0] * len(players)
        waiting = [number for number in range(len(players)) if self._until_it_waits(game, number, points)]
        waits = Counter(waiting)
        while waiting:
            number, steps = game.turn(waiting)
            if (number, waits[number]) == game.doomed:
                self._players[number].kill()
                self._players[number] = self._child(f"another player {number}", play, self._control)
                game.trace.append(f"{number} was killed")
                waiting.remove(number)
                continue
            players[number].say(steps)
            waits[number] += 1
            if not self._until_it_waits(game, number, points):
                waiting.remove(number)
        return points

    def _until_it_waits(self, game: Game, number: int, points: list[int]) -> bool:
        """Whether it waits at a point, and is not at its end."""
        while True:
            said = self._players[number].hear(20)
            if said[0] == "at":
                game.trace.append(f"{number} at {said[1]}")
                return True
            if said[0] == "over":
                points[number] = said[1]
                game.seen.update(said[2])
                return False
            _, move, outcome = said
            game.outcomes[number].append(outcome)
            game.trace.append(f"{number} did {game.parts[number].moves[move]}: {str(outcome)[:100]}")

    def _judge(self, game: Game, path: Path) -> None:
        ledger = self.ledger(game.template)
        loaded: list[tuple[str, object]] = []
        uncertain: set[str] = set()
        refused: set[str] = set()
        last: dict[str, dict[str, str]] = {}
        alone = sole_writers({str(n): [(p.branch, move) for move in p.moves] for n, p in enumerate(game.parts)})
        deleted = {move[1] for part in game.parts for move in part.moves if move[0] == "delete"}
        for number, part, move, outcome in game.done():
            if isinstance(outcome, tuple) and outcome[0] == "refused":
                told = f"{number} was refused {move}: {outcome[1]}"
                assert outcome[1] != "RefMovedError" or alone.get(part.branch) != str(number), f"{told}, by nobody"
                if move[0] == "load" and outcome[1] == "UnknownRevisionError":
                    assert move[1] not in {"main", "a", "b"} - deleted, f"{told}, though the ref was there"
                if move[0] in _BY_ID and outcome[1] in ("PrunedCommitError", "UnknownRevisionError"):
                    refused.add(str(move[-1]))
                continue
            if move[0] == "commit":
                ledger.states[str(outcome)] = move[1]
            elif move[0] == "reinstate":
                ledger.states[str(outcome)] = ledger.states[move[1]]
            elif move[0] == "prune":
                assert isinstance(outcome, list)
                ledger.released.update(outcome)
            elif move[0] == "load":
                assert isinstance(outcome, tuple)
                loaded.append(outcome)
            if move[0] in ("commit", "reinstate", "rollback"):
                last.setdefault(str(number), {})[part.branch] = str(outcome)
        for part, move in game.in_flight():
            if move[0] == "commit":
                ledger.maybe.append(move[1])
            elif move[0] == "reinstate":
                ledger.maybe.append(ledger.states[move[1]])
            ledger.is_any_released |= move[0] == "prune"
            uncertain.add(str(move[1]) if move[0] in ("delete", "make") else part.branch)
        for oid, held in loaded:
            known = [ledger.states[oid]] if oid in ledger.states else ledger.maybe
            assert held in [state(one) for one in known], f"a reader saw commit {oid} with another state"
        tips = {branch: last[who][branch] for branch, who in alone.items() if branch in last.get(who, {})}
        tips = {branch: tip for branch, tip in tips.items() if branch not in uncertain}
        judge(path, ledger, tips, refused)


@contextmanager
def table(folder: Path, control: str | None = None) -> Generator[Table, None, None]:
    """A table to play at. control: what is broken in the players."""
    with family() as child:
        yield Table(folder, child, control)


# -- games by seed -----------------------------------------------------------------------------------------------------


def game_of(seed: int, ledger: Callable[[int], Ledger]) -> Game:
    """The game of a seed."""
    rng = Random(seed)
    template = rng.randrange(COUNT)
    known = ledger(template)
    roles = [_collector, rng.choice([_saver, _mover]), rng.choice([_saver, _mover, _reader])]
    if rng.random() < 0.5:
        roles.append(rng.choice([_saver, _mover, _reader, _collector]))
    parts = [role(rng, known) for role in roles]
    kind = rng.choice(["any order", "any order", "held"])
    if kind == "any order":
        mean = rng.choice([1, 2, 6])
        turn = partial(_any_order, rng, mean)
    else:
        held = rng.randrange(len(parts)) if rng.random() < 0.5 else 0
        turn = Held(held, rng.randrange(1, 60))
    doomed = (rng.randrange(len(parts)), rng.randrange(1, 12)) if rng.random() < 0.2 else (-1, 0)
    return Game(template, parts, turn, f"seed {seed}", doomed)


def _any_order(rng: Random, mean: int, waiting: list[int]) -> tuple[int, int]:
    return rng.choice(waiting), min(40, 1 + int(rng.expovariate(1 / mean)))


class Held:
    """One goes so far; then the others go, one after the other, to their ends; then it goes on.

    was_held: whether it had not come to its end by then.
    """

    def __init__(self, held: int, point: int) -> None:
        self._held = held
        self._point = point
        self._is_there = False
        self.was_held = False

    def __call__(self, waiting: list[int]) -> tuple[int, int]:
        if not self._is_there and self._held in waiting:
            self._is_there = True
            if self._point:
                return self._held, self._point
        others = [number for number in waiting if number != self._held]
        self.was_held |= self._held in waiting and bool(others)
        return (others[0] if others else self._held), FOR_EVER


_CODECS: Final = ("none", "fast", "auto", "auto", "small")


def _saver(rng: Random, known: Ledger) -> Part:
    moves: list[Move] = []
    for _ in range(rng.randint(1, 3)):
        moves.append(("commit", rng.randrange(STATES), rng.choice(_CODECS)))
        if rng.random() < 0.2:
            moves.append(("rollback", rng.choice(["HEAD~1", "HEAD@{1}", rng.choice(known.dead)])))
    return Part(rng.choice(["main", "a", "b"]), tuple(moves))


def _mover(rng: Random, known: Ledger) -> Part:
    moves: list[Move] = []
    for number in range(rng.randint(1, 4)):
        target = rng.choice([*known.dead, *known.states])
        at = rng.choice([target, target, "main@{1}", "a", "a~1", "b~2"])
        moves.append(
            rng.choice(
                [
                    ("make", f"made {number}".replace(" ", "-"), at),
                    ("tag", f"named-{number}", at),
                    ("delete", rng.choice(["a", "b"])),
                    ("rollback", at),
                    ("reinstate", target),
                    ("expire",),
                    ("expire", rng.choice([1, 24, 600])),
                ]
            )
        )
    return Part(rng.choice(["main", "a", "b"]), tuple(moves))


def _reader(rng: Random, known: Ledger) -> Part:
    choices: list[Move] = [("log",), ("fsck",), ("reopen",)]
    moves = [
        rng.choice([*choices, *[("load", rng.choice([*known.dead, *known.states, "main", "a", "b"]))] * 5])
        for _ in range(rng.randint(1, 3))
    ]
    return Part("main", tuple(moves))


def _collector(rng: Random, known: Ledger) -> Part:
    moves: list[Move] = []
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.5:
            moves.append(("prune", rng.randint(1, 3)))
        if rng.random() < 0.3:
            moves.append(("expire",))
        moves.append(rng.choice([("gc",), ("gc",), ("gc",), ("repack", rng.choice(_CODECS)), ("compact",)]))
    return Part("main", tuple(moves))


def _trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    with table(folder) as at:
        for seed in seeds:
            game = game_of(seed, at.ledger)
            at.play(game)
            yield Counter([label(game)])


def took_chunks(game: Game) -> bool:
    """Whether a gc of it deleted chunks."""
    took = [outcome for _, _, move, outcome in game.done() if move[0] == "gc" and isinstance(outcome, tuple)]
    return any(outcome[0] != "refused" and outcome[1] for outcome in took)


def label(game: Game) -> str:
    """What a game came to, in a few words."""
    done = [(move[0], outcome) for _, _, move, outcome in game.done()]
    refused = sorted({outcome[1] for _, outcome in done if isinstance(outcome, tuple) and outcome[0] == "refused"})
    took = took_chunks(game)
    killed = "one was killed; " if game.in_flight() else ""
    return f"{killed}gc {'took chunks' if took else 'had nothing to take, or was not asked'}; " + (
        "all went through" if not refused else f"refused: {refused[0]}" + (" and others" if len(refused) > 1 else "")
    )


INTERLEAVINGS: Final = Recipe(
    name="interleavings",
    promises=("P2", "P5"),
    what="saves, refs, reads, prune, gc, repack and compact of several processes, in an order that the seed decides on",
    unit="interleavings",
    goal=20_000,
    trials=_trials,
)
