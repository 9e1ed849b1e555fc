"""From one recording to many images: at points of the log, each with what had been said by then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.trials.power.disk import ALL, Disk, Obeyed
from tests.trials.power.image import MAPPED, as_seen, on_disk, write_image
from tests.trials.power.log import Event, Said, SyncEnds, read_log
from tests.trials.power.worker import Worker


@dataclass(frozen=True, slots=True)
class Moment:
    """The disk at one point of a recording. acknowledged, doing: what was said last of each, if anything.

    then: what is acknowledged next, if anything.
    """

    disk: Disk
    point: int
    acknowledged: dict[str, Any] | None
    doing: dict[str, Any] | None
    then: dict[str, Any] | None


def recorded(worker: Worker, work: str, folder: Path, *arguments: Any) -> tuple[int, list[Event]]:
    """Have a story told in `folder`, which is made; returns the folder's inode and what was done in it.

    Raises:
        AssertionError: something was done that the log doesn't tell of.
    """
    folder.mkdir()
    log = folder.with_suffix(".log")
    worker.record(work, log, str(folder), *arguments)
    root = folder.stat().st_ino
    events = [*read_log(log.read_bytes(), str(folder))]
    log.unlink()
    disk = Disk(root)
    for event in events:
        disk.apply(event)
    told, there = _comparable(as_seen(disk)), _comparable(on_disk(folder))
    assert told == there, (
        f"not recorded: {[path for path in {**told, **there} if told.get(path, 0) != there.get(path, 0)]}"
    )
    return root, events


def _comparable(contents: dict[str, bytes | None]) -> dict[str, bytes | None]:
    return {path: None if path.endswith(MAPPED) else held for path, held in contents.items()}


def moments(root: int, events: Sequence[Event], points: Sequence[int], obeyed: Obeyed = ALL) -> Iterator[Moment]:
    """The disk at these points, which are in order. It is the same object, going on."""
    disk = Disk(root, obeyed)
    words: list[tuple[int, dict[str, Any]]] = [
        (at, json.loads(event.text)) for at, event in enumerate(events) if isinstance(event, Said)
    ]
    done = 0
    for point in points:
        for event in events[done:point]:
            disk.apply(event)
        done = point
        before = [one for at, one in words if at < point]
        after = [one["acknowledged"] for at, one in words if at >= point and "acknowledged" in one]
        acknowledged = [one["acknowledged"] for one in before if "acknowledged" in one]
        yield Moment(
            disk,
            point,
            acknowledged[-1] if acknowledged else None,
            before[-1]["doing"] if before else None,
            after[0] if after else None,
        )


def some_points(random: Random, events: Sequence[Event], count: int) -> list[int]:
    """Points of a recording in order: anywhere, where a sync has begun and not ended, or where something was said."""
    places = (range(1, len(events) + 1), [at for at, event in enumerate(events) if isinstance(event, SyncEnds)])
    return sorted(random.choice(random.choice((*places, said(events)))) for _ in range(count))


def said(events: Sequence[Event], after: int = 0) -> list[int]:
    """The points at which something was just said."""
    return [at + 1 for at, event in enumerate(events) if isinstance(event, Said) and at >= after]


def write_found(worker: Worker, check: str, moment: Moment, seed: int, place: Path, draw: int) -> str:
    """Write the disk of a moment at `place`, as a draw has it, and have it looked at; returns what was found.

    Raises:
        BrokenPromiseError: what was found is left there.
    """
    place.mkdir()
    write_image(moment.disk, Random(draw), place)
    found: str = worker.ask(check, str(place), seed, moment.acknowledged, moment.doing, moment.then, draw)
    shutil.rmtree(place)
    return found
