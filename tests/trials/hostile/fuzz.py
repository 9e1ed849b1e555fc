"""Mutation fuzzing: each seed is a batch of cases on one target, the targets in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import chdir, suppress
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.trials.hostile import files, objects, records, texts
from tests.trials.hostile.child import Case, in_child
from tests.trials.hostile.mutate import mutated
from tests.trials.hostile.target import Target
from tests.trials.recipe import Recipe

GROUPS: Final[dict[str, Sequence[Target]]] = {
    "objects": objects.TARGETS,
    "records": records.TARGETS,
    "texts": texts.TARGETS,
    "files": files.TARGETS,
}
TARGETS: Final = tuple([(group, target) for group, found in GROUPS.items() for target in found])
# Cases of one seed: a target that works on files is some ten times as slow.
_BATCH, _FILES_BATCH = 500, 60


class BrokenError(Exception):
    """A case that broke the promise."""


def warm(targets: Iterable[Target], folder: Path) -> None:
    """Have everything imported and made that children need, since they may not."""
    with chdir(folder):
        for target in targets:
            for seed in target.seeds():
                with suppress(*target.allowed):
                    target.parse(seed)


def batch_of(target: Target) -> int:
    """How many cases of a target are one batch."""
    return _FILES_BATCH if target.files else _BATCH


def cases(target: Target, seed: int) -> Iterable[bytes]:
    """The cases of a batch: the same for the same seed."""
    random = Random(f"{target.name} {seed}")
    seeds = target.seeds()
    return (mutated(random, target, seeds) for _ in range(batch_of(target)))


def tried(target: Target, data: bytes) -> bool:
    """Whether a parser takes an input; False where it refuses it as it should.

    Raises:
        BrokenError: anything else became of it.
    """
    try:
        target.parse(data)
    except target.allowed:
        return False
    except BaseException as error:
        raise BrokenError(f"{type(error).__name__}: {error}, of {data.hex()}") from error
    return True


def _batch(target: Target, seed: int, case: Case) -> dict[str, int]:
    found: Counter[str] = Counter()
    for number, data in enumerate(cases(target, seed)):
        case.begin(number)
        found["taken" if tried(target, data) else "refused"] += 1
    return found


def trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    """Mutations of what parsers take, in children that may neither write, nor run anything, nor take much memory."""
    warm((target for _, target in TARGETS), folder)
    for seed in seeds:
        group, target = TARGETS[seed % len(TARGETS)]
        yield outcome(group, target, seed, folder)


def outcome(group: str, target: Target, seed: int, folder: Path) -> Counter[str]:
    """One batch."""
    try:
        found: dict[str, Any] = in_child(lambda case: _batch(target, seed, case), folder)
    except AssertionError as error:
        raise AssertionError(f"target {target.name}, seed {seed}, {error}") from error
    for left in folder.iterdir():
        left.unlink()
    return Counter({f"{group}: {how}": count for how, count in found.items()})


MUTATIONS: Final = Recipe(
    "hostile-mutations",
    ("P3", "P6"),
    "every parser of untrusted bytes or text on mutated input, its checksums put right; only casckpt's errors come out",
    "cases",
    10_000_000,
    trials,
)
