"""One recipe's turn, in a process of its own: trials from a seed on until the time is up, told line by line.

Each line is JSON: a seed that is done with the outcomes since the line before it, or the seed at which a promise was
broken and how. Whoever reads it can tell a turn that hangs by its silence; the seed that it is at stands in a file.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.longrun.recipes import all_recipes

IN_HAND: Final = "seed"
"""The file, in the folder of a turn, that holds the seed which it is at: 8 bytes, big-endian."""

# A line for each trial would be most of the work where trials are small.
_PAUSE = 0.5


def take_turn(package: str, name: str, first: int, most: int, seconds: float, folder: Path) -> None:
    """Try seeds from `first` on, until so many seconds or units have gone by.

    most: units after which the recipe's goal is reached.
    """
    end = time.monotonic() + seconds
    own = folder / "own"
    own.mkdir()
    seed, units, outcomes = first - 1, 0, Counter[str]()
    said = time.monotonic()
    _say(ready=True)
    try:
        with closing(all_recipes(package)[name].trials(_noted(first, folder / IN_HAND), own)) as trials:
            for outcome in trials:
                seed += 1
                units += outcome.total()
                outcomes.update(outcome)
                now = time.monotonic()
                if now > said + _PAUSE or now > end or units >= most:
                    _say(seed=seed, outcomes=outcomes)
                    said, outcomes = now, Counter()
                if now > end or units >= most:
                    break
    except BaseException:
        _say(seed=seed, outcomes=outcomes)
        _say(seed=seed + 1, broken=traceback.format_exc())


def _noted(first: int, path: Path) -> Iterator[int]:
    """Seeds from `first` on, each written down before it is tried."""
    with path.open("wb", buffering=0) as file:
        for seed in itertools.count(first):
            os.pwrite(file.fileno(), seed.to_bytes(8, "big"), 0)
            yield seed


def _say(**what: object) -> None:
    print(json.dumps(what), file=_out, flush=True)


if __name__ == "__main__":
    # What a recipe or its children print must not get between the lines.
    _out = os.fdopen(os.dup(1), "w")
    os.set_inheritable(_out.fileno(), False)
    os.dup2(2, 1)
    _package, _name, _first, _most, _seconds, _folder = sys.argv[1:]
    take_turn(_package, _name, int(_first), int(_most), float(_seconds), Path(_folder))
