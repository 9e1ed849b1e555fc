"""What a program does to a store while power may fail: it says what it is about to do, and then what is acknowledged.

Every state is told by its number, so that whoever finds it later knows what must be in it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from casckpt.history import ingest
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.store import compact
from casckpt.store.filesystem import sync_folder
from casckpt.store.lmdb_store import open_store
from tests.history.world import State, commit

STORE: Final = "runs/store"
CHUNK: Final = 1024
Say = Callable[[str], None]


def state(seed: int, number: int) -> State:
    """The state of a number: some of it never changes, some drifts, some is new each time, now more and now less."""
    random = Random(f"{seed} {number}")
    drifting = bytearray(Random(seed).randbytes(12_000))
    drifting[:: 1 + number % 5] = bytes([(byte + number) & 255 for byte in drifting[:: 1 + number % 5]])
    return {
        "model": {"frozen": Random(-seed - 1).randbytes(6_000), "drifting": bytes(drifting), "step": b"%d" % number},
        "optimizer": {"new": random.randbytes(random.choice((0, 300, 2_000, 20_000)))},
    }


def small_batches() -> None:
    """Have what goes through in one transaction for a store of this size go through in several."""
    ingest.SAVE_BATCH = 8 << 10
    compact._BATCH_ENTRIES = 16


@dataclass
class Story:
    """One program at work in `folder`. acts: of what to do how often, by name."""

    folder: Path
    seed: int
    say: Say

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.number = 0
        self.backups: dict[str, str | None] = {}
        self.history: History | None = None

    def begins(self, what: str, **more: Any) -> None:
        """Say what may be found done from now on."""
        self.say(json.dumps({"doing": {"what": what, **more}}))

    def acknowledged(self, revision: str | None = None) -> None:
        """Say what must be found from now on: all that can be reached, or what a revision leads to."""
        history = self.history
        assert history is not None
        tip = history._tip
        found = {
            "tip": None if tip is None else tip.hex(),
            "kept": {one.id: one.step for one in history.log(revision) if not one.pruned},
            "pruned": [one.id for one in history.log(None) if one.pruned],
            "tags": {ref.name: ref.commit for ref in history.refs() if ref.kind == "tag"},
            "backups": self.backups,
            "next": self.number + 1,
        }
        self.say(json.dumps({"acknowledged": found, "doing": None}))

    def open(self, *, accept_loss: bool = False) -> None:
        """Open the store, which is made if absent."""
        self.begins("anew" if accept_loss else "open")
        store = open_store(self.folder / STORE, chunk_size=CHUNK, codec="auto", accept_loss=accept_loss)
        self.history = History(store)
        self.acknowledged()

    def close(self) -> None:
        """Close it: nothing is lost by that, and nothing gained."""
        self.begins("close")
        assert self.history is not None
        self.history.close()
        self.history = None

    def act(self, what: str) -> None:
        """Do one thing to the open store."""
        history = self.history
        assert history is not None
        getattr(self, f"_{what}")(history)
        self.acknowledged()

    def _commit(self, history: History) -> None:
        self.number += 1
        self.begins("commit", step=self.number)
        codec = self.random.choice(("none", "auto", "auto"))
        commit(history, state(self.seed, self.number), f"at {self.number}", step=self.number, codec=codec)

    def _reinstate(self, history: History) -> None:
        """A commit of one transaction."""
        kept = [one for one in history.log() if not one.pruned]
        chosen = self.random.choice(kept)
        self.begins("commit", step=chosen.step)
        history.reinstate(chosen.id)

    def _rollback(self, history: History) -> None:
        kept = [one for one in history.log() if not one.pruned]
        chosen = self.random.choice(kept[:4])
        self.begins("rollback", to=chosen.id)
        history.rollback(chosen.id)

    def _tag(self, history: History) -> None:
        name = f"v{len(history.refs())}"
        self.begins("tag", name=name)
        history.tag(name)

    def _prune(self, history: History) -> None:
        keep = Keep(last=self.random.randint(1, 3), every_steps=self.random.choice((None, 3)))
        dropped = [one.id for one in history.prune(keep, dry_run=True).pruned]
        self.begins("prune", commits=dropped)
        history.prune(keep)

    def _gc(self, history: History) -> None:
        self.begins("gc")
        if self.random.random() < 0.5:
            history.expire_reflog()
        history.gc()

    def _repack(self, history: History) -> None:
        self.begins("repack")
        history.repack(codec=self.random.choice(("none", "fast", "small")))

    def _compact(self, history: History) -> None:
        self.begins("compact")
        history.compact()

    def _backup(self, history: History) -> None:
        place = f"backups/{self.number}/{len(self.backups)}"
        tip = None if history._tip is None else history._tip.hex()
        self.begins("backup", place=place, tip=tip)
        history.backup(self.folder / place)
        self.backups[place] = tip

    def _gc_beside_commits(self, history: History) -> None:
        failed: list[BaseException] = []

        def collect() -> None:
            try:
                history.gc()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            for _ in range(2):
                self._commit(history)
                self.acknowledged()
        finally:
            thread.join()
        if failed:
            raise failed[0]

    def _commit_beside_another(self, history: History) -> None:
        """Another process commits to a branch of its own, and says nothing of it until it has ended."""
        if "side" not in [ref.name for ref in history.refs()]:
            self.begins("branch")
            history.branch("side")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with History(open_store(self.folder / STORE, create=False), branch="side") as other:
                    for number in range(1000 + self.number, 1003 + self.number):
                        commit(other, state(self.seed, number), "beside", step=number, codec="auto")
                code = 0
            finally:
                os._exit(code)
        for _ in range(2):
            self._commit(history)
            self.acknowledged("HEAD")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


ACTS: Final = {
    "commit": 10,
    "reinstate": 1,
    "rollback": 1,
    "tag": 1,
    "prune": 2,
    "gc": 3,
    "repack": 2,
    "compact": 3,
    "backup": 1,
    "gc_beside_commits": 1,
    "commit_beside_another": 1,
}


def tell_anew(folder: str, seed: int, acts: int, say: Say) -> None:
    """The same, of a store that is begun anew where one has lost its data file: its mark is there still."""
    small_batches()
    story = Story(Path(folder), seed, say)
    for anew in (False, True):
        story.open(accept_loss=anew)
        for _ in range(acts):
            story.act("commit")
        story.close()
        if not anew:
            say(json.dumps({"acknowledged": None, "doing": {"what": "anew"}}))
            (Path(folder) / STORE / "data.mdb").unlink()
            sync_folder(Path(folder) / STORE)


def tell(folder: str, seed: int, acts: int, say: Say) -> None:
    """Make a store, do so many things to it, and open it anew now and then."""
    small_batches()
    story = Story(Path(folder), seed, say)
    story.open()
    for number in range(acts):
        story.act("commit" if number < 2 else story.random.choices([*ACTS], [*ACTS.values()])[0])
        if story.random.random() < 0.1:
            story.close()
            story.open()
    story.close()
