"""casckpt itself, as a peer among the others."""

from __future__ import annotations

from pathlib import Path

import casckpt
from benchmarks.disk import usage
from benchmarks.peers.peer import Peer
from benchmarks.states import State


class CasckptStore(Peer):
    name = "casckpt"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._repo = casckpt.open(folder / "store")

    def save(self, state: State) -> None:
        self._repo.commit(state)

    def load(self) -> State:
        found: State = self._repo.load()
        return found

    def stored(self) -> int:
        return usage(self.folder)

    def close(self) -> None:
        self._repo.close()
        super().close()


def drop_past(repo: casckpt.Repository) -> None:
    """Release all commits but the newest and collect them, so that the store's file stays within a few states."""
    repo.prune(casckpt.Keep(last=1))
    repo.gc()
