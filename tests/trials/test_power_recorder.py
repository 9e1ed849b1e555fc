"""The recorder tells of all that is done to a folder, in an order in which it may have been done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trials.power.images import recorded
from tests.trials.power.log import SyncBegins, SyncEnds, Write, read_log
from tests.trials.power.worker import BrokenPromiseError, Worker, working

CALLS = "tests.trials.power.calls"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with working(tmp_path_factory.mktemp("recorder"), CALLS) as made:
        yield made


def test_whatever_call_changes_a_file_is_told_so_that_the_folder_can_be_made_of_it_again(worker, tmp_path):
    _, events = recorded(worker, f"{CALLS}:tell_calls", tmp_path / "disk")  # which compares
    assert [event.lasting for event in events if isinstance(event, Write) and len(event.data) == 600] == [0, 1, 0]
    calls = [event.call for event in events if isinstance(event, SyncBegins)]
    assert len(calls) == len(set(calls)) == 1 + 5 * 50


def test_a_sync_stands_between_what_came_before_it_and_what_came_after_in_each_thread_and_child(worker, tmp_path):
    _, events = recorded(worker, f"{CALLS}:tell_calls", tmp_path / "disk")
    begun: dict[int, int] = {}
    written: dict[int, int] = {}
    for event in events:
        if isinstance(event, Write) and event.data.isdigit():
            written[event.inode] = int(event.data)
            assert event.inode not in begun.values()
        elif isinstance(event, SyncBegins):
            begun[event.call] = event.inode
        elif isinstance(event, SyncEnds):
            del begun[event.call]
    assert list(written.values()) == [49] * 5 and not begun


def test_a_change_that_was_not_told_is_noticed(worker, tmp_path):
    with pytest.raises(AssertionError, match=r"not recorded: \['f'\]"):
        recorded(worker, f"{CALLS}:tell_unseen", tmp_path / "disk")


def test_a_log_without_its_end_is_refused(worker, tmp_path):
    (tmp_path / "disk").mkdir()
    worker.record(f"{CALLS}:tell_calls", tmp_path / "log", str(tmp_path / "disk"))
    log = (tmp_path / "log").read_bytes()
    assert [*read_log(log, str(tmp_path / "disk"))]
    for cut in (1, 10, 60):
        with pytest.raises(ValueError, match="ends within a record"):
            [*read_log(log[:-cut], str(tmp_path / "disk"))]


def test_what_goes_wrong_in_a_piece_of_work_is_told_and_the_next_is_done(worker, tmp_path):
    with pytest.raises(BrokenPromiseError, match="FileNotFoundError"):
        worker.ask("os:listdir", str(tmp_path / "nowhere"))
    with pytest.raises(BrokenPromiseError, match="-6"):
        worker.ask("os:abort")
    assert worker.ask("os:listdir", str(tmp_path)) == []
