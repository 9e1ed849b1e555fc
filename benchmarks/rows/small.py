"""Where the cost of each object shows: 20,000 tensors of 1 KiB, and the 10,000th commit beside the 100th."""

from __future__ import annotations

import torch

import casckpt
from benchmarks.disk import check_room, remove, settle, sync_tree
from benchmarks.goals import Goal, Limit
from benchmarks.measure import SECONDS, Series, Turn, alternate, timed
from benchmarks.outcome import TINY_STATE, Outcome, Setting
from benchmarks.peers.casckpt_store import drop_past
from benchmarks.peers.torch_files import TorchFiles
from benchmarks.rows.row import Row
from benchmarks.states import TINY, TINY_BYTES, change_all, tiny

EARLY, LATE, LATE_QUICK, LATE_TINY = 100, 10_000, 1_000, 120
COMMITS_A_TURN = 10


def measure_tiny(setting: Setting) -> Outcome:
    state = tiny(min(setting.size, TINY * TINY_BYTES), setting.dtype)
    check_room(setting.folder, 1 << 30)
    files = TorchFiles(setting.folder / "torch")

    def save() -> float:
        path = files.folder / "state"
        change_all(state, 0)
        settle()
        with timed() as watch:
            files.write(state, path)
            sync_tree(path)
        remove(path)
        return watch.seconds

    with casckpt.open(setting.folder / "store") as repo:

        def commit() -> float:
            change_all(state, 0)
            settle()
            with timed() as watch:
                repo.commit(state)
            drop_past(repo)
            return watch.seconds

        found = alternate({"casckpt": commit, "torch.save + fsync": save}, repeats=setting.repeats)
    return Outcome({"time": found}, note="every tensor changed")


def measure_long_history(setting: Setting) -> Outcome:
    late = LATE_TINY if setting.size < TINY_STATE else LATE_QUICK if setting.quick else LATE
    state = {f"layer.{index}": torch.zeros(1024) for index in range(8)}
    with (
        casckpt.open(setting.folder / "early") as early,
        casckpt.open(setting.folder / "late") as long,
    ):
        for repo, count in ((early, EARLY), (long, late)):
            for _ in range(count - COMMITS_A_TURN):
                _commit(repo, state)
        turns: dict[str, Turn] = {"the 100th": _committing(early, state), "the last": _committing(long, state)}
        found = alternate(turns, repeats=4 + setting.repeats)
    note = f"the last: about the {late:,}th; {COMMITS_A_TURN} commits of 32 KiB a turn"
    return Outcome({"time": _each(found)}, note=note)


def _each(found: dict[str, Series]) -> dict[str, Series]:
    return {
        name: Series(SECONDS, tuple(value / COMMITS_A_TURN for value in series.values))
        for name, series in found.items()
    }


def _commit(repo: casckpt.Repository, state: dict[str, torch.Tensor]) -> None:
    for tensor in state.values():
        tensor.add_(1)
    repo.commit(state)


def _committing(repo: casckpt.Repository, state: dict[str, torch.Tensor]) -> Turn:
    def turn() -> float:
        with timed() as watch:
            for _ in range(COMMITS_A_TURN):
                _commit(repo, state)
        return watch.seconds

    return turn


MANY_TENSORS = Row(
    "tiny",
    "20,000 tensors of 1 KiB, durable commit",
    measure_tiny,
    (
        Goal(
            "20,000 tensors of 1 KiB: durable commit against `torch.save` + fsync",
            "time",
            "casckpt",
            "torch.save + fsync",
            Limit(1.0),
            Limit(0.5),
        ),
    ),
)

LONG_HISTORY = Row(
    "long-history",
    "the 10,000th commit beside the 100th",
    measure_long_history,
    (
        Goal(
            "the 10,000th commit of a small state against the 100th",
            "time",
            "the last",
            "the 100th",
            Limit(1.2),
            Limit(1.05),
        ),
    ),
)
