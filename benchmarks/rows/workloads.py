"""Every workload by every peer: seconds a durable save takes, seconds a load takes, bytes that all saves take.

These rows only inform. Bytes are those of the disk: of every save where a peer keeps files, of the repository else.
"""

from __future__ import annotations

from functools import partial

from benchmarks.disk import check_room, remove, settle
from benchmarks.measure import BYTES, SECONDS, Series, seconds_of, timed
from benchmarks.memory import warm_files
from benchmarks.outcome import Outcome, Setting
from benchmarks.peers.all import present
from benchmarks.peers.peer import Peer
from benchmarks.rows.row import Row
from benchmarks.states import TINY, TINY_BYTES, WORKLOADS, Workload, nbytes

SAVES, SAVES_LARGE, SAVES_QUICK, LARGE = 4, 3, 2, 500e6
LOADS, LOADING_SECONDS = 3, 1.0
# Arrays, zarr or other, cost these some milliseconds each: a save of 20,000 took minutes when it was tried.
SLOW_WITH_MANY = {"icechunk", "DCP save"}
MANY = 2_000


def measure(workload: Workload, setting: Setting) -> Outcome:
    state = workload.build(setting.size, setting.dtype)
    size, count = nbytes(state), len(state)
    check_room(setting.folder, 5 * size)
    del state
    kinds, missing = present()
    if count > MANY:
        missing |= dict.fromkeys(SLOW_WITH_MANY - set(missing), f"left out: {count:,} tensors take too long")
    save, load, stored, first = {}, {}, {}, {}
    for kind in kinds:
        if kind.name in missing:
            continue
        saves, loads, disk = _one(kind, workload, setting)
        first[kind.name] = Series(SECONDS, saves[:1])
        save[kind.name] = Series(SECONDS, saves[1:])
        load[kind.name] = Series(SECONDS, loads)
        stored[kind.name] = Series(BYTES, (float(disk),))
    note = f"{count:,} tensors, {size / 1e6:.0f} MB, saved {_saves(setting, size)} times"
    return Outcome({"first save": first, "save": save, "load": load, "stored": stored}, missing, note)


def _saves(setting: Setting, size: int) -> int:
    return SAVES_QUICK if setting.quick else SAVES if size < LARGE else SAVES_LARGE


def _one(kind: type[Peer], workload: Workload, setting: Setting) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Seconds of saves and loads, and bytes on the disk, of a peer that sees the workload from its beginning."""
    state = workload.build(setting.size, setting.dtype)
    place = setting.folder / "peer"
    peer = kind(place)
    try:
        saves = []
        for number in range(_saves(setting, nbytes(state))):
            if number:
                peer.forget_past()
                workload.step(state, number)
            warm_files(setting.folder, nbytes(state) + nbytes(state) // 8)
            settle()
            with timed() as watch:
                peer.save(state)
            saves.append(watch.seconds)
        loads = [seconds_of(peer.load)]
        while len(loads) < LOADS and sum(loads) < LOADING_SECONDS:
            loads.append(seconds_of(peer.load))
        return tuple(saves), tuple(loads), peer.stored()
    finally:
        peer.close()
        remove(place)


def row_of(name: str) -> Row:
    """The row of a name as `names` makes them."""
    _, workload, dtype, size = name.split("/")
    found = WORKLOADS[workload]
    return Row(name, f"{found.title}, {dtype}, {size}", partial(measure, found))


def names(sizes: tuple[int, ...], dtypes: dict[str, tuple[str, ...]]) -> dict[str, tuple[int, str]]:
    """A row for each workload, size and dtype: its name, size and dtype. The tiny tensors have a size of their own.

    dtypes: of each workload.
    """
    found = {}
    for workload in WORKLOADS:
        for dtype in dtypes[workload]:
            for size in (min(sizes[0], TINY * TINY_BYTES),) if workload == "tiny" else sizes:
                found[f"workload/{workload}/{dtype}/{size / 1e6:g} MB"] = (size, dtype)
    return found
