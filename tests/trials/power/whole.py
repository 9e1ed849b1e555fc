"""The stories of `tests/trials/story.py`, of all that a repository does, commits in flight among it: power fails.

What is found is held against the model of what was acknowledged: refs, HEAD, the reflog, released parts, every state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.trials import oracle
from tests.trials.model import Model
from tests.trials.power.story import STORE, Say
from tests.trials.story import Story, small_batches

CAME_ABOUT = ("one newer", "two newer")


def tell(folder: str, seed: int, acts: int, say: Say) -> None:
    """So many acts of a story, each announced and acknowledged with all that came before it."""
    torch.set_num_threads(1)
    small_batches()
    model = Model(seed)
    heard: list[str] = []

    def hear(line: bytes) -> None:
        heard.append(line.decode())
        act = model.doing
        assert act is not None
        if len(heard) % 2:
            say(json.dumps({"doing": {"what": act.name, "line": heard[-1]}}))
        else:
            say(json.dumps({"acknowledged": heard, "doing": None}))

    story = Story(Path(folder) / STORE, model, hear)
    story.go_on(acts)
    if story.handle is not None:
        story.handle.close()


def check(
    folder: str, seed: int, acknowledged: list[str] | None, doing: dict[str, Any] | None, then: Any, draw: int
) -> str:
    """Look at a disk, and go on with its store.

    Raises:
        AssertionError: a promise is broken.
    """
    torch.set_num_threads(1)
    small_batches()
    model = Model(seed)
    for line in [*(acknowledged or ()), *([] if doing is None else [doing["line"]])]:
        model.hear(line.encode())
    said = oracle.check(Path(folder) / STORE, model)
    return f"in {'nothing' if doing is None else doing['what']}: {said}{', done' * (said in CAME_ABOUT)}"
