"""From one recording to many images: at points of the log, each with what had been said by then."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.trials.power.disk import Disk, Obeyed
from tests.trials.power.image import as_seen, on_disk
from tests.trials.power.log import Event, Said, SyncEnds, read_log
from tests.trials.power.worker import Worker

UNSEEN = "lock.mdb"
"""Written through a map, so not recorded: whoever opens it alone makes it anew."""


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
    return {path: None if path.endswith(UNSEEN) else held for path, held in contents.items()}


def moments(root: int, events: Sequence[Event], points: Sequence[int], obeyed: Obeyed) -> Iterator[Moment]:
    """The disk at these points, which are in order. It is the same object, going on."""
    disk = Disk(root, obeyed)
    said: list[tuple[int, dict[str, Any]]] = [
        (at, json.loads(event.text)) for at, event in enumerate(events) if isinstance(event, Said)
    ]
    done = 0
    for point in points:
        for event in events[done:point]:
            disk.apply(event)
        done = point
        before = [one for at, one in said if at < point]
        after = [one["acknowledged"] for at, one in said if at >= point and "acknowledged" in one]
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
    syncs = [at for at, event in enumerate(events) if isinstance(event, SyncEnds) and at]
    words = [at + 1 for at, event in enumerate(events) if isinstance(event, Said)]
    places = (range(1, len(events) + 1), syncs, words)
    return sorted(random.choice(random.choice(places)) for _ in range(count))
