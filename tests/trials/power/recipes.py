"""The recipes: stories are recorded, and at each of many moments of them power fails."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from tests.trials.power.disk import Obeyed
from tests.trials.power.image import write_image
from tests.trials.power.images import moments, recorded, some_points
from tests.trials.power.worker import BrokenPromiseError, working
from tests.trials.recipe import Recipe

IMAGES: Final = 40
"""Of one story."""


# What is imported late, where few need it: here every image does.
_LATE: Final = (
    *("diff", "fsck.check", "gc", "lineage", "listing", "narrow", "prune", "recode", "reinstate", "repack", "walk"),
    "counterpart",
)


@dataclass(frozen=True, slots=True)
class Stories:
    """Trials of one kind of story: each seed is one, recorded, with some images of it.

    tell, check: "module:name" of what is recorded, and of what looks at an image. obeyed: which syncs count. broken:
    whether a broken promise is counted and gone on after, as where syncs do not count; else it is raised.
    """

    tell: str
    check: str
    acts: tuple[int, ...]
    images: int = IMAGES
    obeyed: Obeyed = Obeyed()  # noqa: RUF009 - frozen
    broken: bool = False

    def trials(self, seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
        """As `Recipe.trials`."""
        disk, image = folder / "disk", folder / "image"
        modules = [named.partition(":")[0] for named in (self.tell, self.check)]
        modules += [f"casckpt.history.{name}" for name in _LATE] + ["casckpt.store.pages", "casckpt.store.upgrade"]
        with working(folder, *modules) as worker:
            for seed in seeds:
                random = Random(seed)
                found: Counter[str] = Counter()
                root, events = recorded(worker, self.tell, disk, seed, random.choice(self.acts))
                for moment in moments(root, events, some_points(random, events, self.images), self.obeyed):
                    draw = random.getrandbits(32)
                    image.mkdir()
                    write_image(moment.disk, Random(draw), image)
                    arguments = (moment.acknowledged, moment.doing, moment.then, draw)
                    try:
                        found[worker.ask(self.check, str(image), seed, *arguments)] += 1
                    except BrokenPromiseError as error:
                        if not self.broken:
                            raise BrokenPromiseError(
                                f"seed {seed}, at {moment.point} of {len(events)}, {moment.doing}, draw {draw}: {error}"
                            ) from error
                        found["broken"] += 1
                    shutil.rmtree(image)
                shutil.rmtree(disk)
                shutil.rmtree(f"{disk} of it", ignore_errors=True)  # what a story keeps off the disk
                yield found


STORE_STORIES: Final = Stories("tests.trials.power.story:tell", "tests.trials.power.oracle:check", (2, 6, 12, 18))
EXPORTS: Final = Stories("tests.trials.power.exports:tell", "tests.trials.power.exports:check", (8, 16))

RECIPES = (
    Recipe(
        name="power-loss",
        promises=("P1", "P4"),
        what="power fails at any moment of commits, gc, prune, repack, compact, backup or the making of a store",
        unit="images",
        goal=100_000,
        trials=STORE_STORIES.trials,
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
