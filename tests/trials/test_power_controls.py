"""What tries the loss of power finds it out where syncs are left out, or do not count."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.trials.power import controls, exports, oracle, whole
from tests.trials.power.disk import ALL, Obeyed
from tests.trials.power.images import moments, recorded, said, write_found
from tests.trials.power.log import Event, Said, SyncEnds, Write
from tests.trials.power.worker import BrokenPromiseError, Worker, working

NONE = Obeyed(files=False, folders=False, lasting_writes=False)
NO_FILES = Obeyed(files=False)
NO_FOLDERS = Obeyed(folders=False)
SEED = 5


def named(work: Callable[..., object]) -> str:
    return f"{work.__module__}:{work.__name__}"


@dataclass(frozen=True)
class Recording:
    """A story, and who looks at images of it."""

    worker: Worker
    check: str
    root: int
    events: list[Event]

    def acknowledged(self) -> list[int]:
        """The points at which something was just acknowledged."""
        return [at for at in said(self.events) if self._said(at - 1).get("acknowledged")]

    def doing(self, what: str) -> int:
        """The point at which this was just begun first."""
        return next(at for at in said(self.events) if (self._said(at - 1)["doing"] or {}).get("what") == what)

    def marked(self) -> list[int]:
        """The points at which the mark was just written, and a sync all but ended, after the first acknowledgement."""
        first, found = self.acknowledged()[0], []
        for at, (write, _, end) in enumerate(zip(self.events, self.events[1:], self.events[2:], strict=False)):
            if at > first and isinstance(end, SyncEnds) and isinstance(write, Write) and write.data[:7] == b"casmark":
                found.append(at + 2)
        return found

    def _said(self, at: int) -> dict[str, Any]:
        event = self.events[at]
        assert isinstance(event, Said)
        found: dict[str, Any] = json.loads(event.text)
        return found

    def broken(self, points: list[int], folder: Path, obeyed: Obeyed = ALL) -> float:
        """The share of images at these points in which a promise is broken."""
        folder.mkdir()
        found = 0
        for draw, moment in enumerate(moments(self.root, self.events, points, obeyed)):
            try:
                write_found(self.worker, self.check, moment, SEED, folder / str(draw), draw)
            except BrokenPromiseError:
                found += 1
        return found / len(points)


@contextmanager
def recording(
    folder: Path, tell: Callable[..., object], check: Callable[..., object], *more: int
) -> Iterator[Recording]:
    with working(folder, named(tell), named(check)) as worker:
        yield Recording(worker, named(check), *recorded(worker, named(tell), folder / "disk", SEED, *more))


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    with recording(tmp_path_factory.mktemp("commits"), controls.tell_commits, oracle.check) as made:
        yield made


def test_a_store_is_broken_nearly_always_where_its_syncs_do_not_count(commits: Recording, tmp_path: Path) -> None:
    points = commits.acknowledged()
    assert commits.broken(sorted(points * 2), tmp_path / "obeyed") == 0
    assert commits.broken(sorted(points * 2), tmp_path / "none", NONE) >= 0.9
    assert commits.broken(points, tmp_path / "no files", NO_FILES) >= 0.9
    assert commits.broken(points, tmp_path / "no folders", NO_FOLDERS) >= 0.5


def test_what_was_committed_after_compact_is_lost_where_its_folder_was_not_synced(
    commits: Recording, tmp_path: Path
) -> None:
    begins = commits.doing("compact")
    points = sorted([at for at in commits.acknowledged() if at > begins] * 3)
    assert commits.broken(points, tmp_path / "no folders", replace(NO_FOLDERS, after=begins)) >= 0.2
    assert commits.broken(points, tmp_path / "no files", replace(NO_FILES, after=begins)) >= 0.9


def test_exports_are_broken_nearly_always_where_their_syncs_do_not_count(tmp_path: Path) -> None:
    with recording(tmp_path, exports.tell, exports.check, 8) as made:
        points = sorted(made.acknowledged() * 4)
        assert made.broken(points, tmp_path / "obeyed") == 0
        assert made.broken(points, tmp_path / "none", NONE) >= 0.9
        assert made.broken(points, tmp_path / "no files", NO_FILES) >= 0.9
        assert made.broken(points, tmp_path / "no folders", NO_FOLDERS) >= 0.5


def test_a_store_that_acknowledges_before_it_syncs_is_found_out(tmp_path: Path) -> None:
    with recording(tmp_path, controls.tell_unsynced, oracle.check) as made:
        assert made.broken(sorted(made.acknowledged() * 4), tmp_path / "images") >= 0.1


def test_a_mark_that_moves_before_the_sync_is_found_out(tmp_path: Path) -> None:
    with recording(tmp_path, controls.tell_mark_first, oracle.check) as made:
        assert made.broken(sorted(made.marked() * 12), tmp_path / "images") > 0


def test_what_is_written_through_a_descriptor_that_syncs_is_lasting_and_what_is_not_is_not(tmp_path: Path) -> None:
    with recording(tmp_path, controls.tell_lmdb, controls.check_lmdb) as made:
        points = sorted(made.acknowledged() * 4)
        assert made.broken(points, tmp_path / "lasting") == 0
        assert made.broken(points, tmp_path / "not", Obeyed(lasting_writes=False)) >= 0.1


def test_a_prune_that_is_acknowledged_and_lost_is_found_out(tmp_path: Path) -> None:
    with recording(tmp_path, controls.tell_lost_prune, oracle.check) as made:
        assert made.broken(made.acknowledged()[-1:], tmp_path / "images") == 1


def test_a_repository_that_acknowledges_before_it_syncs_is_found_out(tmp_path: Path) -> None:
    with recording(tmp_path, controls.tell_whole_unsynced, whole.check) as made:
        assert made.broken(sorted(made.acknowledged() * 2), tmp_path / "images") >= 0.1
