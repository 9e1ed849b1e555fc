"""Whole stores that are made to harm, and every command that reads on them: it ends, in time and in memory, with an
answer or one of casckpt's errors, and says nothing that a terminal would obey."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import torch

import casckpt
from casckpt.cli import main
from casckpt.cli.failures import UNEXPECTED
from casckpt.errors import CasckptError
from casckpt.history.repository import History
from casckpt.limits import MIB
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit
from tests.trials.hostile.child import Case, in_child
from tests.trials.hostile.planted import PLANTS, Planter
from tests.trials.recipe import Recipe

# What a state that repeats itself as often as it may takes, and a node that is as long as it may be.
MEMORY: Final = 3072 * MIB

COMMANDS: Final = tuple(
    line.split()
    for line in """
    log
    log --json -n 0
    log --all
    show
    show --json
    show main~1
    ls
    ls --json
    ls *x --sort size
    ls --depth 2
    diff main~1 main
    diff --json main~1 main
    diff main~1 main *w*
    status
    status --json
    stats
    stats --json --by-commit
    stats --codec
    branch
    tag --json
    reflog
    reflog --json
    config
    fsck
    fsck --read-data --json
    prune --keep-last 1 --dry-run
    prune --keep-every-steps 10 --keep-best loss:min --dry-run --json
    gc --dry-run
    export main out.safetensors --overwrite
    export main out.npz --overwrite
    export main out.pt --overwrite
    rollback main~1 --dry-run
    repack
    gc
    compact
    fsck
    """.strip().splitlines()
)
Repo = Any


def _restore(repo: Repo) -> None:
    repo.restore({"model": {"w": torch.zeros(4)}}, "main", strict=False)


def _lazily(repo: Repo) -> None:
    for leaf in repo.ls("main")[:20]:
        with suppress(CasckptError):
            repo.open_tensor("main", leaf.path)[:2]


CALLS: Final[dict[str, Callable[[Repo], object]]] = {
    "load": lambda repo: repo.load("main"),
    "load a part": lambda repo: repo.load("main", paths=["*w*"]),
    "restore": _restore,
    "open tensors": _lazily,
}


def _look(seed: int, case: Case) -> dict[str, int]:
    random = Random(seed)
    names = names_of(random)
    _make(random, names)
    found: Counter[str] = Counter()
    for number, words in enumerate(COMMANDS):
        case.begin(number)
        found["refused" if _command(words, names) else "done"] += 1
    for number, name in enumerate(CALLS, len(COMMANDS)):
        case.begin(number)
        found["refused" if _call(name, names) else "done"] += 1
    return found


def names_of(random: Random) -> list[str]:
    """What is planted in a store."""
    return random.sample(sorted(PLANTS), random.choice((1, 1, 2)))


def _make(random: Random, names: Iterable[str]) -> None:
    with History(open_store("store", chunk_size=4096)) as history:
        commit(history, {"model": {"w": b"w" * 9000}}, step=0, metrics={"loss": 1.0})
        with history.store.write(durable=True, room=None) as writer:
            planter = Planter(history, writer)
            for name in names:
                PLANTS[name](planter, random)


def _command(words: list[str], names: list[str]) -> bool:
    """Whether a command ended by refusing."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["-C", "store", *words])
    said = f"{' '.join(words)}, of {names}: {code}\n"
    assert code != UNEXPECTED, said + err.getvalue()
    for text in (out.getvalue(), err.getvalue()):
        obeyed = {char for char in text if not char.isprintable() and char != "\n"}
        assert not obeyed, said + f"{obeyed} in {text[:4000]!r}"
    return code != 0


def _call(name: str, names: list[str]) -> bool:
    with casckpt.open("store", create=False) as repo:
        try:
            CALLS[name](repo)
        except CasckptError:
            return True
        except Exception as error:
            raise AssertionError(f"{name}, of {names}") from error
    return False


def trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    """A store with one or two harmful things in it for each seed; all commands on it."""
    _warm(folder)
    for seed in seeds:
        try:
            found: dict[str, int] = in_child(lambda case, seed=seed: _look(seed, case), folder, memory=MEMORY)  # type: ignore[misc]
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        finally:
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield Counter({f"commands {how}": count for how, count in found.items()})


def _warm(folder: Path) -> None:
    """Have every command imported, which children may not do."""
    from importlib import import_module

    from casckpt.cli.app import COMMANDS as MODULES

    for name in MODULES:
        import_module(f"casckpt.cli.commands.{name}")
    with casckpt.open(folder / "warm") as repo:
        repo.commit({"model": {"w": torch.ones(3)}})
        for words in COMMANDS:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                main(
                    [
                        "-C",
                        str(folder / "warm"),
                        *[str(folder / word) if word.startswith("out.") else word for word in words],
                    ]
                )
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


STORES: Final = Recipe(
    "hostile-stores",
    ("P3", "P6"),
    "stores of well-formed ids and harmful contents; every command that reads, and load, on each",
    "commands",
    1_000_000,
    trials,
)
