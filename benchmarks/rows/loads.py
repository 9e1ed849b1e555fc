"""Full verified loads from the page cache: into fresh memory, into memory that is used again, and other ways to load.

Fresh means fresh for all: before each timed load everything is freed and malloc hands it back to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import casckpt
from benchmarks.disk import check_room
from benchmarks.goals import Goal, Limit
from benchmarks.measure import Turn, alternate, seconds_of, timed
from benchmarks.memory import give_back, kept, warm
from benchmarks.outcome import Outcome, Setting
from benchmarks.peers.distributed import DistributedFiles
from benchmarks.peers.safetensors_files import SafetensorsFiles, load_mapped_file
from benchmarks.peers.torch_files import TorchFiles, load_mapped, touch
from benchmarks.rows.copying import Copy
from benchmarks.rows.row import Row
from benchmarks.states import State, dense, nbytes


def fresh(load: Callable[[], State], size: int) -> Turn:
    """A turn of a load of so many bytes into memory that this process has not touched."""

    def turn() -> float:
        give_back()
        warm(size)
        return seconds_of(load)

    return turn


def reused(load: Callable[[], State]) -> Turn:
    """A turn of a load behind another, whose memory malloc has kept."""

    def turn() -> float:
        with kept():
            load()
            return seconds_of(load)

    return turn


def measure_fresh(setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 4 * nbytes(state))
    torch_file, dcp_folder = TorchFiles(setting.folder / "torch"), DistributedFiles(setting.folder / "dcp")
    for peer in (torch_file, dcp_folder):
        peer.save(state)
    with casckpt.open(setting.folder / "store") as repo:
        repo.commit(state)
        size = nbytes(state)
        del state
        turns = {
            "casckpt": fresh(repo.load, size),
            "torch.load": fresh(torch_file.load, size),
            "dcp.load": fresh(dcp_folder.load, size),
        }
        found = alternate(turns, repeats=setting.repeats)
    return Outcome({"time": found}, note="fresh memory for all: everything is freed and handed back before each load")


def measure_other_ways(setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 4 * nbytes(state))
    torch_file = TorchFiles(setting.folder / "torch")
    safetensors_file = SafetensorsFiles(setting.folder / "safetensors")
    for peer in (torch_file, safetensors_file):
        peer.save(state)
    with casckpt.open(setting.folder / "store") as repo:
        repo.commit(state)
        size = nbytes(state)
        del state
        turns = {
            "casckpt": fresh(repo.load, size),
            "torch.load, memory that malloc kept": reused(torch_file.load),
            "torch.load mmap, every tensor touched": fresh(lambda: touch(load_mapped(torch_file.newest)), size),
            "safetensors load_file, every tensor touched": fresh(
                lambda: touch(load_mapped_file(safetensors_file.newest)), size
            ),
        }
        found = alternate(turns, repeats=setting.repeats)
    return Outcome({"time": found}, note="of these, only casckpt checks what it reads")


def measure_reused(setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 2 * nbytes(state))
    with ExitStack() as stack:
        repo = stack.enter_context(casckpt.open(setting.folder / "store"))
        repo.commit(state)
        previous = repo.load()

        def load() -> float:
            with timed() as watch:
                repo.load("HEAD", out=previous)
            return watch.seconds

        found = alternate({"copy": Copy(state).turn, "casckpt": load}, repeats=setting.repeats)
    return Outcome({"time": found})


FRESH = Row(
    "load",
    "full verified load from page cache",
    measure_fresh,
    tuple(
        Goal(
            f"full verified load from page cache against `{peer}`",
            "time",
            "casckpt",
            peer,
            Limit(1 / must),
            Limit(1 / aim),
            speed=True,
        )
        for peer, must, aim in (("torch.load", 5, 10), ("dcp.load", 2.5, 5))
    ),
)

OTHER_WAYS = Row("load-other-ways", "load, other ways", measure_other_ways)

REUSED = Row(
    "load-reused",
    "full verified load into reused memory",
    measure_reused,
    (Goal("full verified load into reused memory against copy", "time", "casckpt", "copy", Limit(2.2), Limit(1.4)),),
)
