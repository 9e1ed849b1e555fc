"""What a process of an interleaving does to the store: move after move, each with an outcome that can be judged.

Runs in children. Every refusal must be one that its move may meet; anything else breaks a promise.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from datetime import timedelta
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any, Final

from casckpt.errors import CasckptError
from casckpt.history.ingest import Ingest
from casckpt.history.records import check_not_pruned, get_mark
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import expand, shallow
from casckpt.store.lmdb_store import open_store
from tests.history.world import State, describe, drifted, noise, put_state
from tests.trials.races.controls import CONTROLS
from tests.trials.races.gate import FOR_EVER, Gate
from tests.trials.races.witness import witness

CHUNK: Final = 512
STATES: Final = 12

Move = tuple[Any, ...]
"""A name, and what belongs to it."""

# What a move may be refused with, by whoever was faster.
MAY_BE: Final[dict[str, frozenset[str]]] = {
    "commit": frozenset({"RefMovedError"}),
    "gc": frozenset({"StoreBusyError"}),
    "repack": frozenset({"StoreBusyError"}),
    "compact": frozenset({"StoreBusyError"}),
    "prune": frozenset(),
    "make": frozenset({"RefExistsError", "PrunedCommitError", "UnknownRevisionError"}),
    "tag": frozenset({"RefExistsError", "PrunedCommitError", "UnknownRevisionError"}),
    "delete": frozenset({"RefNotFoundError", "RefError"}),
    "rollback": frozenset({"RefMovedError", "PrunedCommitError", "UnknownRevisionError"}),
    "reinstate": frozenset({"RefMovedError", "PrunedCommitError", "UnknownRevisionError", "ReleasedPartError"}),
    "expire": frozenset(),
    "load": frozenset({"PrunedCommitError", "UnknownRevisionError"}),
    "log": frozenset(),
    "fsck": frozenset(),
    "reopen": frozenset(),
}


@lru_cache(maxsize=STATES)
def state(number: int) -> State:
    """One of the few states that all processes commit: each a little step from the one before it, but for every fifth.

    They are few so that much of what is saved is there already, or was.
    """
    if number % 5 == 0:
        return {"model": {"w": noise(number, 1300)}, "optimizer": {"m": noise(-number - 1, 1100)}}
    before = state(number - 1)
    return {
        "model": {"w": drifted(before["model"]["w"], number)},
        "optimizer": before["optimizer"] if number % 2 else {"m": drifted(before["optimizer"]["m"], -number)},
    }


class Player:
    """A process's hand on the store."""

    def __init__(self, path: str, branch: str, gate: Gate) -> None:
        self._path = path
        self._branch = branch
        self._gate = gate
        self._history = self._open()

    def _open(self) -> History:
        return History(open_store(self._path, create=False), self._branch)

    def close(self) -> None:
        self._history.close()

    def do(self, move: Move) -> object:
        """What came of it; raises what the move may not meet."""
        try:
            return getattr(self, f"_{move[0]}")(*move[1:])
        except CasckptError as error:
            if type(error).__name__ in MAY_BE[move[0]]:
                return ("refused", type(error).__name__)
            raise

    def _commit(self, number: int, codec: str) -> str:
        history = self._history
        parent = history._tip
        with Ingest(history.store, history.scheme) as ingest:
            tree, total = put_state(ingest, history, state(number), parent, codec)
            described = describe(history, tree, parent, "", number)
            history._tip, _ = ingest.publish(described, expected=parent, logical=total)
        return history._tip.hex()

    def _gc(self) -> tuple[int, int]:
        report = self._history.gc()
        return report.commits, report.chunks

    def _repack(self, codec: str) -> int:
        return self._history.repack(codec=codec).reencoded_chunks

    def _compact(self) -> int:
        return self._history.compact().after

    def _prune(self, last: int) -> list[str]:
        return [one.id for one in self._history.prune(Keep(last=last)).pruned]

    def _make(self, name: str, at: str) -> str:
        return self._history.branch(name, at=at).id

    def _tag(self, name: str, at: str) -> str:
        return self._history.tag(name, at=at).id

    def _delete(self, name: str) -> None:
        self._history.delete_branch(name)

    def _rollback(self, to: str) -> str:
        return self._history.rollback(to).id

    def _reinstate(self, what: str) -> str:
        return self._history.reinstate(what).id

    def _expire(self, hours: int | None = None) -> int:
        return self._history.expire_reflog(older_than=None if hours is None else timedelta(hours=hours))

    def _log(self) -> int:
        return len(list(self._history.log(None)))

    def _reopen(self) -> None:
        self._history.close()
        self._history = self._open()

    def _fsck(self) -> int:
        report = self._history.fsck(read_data=True)
        assert report.ok, report.findings
        return 0

    def _load(self, revision: str) -> tuple[str, State]:
        return load(self._history, revision, self._gate)


def load(history: History, revision: str, gate: Gate | None = None) -> tuple[str, State]:
    """A commit as one transaction shows it, its id and what it holds. gate: passed before each chunk."""

    def work(commits: Any) -> tuple[str, State]:
        objects = commits.objects
        oid = history._resolve(commits, revision)
        check_not_pruned(objects.reader, oid)
        assert not get_mark(objects.reader, oid).released
        found: dict[str, dict[str, bytes]] = {}
        for part, value in shallow(objects.tree(commits.stored(oid).tree), objects.tree).entries:
            found[part] = {}
            for name, record in expand(value, objects.tree).entries:
                run = bytearray(record.storage if isinstance(record.storage, bytes) else b"")
                if isinstance(record.storage, NodeRef):
                    for chunk in objects.node(record.storage.id).ids():
                        if gate is not None:
                            gate.point("chunk")
                        run += objects.chunk(chunk)
                found[part][name] = bytes(run)
        return oid.hex(), found

    return history.reading(work)


def _set_clock_back_and_forth() -> None:
    """Have the clock that dates commits and moves jump by up to a month, from each look to the next."""
    real, hours = time.time_ns, itertools.cycle([0, -700, 3, 700, -48, 0, -1, 30])
    time.time_ns = lambda: real() + next(hours) * 3600 * 10**9


def play(pipe: Connection, control: str | None) -> None:
    """Play one game after the other until there is none: each a path, a branch and moves, which stop at every point."""
    from casckpt.history import gc

    gc.GC_LOCK_HELD, gc._STRIDE, gc.GC_REST = 0.0, 1, 0.0
    gate = Gate(pipe)
    gate.install()
    seen: Counter[str] = Counter()
    witness(seen)
    _set_clock_back_and_forth()
    if control is not None:
        CONTROLS[control]()
    for number in range(STATES):
        state(number)
    while (game := pipe.recv()) is not None:
        path, branch, moves = game
        gate.left = FOR_EVER
        player = Player(path, branch, gate)
        gate.left = gate.passed = 0
        seen.clear()
        for number, move in enumerate(moves):
            pipe.send(("did", number, player.do(move)))
        gate.left = FOR_EVER
        passed = gate.passed
        player.close()
        pipe.send(("over", passed, dict(seen)))
