"""Programs that acknowledge too early, or that need a certain thing of the disk: these must be found out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lmdb

from casckpt.store.environment import Environment
from casckpt.store.mark import Mark, move_mark
from tests.trials.power import story, whole
from tests.trials.power.story import Say


def tell_commits(folder: str, seed: int, say: Say) -> None:
    """Commits, compact, and commits that are in the new file alone."""
    story.small_batches()
    told = story.Story(Path(folder), seed, say)
    told.open()
    for what in ("commit", "commit", "compact", "commit", "tag", "commit"):
        told.act(what)
    told.close()


def tell_unsynced(folder: str, seed: int, say: Say) -> None:
    """A store that acknowledges what no sync has covered."""
    Environment.sync = lambda self: None  # type: ignore[method-assign]
    tell_commits(folder, seed, say)


def tell_lost_prune(folder: str, seed: int, say: Say) -> None:
    """A store that acknowledges a prune, and does nothing of it."""
    story.small_batches()
    told = story.Story(Path(folder), seed, say)
    told.open()
    for what in ("commit",) * 3:
        told.act(what)
    assert told.history is not None
    dropped = [one.id for one in told.history.log()][1:]
    told.say = lambda text: say(text.replace('"pruned": []', f'"pruned": {json.dumps(dropped)}'))
    told.acknowledged()
    told.say = say
    told.close()


def tell_whole_unsynced(folder: str, seed: int, say: Say) -> None:
    """A repository whose acts acknowledge what no sync has covered."""
    Environment.sync = lambda self: None  # type: ignore[method-assign]
    whole.tell(folder, seed, 8, say)


def tell_mark_first(folder: str, seed: int, say: Say) -> None:
    """A store whose mark moves before what it counts is on the disk."""

    def acknowledge(self: Environment, counter: int) -> None:
        move_mark(self.path / "mark", Mark(self.format.uuid, counter))
        self.sync()

    Environment._acknowledge = acknowledge  # type: ignore[method-assign]
    tell_commits(folder, seed, say)


def tell_lmdb(folder: str, seed: int, say: Say) -> None:
    """LMDB by itself, which writes its heads through a descriptor of their own, whose writes are lasting."""
    with lmdb.open(str(Path(folder) / "db"), map_size=1 << 24, lib_version=0) as raw:
        story.sync_folder(Path(folder) / "db")
        story.sync_folder(Path(folder))
        for number in range(8):
            with raw.begin(write=True) as transaction:
                transaction.put(b"%d" % number, b"%d" % number * 2000)
            say(json.dumps({"acknowledged": number + 1, "doing": None}))


def check_lmdb(folder: str, seed: int, acknowledged: Any, doing: Any, then: Any, draw: int) -> str:
    """Look at that."""
    if acknowledged is None:
        return "nothing"
    with (
        lmdb.open(str(Path(folder) / "db"), map_size=1 << 24, lib_version=0, create=False) as raw,
        raw.begin() as reader,
    ):
        for number in range(acknowledged):
            assert reader.get(b"%d" % number) == b"%d" % number * 2000, number
    return "all"
