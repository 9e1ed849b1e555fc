"""Full verified loads from the page cache: into fresh memory, into memory that is used again, and other ways to load.

Fresh means fresh for all: before each timed load everything is freed and malloc hands it back to the kernel. Just
before that the same is loaded once, so that the kernel has the pages that it gives: a virtual machine may have handed
free memory to its host, and would wait longer for it than for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import casckpt
from benchmarks.apart import apart
from benchmarks.disk import check_room
from benchmarks.goals import Goal, Limit
from benchmarks.measure import Turn, alternate, seconds_of, timed
from benchmarks.memory import give_back, kept
from benchmarks.outcome import Outcome, Setting
from benchmarks.peers import distributed, safetensors_files, torch_files
from benchmarks.peers.distributed import DistributedFiles
from benchmarks.peers.peer import FilePeer
from benchmarks.peers.safetensors_files import SafetensorsFiles
from benchmarks.peers.torch_files import TorchFiles, touch
from benchmarks.rows.copying import Copy
from benchmarks.rows.row import Row
from benchmarks.states import State, dense, nbytes

# What stands in byte planes is decoded, where raw frames are copied.
CODED = "casckpt, codec auto"

FRESH_NOTE = (
    "raw frames unless a codec is named; "
    "fresh memory for all: before each load the same was loaded, freed and handed back to the kernel; each system in a "
    "process of its own"
)


@contextmanager
def fresh(load: Callable[[Path], State], path: Path) -> Iterator[Turn]:
    """Loads into memory that the process has not touched, of pages that the machine has."""

    def turn() -> float:
        load(path)
        give_back()
        return seconds_of(lambda: load(path))

    yield turn


@contextmanager
def fresh_casckpt(path: Path) -> Iterator[Turn]:
    """The same from a store that stays open, as files stay in the page cache."""
    with casckpt.open(path) as repo, fresh(lambda path: repo.load(), path) as turn:
        yield turn


@contextmanager
def reused(load: Callable[[Path], State], path: Path) -> Iterator[Turn]:
    """Loads that come right behind another, whose memory malloc has kept."""

    def turn() -> float:
        with kept():
            load(path)
            return seconds_of(lambda: load(path))

    yield turn


def torch_mapped(path: Path) -> State:
    return touch(torch_files.load_mapped(path))


def safetensors_mapped(path: Path) -> State:
    return touch(safetensors_files.load_mapped_file(path))


def measure_fresh(setting: Setting) -> Outcome:
    _save(setting, TorchFiles, DistributedFiles)
    torch_path, dcp_path = (setting.folder / kind.name / "state" for kind in (TorchFiles, DistributedFiles))
    makers = {
        "casckpt": partial(fresh_casckpt, setting.folder / "store"),
        CODED: partial(fresh_casckpt, setting.folder / "coded"),
        "torch.load": partial(fresh, torch_files.load, torch_path),
        "dcp.load": partial(fresh, distributed.load, dcp_path),
    }
    with apart(makers) as turns:
        found = alternate(turns, repeats=setting.repeats)
    return Outcome({"time": found}, note=FRESH_NOTE)


def measure_other_ways(setting: Setting) -> Outcome:
    _save(setting, TorchFiles, SafetensorsFiles)
    torch_path, safetensors_path = (setting.folder / kind.name / "state" for kind in (TorchFiles, SafetensorsFiles))
    makers = {
        "casckpt": partial(fresh_casckpt, setting.folder / "store"),
        "torch.load, memory that malloc kept": partial(reused, torch_files.load, torch_path),
        "torch.load mmap, every tensor touched": partial(fresh, torch_mapped, torch_path),
        "safetensors load_file, every tensor touched": partial(fresh, safetensors_mapped, safetensors_path),
    }
    with apart(makers) as turns:
        found = alternate(turns, repeats=setting.repeats)
    return Outcome({"time": found}, note="of these, only casckpt checks what it reads")


def _save(setting: Setting, *kinds: type[FilePeer]) -> None:
    """Put the state into a store and a file of each kind."""
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 5 * nbytes(state))
    for name, codec in (("store", "none"), ("coded", "auto")):
        with casckpt.open(setting.folder / name, codec=codec) as repo:
            repo.commit(state)
    for kind in kinds:
        kind(setting.folder / kind.name).write(state, setting.folder / kind.name / "state")


def measure_reused(setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 2 * nbytes(state))
    with casckpt.open(setting.folder / "store", codec="none") as repo:
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
