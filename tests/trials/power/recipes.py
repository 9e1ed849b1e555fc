"""The recipes: stories are recorded, and at each of many moments of them power fails."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from tests.trials.power.images import moments, recorded, some_points, write_found
from tests.trials.power.worker import BrokenPromiseError, working
from tests.trials.recipe import Recipe

IMAGES: Final = 40
"""Of one story."""


@dataclass(frozen=True, slots=True)
class Stories:
    """Trials of one kind of story: each seed is one, recorded, with some images of it.

    tell, check: "module:name" of what is recorded, and of what looks at an image. acts: how much may be done in one.
    """

    tell: str
    check: str
    acts: tuple[int, ...]
    images: int = IMAGES

    def trials(self, seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
        """As `Recipe.trials`."""
        disk, image = folder / "disk", folder / "image"
        with working(folder, self.tell, self.check) as worker:
            for seed in seeds:
                random = Random(seed)
                found: Counter[str] = Counter()
                root, events = recorded(worker, self.tell, disk, seed, random.choice(self.acts))
                points = some_points(random, events, self.images)
                for moment in moments(root, events, points):
                    draw = random.getrandbits(32)
                    try:
                        found[write_found(worker, self.check, moment, seed, image, draw)] += 1
                    except BrokenPromiseError as error:
                        raise BrokenPromiseError(
                            f"seed {seed}, at {moment.point} of {len(events)}, in {moment.doing}, draw {draw}, "
                            f"left in {image}: {error}"
                        ) from error
                shutil.rmtree(disk)
                shutil.rmtree(f"{disk} of it", ignore_errors=True)  # what a story keeps off the disk
                yield found


STORE: Final = Stories("tests.trials.power.story:tell", "tests.trials.power.oracle:check", (2, 6, 12, 18))
ANEW: Final = Stories("tests.trials.power.story:tell_anew", "tests.trials.power.oracle:check", (1, 3))
WHOLE: Final = Stories("tests.trials.power.whole:tell", "tests.trials.power.whole:check", (12, 24))
EXPORTS: Final = Stories("tests.trials.power.exports:tell", "tests.trials.power.exports:check", (8, 16))

RECIPES = (
    Recipe(
        name="power-loss",
        promises=("P1", "P4"),
        what="power fails at any moment of commits, gc, prune, repack, compact, backup or the making of a store",
        unit="images",
        goal=100_000,
        trials=STORE.trials,
    ),
    Recipe(
        name="power-loss-anew",
        promises=("P1", "P4"),
        what="power fails while a store is made, and made anew where one was lost",
        unit="images",
        goal=5_000,
        trials=ANEW.trials,
    ),
    Recipe(
        name="power-loss-whole",
        promises=("P1", "P3", "P4"),
        what="power fails at any moment of all that a repository does: commits in flight, branches, expiry, thinning",
        unit="images",
        goal=10_000,
        trials=WHOLE.trials,
    ),
    Recipe(
        name="power-loss-exports",
        promises=("P1", "P4"),
        what="power fails at any moment of exports over what is there: safetensors, torch, npz, folders and shards",
        unit="images",
        goal=20_000,
        trials=EXPORTS.trials,
    ),
)
