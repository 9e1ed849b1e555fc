"""A store's folder copied by a program that knows nothing of it, while others write: whoever opens the copy gets what
was saved, exactly, or is refused. Never another state, never a crash, never a hang."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Generator, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Final

from casckpt.errors import CasckptError
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit
from tests.trials.races.children import Child, family
from tests.trials.races.controls import CONTROLS
from tests.trials.races.moves import CHUNK, STATES, load, state
from tests.trials.recipe import Recipe

_PIECE: Final = 16384
# Copies that are made of one store.
_LIFE: Final = 25


def _write(pipe: Connection, path: str) -> None:
    """Commit, prune and collect, so often as it is told to; say each commit's id and state."""
    rng = Random(path)
    with History(open_store(path, chunk_size=CHUNK)) as history:
        while (times := pipe.recv()) is not None:
            made = []
            for _ in range(times):
                number = rng.randrange(STATES)
                made.append((commit(history, state(number), step=number, codec="auto").id, number))
                if rng.random() < 0.3:
                    history.prune(Keep(last=5))
                    history.expire_reflog()
                    history.gc()
            pipe.send(made)


def _examine(pipe: Connection, control: str | None) -> None:
    """Open each copy that is named, check it, and say what all its commits hold. control: what is broken in it."""
    if control is not None:
        CONTROLS[control]()
    while (path := pipe.recv()) is not None:
        pipe.send(_outcome(path))


def _outcome(path: str) -> tuple[str, dict[str, int]]:
    try:
        store = open_store(path, create=False)
    except CasckptError as error:
        return f"refused: {type(error).__name__}", {}
    with History(store) as history:
        found: dict[str, int] = {}
        told = ""
        try:
            for one in history.log(None):
                if not one.pruned:
                    _, held = load(history, one.id)
                    number = next((number for number in range(STATES) if state(number) == held), -1)
                    found[one.id] = number
        except CasckptError as error:
            told = type(error).__name__
        if history.fsck(read_data=True).ok:
            return ("opened: whole" if not told else f"fsck finds nothing, and {told}"), found
        return "opened: damaged, and fsck says so", found


def _copy(source: Path, target: Path, rng: Random, writer: Child, made: dict[str, int]) -> None:
    """As `cp -r` does it, but that commits come between any two pieces."""
    target.mkdir()
    names = ["data.mdb", "lock.mdb", "gate", "mark"]
    rng.shuffle(names)
    busy = rng.choice([0.0, 0.1, 0.5])
    for name in names:
        with (source / name).open("rb") as reading, (target / name).open("wb") as writing:
            while piece := reading.read(_PIECE):
                writing.write(piece)
                if rng.random() < busy:
                    writer.say(rng.randint(1, 3))
                    made.update(writer.hear())


def copies(seeds: Iterable[int], folder: Path, control: str | None = None) -> Generator[Counter[str], None, None]:
    """A copy for each seed, and what came of it. control: what is broken in whoever opens it."""
    path = folder / "store"
    made: dict[str, int] = {}
    with family() as child:
        writer: Child | None = None
        examiner = child("examiner", _examine, control)
        for count, seed in enumerate(seeds):
            if writer is None or count % _LIFE == 0:  # a log that grows makes it slow
                if writer is not None:
                    writer.say(None)
                    writer.end()
                    shutil.rmtree(path)
                writer = child("writer", _write, str(path))
                writer.say(20)
                made = dict(writer.hear())
            rng = Random(seed)
            copied = folder / "copy"
            _copy(path, copied, rng, writer, made)
            examiner.say(str(copied))
            outcome, found = examiner.hear()
            assert not outcome.startswith("fsck finds nothing"), f"seed {seed}: {outcome}"
            for oid, number in found.items():
                assert made[oid] == number, f"seed {seed}: commit {oid} of a copy holds another state"
            shutil.rmtree(copied)
            yield Counter([outcome])


COPIES: Final = Recipe(
    name="copied-folders",
    promises=("P3", "P6"),
    what="the folder copied by cp while others write: a copy is whole, or refused, or says that it is damaged",
    unit="copies",
    goal=20_000,
    trials=copies,
)
