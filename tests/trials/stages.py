"""Works that something is to befall, each with a store that gives it much to do: made once, copied for each trial."""

from __future__ import annotations

import ctypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.trials.model import Act, Model
from tests.trials.story import Story, small_batches
from tests.trials.warm import in_child

DELTAS = ("commit auto",) * 4
# By name: what was done before, and what is done now.
WORKS: dict[str, tuple[tuple[str, ...], str]] = {
    "save": (("commit auto", "commit none"), "commit auto"),
    "gc": ((*DELTAS, "switch to new", "commit auto", "switch main", "delete", "expire", "prune"), "gc"),
    "compact": ((*DELTAS, "prune", "gc"), "compact"),
    "repack": (("commit none",) * 3, "repack small"),
    "create": ((), "open"),
    "save behind": (("commit none",), "commit behind"),
    "prune": (DELTAS, "prune"),
    "thin": (DELTAS, "thin"),
    "rollback": (DELTAS, "rollback"),
    "switch to new": (("commit none",), "switch to new"),
    "branch": (("commit none",) * 2, "branch"),
    "tag": (("commit none",) * 2, "tag"),
    "delete": (("commit none", "switch to new", "switch main"), "delete"),
    "expire": (("commit none",) * 2, "expire"),
    "backup": ((*DELTAS, "backup"), "backup"),
    "export": ((*DELTAS, "export"), "export"),
    "close": (("commit none",), "close"),
    "open": (("commit none", "close"), "open"),
}


def act_for(model: Model, said: str) -> Act:
    """What a word of `WORKS` means now."""
    name, _, how = said.partition(" ")
    if said == "commit behind":
        return Act(said, step=model.next, count=2, codec="auto")
    if name == "commit":
        return Act(name, step=model.next, codec=how)
    if said in ("switch to new", "switch main"):
        return Act("switch", ref="main") if how == "main" else Act(said, ref="other")
    if name == "delete":
        return Act("delete branch", ref="other")
    if name in ("branch", "tag"):
        return Act(name, at=model.next - 2, ref="other")
    if name in ("rollback", "export"):
        return Act(name, at=model.next - 2)
    if name == "repack":
        return Act(name, codec=how)
    return Act(name, keep=1)


@dataclass(frozen=True, slots=True)
class Stage:
    """A store that lies ready in `folder`, its model, and what is to be done."""

    folder: Path
    model: Model
    act: Act

    def copy(self, folder: Path) -> tuple[Path, Model]:
        """The store again, as "store" in a folder that is made anew, with a model of its own."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder)
        return folder / "store", self.model.copy()


_made: dict[tuple[Path, str, int], Stage] = {}


def stage(folder: Path, work: str, seed: int) -> Stage:
    """The one for a work; made when it is first asked for. seed: of its states and settings."""
    key = folder, work, seed
    if key not in _made:
        own = folder / f"{work} {seed}".replace(" ", "-")
        own.mkdir()
        for other in [old for old in _made if old[0] == folder and old[2] != seed]:
            shutil.rmtree(_made.pop(other).folder)
        _made[key] = Stage(own, *in_child(_make, own / "store", work, seed))
    return _made[key]


def _make(path: Path, work: str, seed: int) -> tuple[Model, Act]:
    small_batches()
    model = Model(seed)
    before, now = WORKS[work]
    if before:
        story = Story(path, model)
        for said in ("open", *before, *([] if before[-1] == "close" else ["close"])):
            story.do(act_for(model, said))
    return model, act_for(model, now)


class Faults:
    """The library built of `tests/native/faults.c`, under which this process runs."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_met.restype = ctypes.c_char_p
        for counted in (self._library.fault_count, self._library.fault_unsynced, self._library.fault_resynced):
            counted.restype = ctypes.c_long

    def arm(self, folder: Path, n: int, what: int, times: int = 1 << 30) -> None:
        """From now on, what befalls the n-th call that changes something in the folder, and so many in all."""
        self._library.fault_arm_times(os.fsencode(folder), ctypes.c_long(n), what, ctypes.c_long(times))

    def disarm(self) -> None:
        self._library.fault_disarm()

    @property
    def count(self) -> int:
        """How many calls there were."""
        return int(self._library.fault_count())

    @property
    def met(self) -> str:
        """The first call that something befell: its name, and the path of its file; empty while none has come."""
        return os.fsdecode(self._library.fault_met())

    @property
    def unsynced(self) -> int:
        """How many syncs failed, but for those that were interrupted."""
        return int(self._library.fault_unsynced())

    @property
    def resynced(self) -> int:
        """How many syncs came to a good end of a file of which one had failed before: they bring nothing back."""
        return int(self._library.fault_resynced())
