"""Whether the shim sees every call that changes a file: trials that count on it prove nothing about one it misses."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from pathlib import Path

from casckpt.errors import CasckptError
from tests.native.faults import Faults
from tests.trials.model import Act, Model
from tests.trials.stages import WORKS, stage
from tests.trials.story import Story, small_batches
from tests.trials.warm import in_child


def denied(seed: int, folder: Path, unseen: str = "") -> Counter[str]:
    """One work whose calls fail from the first on, all of them: it can have changed nothing but what is mapped.

    What is changed all the same was changed by a call that the shim does not see. unseen: to make one, for the harness.
    """
    work = list(WORKS)[seed % len(WORKS)]
    path, model = stage(folder, work, seed // len(WORKS)).copy(folder / "run")
    in_child(_denied, path, model, stage(folder, work, seed // len(WORKS)).act, unseen)
    return Counter({f"{work} changed nothing": 1})


def _denied(path: Path, model: Model, act: Act, unseen: str) -> None:
    small_batches()
    story = Story(path, model)
    if act.name != "open":
        story.do(Act("open"))
    story.make_way(act)
    before = _files(path.parent)
    faults = Faults()
    faults.arm(path.parent, 1, errno.EIO)
    with contextlib.suppress(CasckptError):
        story.do(act)
    if unseen:
        with (path / "mark").open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 16)
    after = _files(path.parent)
    changed = [name for name in {**before, **after} if before.get(name, b"") != after.get(name, b"")]
    assert not changed, f"{act.name} changed {changed} by calls that are not seen"
    faults.disarm()


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes() if file.is_file() else b"a folder"
        for file in folder.rglob("*")
        if file.name != "lock.mdb"  # which is mapped
    }
