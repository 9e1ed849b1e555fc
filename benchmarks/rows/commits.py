"""Durable commits: of a state that did not change, and the first one of a new store beside files written and synced."""

from __future__ import annotations

from pathlib import Path

import casckpt
from benchmarks.disk import check_room, remove, settle, sync_tree
from benchmarks.goals import Goal, Limit
from benchmarks.measure import alternate, timed
from benchmarks.memory import warm, warm_files
from benchmarks.outcome import Outcome, Setting
from benchmarks.peers.peer import FilePeer
from benchmarks.peers.safetensors_files import SafetensorsFiles
from benchmarks.peers.torch_files import TorchFiles
from benchmarks.rows.copying import Copy
from benchmarks.rows.row import Row
from benchmarks.states import State, dense, nbytes

NEW = "a new store or file each time, its making included, in memory that the machine has; nothing is compressed"


def measure_nothing(setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 3 * nbytes(state))
    copy = Copy(state)
    with casckpt.open(setting.folder / "store") as repo:
        repo.commit(state)

        def commit() -> float:
            settle()
            with timed() as watch:
                made = repo.commit(state)
            assert made.figures is not None and made.figures.new == 0
            return watch.seconds

        return Outcome({"time": alternate({"copy": copy.turn, "casckpt": commit}, repeats=setting.repeats, warm_up=2)})


def measure_first(setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 3 * nbytes(state))

    def commit() -> float:
        path = setting.folder / "store"
        _prepare(setting.folder, state)
        with timed() as watch:
            repo = casckpt.open(path, codec="none")
            repo.commit(state)
        repo.close()
        remove(path)
        return watch.seconds

    turns = {"casckpt": commit}
    for kind in (SafetensorsFiles, TorchFiles):
        turns[f"{kind.name} + fsync"] = _writing(kind(setting.folder / kind.name), state)
    found = alternate(turns, repeats=setting.repeats)
    return Outcome({"time": found}, note=NEW)


def _prepare(folder: Path, state: State) -> None:
    """Have memory for the file that the machine owns in fact, and the disk idle."""
    warm(2 * nbytes(state))
    warm_files(folder, nbytes(state) + nbytes(state) // 8)
    settle()


class _writing:  # noqa: N801  # reads as a function where it is used
    """A turn of a peer that writes a file."""

    def __init__(self, peer: FilePeer, state: State) -> None:
        self._peer = peer
        self._state = state

    def __call__(self) -> float:
        path: Path = self._peer.folder / "state"
        _prepare(self._peer.folder, self._state)
        with timed() as watch:
            self._peer.write(self._state, path)
            sync_tree(path)
        remove(path)
        return watch.seconds


NOTHING = Row(
    "nothing-changed",
    "durable commit, nothing changed",
    measure_nothing,
    (
        Goal(
            "commit with nothing changed, durable",
            "time",
            "casckpt",
            "copy",
            Limit(1.0, plus=0.015),
            Limit(0.8),
        ),
    ),
)

FIRST = Row(
    "first-commit",
    "first durable commit, raw frames",
    measure_first,
    (
        Goal(
            "first durable commit, raw frames, against `safetensors.save_file` + fsync",
            "time",
            "casckpt",
            "safetensors + fsync",
            Limit(1.7),
            Limit(1.1),
        ),
        Goal(
            "first durable commit, raw frames, against `torch.save` + fsync",
            "time",
            "casckpt",
            "torch.save + fsync",
            Limit(0.9),
            Limit(0.5),
        ),
    ),
)
