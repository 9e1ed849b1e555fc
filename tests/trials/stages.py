"""Works that something is to befall, each with a store that gives it much to do: made once, copied for each trial."""

from __future__ import annotations

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
    before, now = WORKS[work]
    model = tell(path, seed, before) if before else Model(seed)
    return model, act_for(model, now)


def tell(path: Path, seed: int, words: tuple[str, ...]) -> Model:
    """Make a store by a story of these words, closed at the end, in this process in small batches from now on."""
    small_batches()
    model = Model(seed)
    story = Story(path, model)
    for said in ("open", *words, *([] if words[-1] == "close" else ["close"])):
        story.do(act_for(model, said))
    return model
