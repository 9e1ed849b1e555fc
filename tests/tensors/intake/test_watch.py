"""Watching a folder: each finished checkpoint of a real writer is taken once and whole, and nothing unfinished is.

The clock is the test's, and writers say by lines where they are: nothing here waits for time to pass.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import casckpt
from casckpt.errors import ImportFormatError, StoreFullError
from casckpt.tensors import formats
from casckpt.tensors.intake.report import Item, Outcome
from casckpt.tensors.intake.watch import Watching, keep_looking
from casckpt.tensors.repository import Repository
from tests.equality import assert_same
from tests.processes import Program
from tests.tensors.intake.conftest import state

SETTLE = 5.0


class Watched:
    """A folder under watch. Each look is a second after the one before; what it took in, or failed to, is returned."""

    def __init__(self, repo: Repository, folder: Path, pattern: str | None = None) -> None:
        self.now = 0.0
        self._told: list[Item] = []
        self.watching = Watching(repo, folder, settle=SETTLE, pattern=pattern, on_item=self._told.append)

    def look(self, after: float = 1.0) -> dict[str, str]:
        self.now += after
        self._told.clear()
        self.watching.look(self.now)
        return {item.name: item.outcome.value for item in self._told}

    def looks(self) -> dict[str, str]:
        """Two looks, so far apart that whatever rests is known to rest."""
        return self.look() | self.look(SETTLE)

    def waiting(self) -> dict[str, str]:
        """What waits, by the last look, and for what."""
        return {item.name: item.reason for item in self.watching.report().of(Outcome.WAITING)}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    place.mkdir()
    return place


@pytest.fixture
def watched(repo: Repository, empty: Path) -> Watched:
    return Watched(repo, empty)


def messages(repo: Repository) -> list[str]:
    return [commit.message for commit in repo.log()][::-1]


# A state is made, and written as the program is told: each line that it reads lets it go on.
PREPARED = """
    import io, os, sys
    from pathlib import Path
    import torch
    from tests.tensors.intake.conftest import state

    def step(said):
        print(said, flush=True)
        input()

    class Slow:
        # a file that is written in pieces, with a pause behind each
        def __init__(self, path, pieces):
            self.file, self.left = open(path, "wb"), pieces
        def write(self, data):
            written = 0
            for start in range(0, len(data), 4096):
                written += self.file.write(data[start : start + 4096])
                if self.left:
                    self.left -= 1
                    self.file.flush()
                    step("piece")
            return written
        def flush(self):
            self.file.flush()

    folder = Path(sys.argv[1])
"""


def test_a_file_that_is_written_in_pieces_is_taken_when_it_is_closed_and_not_before(
    repo: Repository, empty: Path, watched: Watched
) -> None:
    source = (
        PREPARED
        + """
    slow = Slow(folder / "step_7.pt", 3)
    torch.save(state(7), slow)
    step("written")
    slow.file.close()
    step("closed")
"""
    )
    with Program(source, empty) as writer:
        for said in ("piece", "piece", "piece", "written"):
            assert writer.line() == said
            assert watched.looks() == {}
            assert watched.waiting() == {"step_7.pt": "it is open for writing"}
            writer.say()
        assert writer.line() == "closed"
        assert watched.looks() == {"step_7.pt": "taken"}
        assert_same(repo.load("step:7"), state(7))
        assert watched.looks() == {}
        writer.end()


def test_a_writer_on_another_machine_is_known_by_the_end_that_is_missing(
    repo: Repository, empty: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the kernel knows of no writer; what rests and lacks its end is told once, and taken when it has it."""
    monkeypatch.setattr("casckpt.tensors.intake.settled._open_for_writing", lambda path: False)
    source = (
        PREPARED
        + """
    slow = Slow(folder / "step_7.pt", 2)
    torch.save(state(7), slow)
    slow.file.close()
    step("closed")
"""
    )
    with Program(source, empty) as writer:
        for _ in range(2):
            assert writer.line() == "piece"
            assert watched.look() == {}
            assert watched.look(SETTLE) == {"step_7.pt": "failed"}
            assert watched.looks() == {}
            writer.say()
        assert writer.line() == "closed"
        assert watched.look() == {}
        assert watched.look(SETTLE - 0.1) == {}
        assert watched.look(0.1) == {"step_7.pt": "taken"}
        assert_same(repo.load(), state(7))
        writer.end()


def test_a_file_that_is_renamed_when_it_is_whole_is_taken_under_its_last_name_only(
    repo: Repository, empty: Path, watched: Watched
) -> None:
    source = (
        PREPARED
        + """
    for name in (".step_7.pt", "step_8.pt.tmp", "tmp-step_9.pt"):
        place = folder / name
        torch.save(state(7), place)
    step("written")
    for name, last in ((".step_7.pt", 7), ("step_8.pt.tmp", 8), ("tmp-step_9.pt", 9)):
        os.replace(folder / name, folder / f"step_{last}.pt")
    step("renamed")
"""
    )
    with Program(source, empty) as writer:
        assert writer.line() == "written"
        assert watched.looks() == {}
        assert watched.waiting() == {}
        writer.say()
        assert writer.line() == "renamed"
        assert watched.looks() == {"step_7.pt": "taken", "step_8.pt": "taken", "step_9.pt": "taken"}
        writer.end()


def test_a_folder_of_the_trainer_is_taken_when_its_last_file_is_there(
    repo: Repository, empty: Path, watched: Watched
) -> None:
    source = (
        PREPARED
        + """
    from safetensors.torch import save
    place = folder / "checkpoint-70"
    place.mkdir()
    step("made")
    weights = save({"w": torch.arange(3000.0)})
    with open(place / "model.safetensors", "wb") as file:
        file.write(weights[:5000])
        file.flush()
        step("half")
        file.write(weights[5000:])
    torch.save({}, place / "training_args.bin")
    step("weights")
    torch.save({"state": {}, "param_groups": []}, place / "optimizer.pt")
    step("optimizer")
    (place / "trainer_state.json").write_text('{"global_step": 70}')
    step("whole")
"""
    )
    with Program(source, empty) as writer:
        for said, seen in (
            ("made", {}),
            ("half", {}),
            ("weights", {"checkpoint-70": "failed"}),
            ("optimizer", {"checkpoint-70": "failed"}),
            ("whole", {"checkpoint-70": "taken"}),
        ):
            assert writer.line() == said
            assert watched.looks() == seen, said
            assert watched.looks() == {}
            writer.say()
        writer.process.wait()
    assert repo.resolve().step == 70
    assert torch.equal(repo.load()["model"]["w"], torch.arange(3000.0))


def test_what_a_killed_writer_left_half_done_is_told_once_and_never_taken(
    repo: Repository, empty: Path, watched: Watched
) -> None:
    source = (
        PREPARED
        + """
    torch.save(state(6), folder / "step_6.pt")
    torch.save(state(7), Slow(folder / "step_7.pt", 2))
"""
    )
    with Program(source, empty) as writer:
        writer.line()
        writer.say()
        writer.line()
        assert watched.looks() == {"step_6.pt": "taken"}
        writer.kill()
    assert watched.looks() == {"step_7.pt": "failed"}
    for _ in range(3):
        assert watched.looks() == {}
    assert messages(repo) == ["step_6.pt"]
    report = watched.watching.report()
    assert isinstance(report.error, ImportFormatError)
    assert "step_7.pt: its end is missing" in str(report.error)
    torch.save(state(7), empty / "step_7.pt")
    assert watched.looks() == {"step_7.pt": "taken"}


def test_a_file_that_is_written_again_under_its_name_is_taken_again_in_place_or_replaced(
    repo: Repository, empty: Path, watched: Watched
) -> None:
    source = (
        PREPARED
        + """
    for number in range(3):
        torch.save(state(number), folder / "latest.pt")
        step("in place")
    torch.save(state(3), folder / "latest.tmp")
    os.replace(folder / "latest.tmp", folder / "latest.pt")
    step("replaced")
"""
    )
    with Program(source, empty) as writer:
        for number in range(4):
            assert writer.line() == ("replaced" if number == 3 else "in place")
            assert watched.looks() == {"latest.pt": "taken"}
            assert watched.looks() == {}
            assert_same(repo.load(), state(number))
            writer.say()
        writer.process.wait()
    assert messages(repo) == ["latest.pt"] * 4


def test_a_file_that_is_cut_off_while_it_is_read_ends_nothing_and_is_taken_when_it_rests_again(
    repo: Repository, empty: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it mapped, reading behind its new end would end the process."""
    really = formats.read_state
    path = empty / "latest.pt"
    torch.save(state(1), path)
    reads: list[Path] = []

    def read(place: Path) -> object:
        found = really(place)
        if not reads:
            path.write_bytes(b"")
        reads.append(place)
        return found

    monkeypatch.setattr("casckpt.tensors.formats.read_state", read)
    assert watched.looks() == {}
    assert watched.waiting() == {"latest.pt": "it is being written to"}
    torch.save(state(2), path)
    assert watched.looks() == {"latest.pt": "taken"}
    assert_same(repo.load(), state(2))
    assert len(reads) == 2
    assert path not in reads
    assert not any(place.parent.exists() for place in reads)


def test_a_folder_that_is_written_again_and_again_is_read_without_what_is_below_it(
    repo: Repository, empty: Path, watched: Watched
) -> None:
    place = empty / "latest"
    (place / "logs").mkdir(parents=True)
    torch.save(state(1), place / "pytorch_model.bin")
    (place / "config.json").write_text("{}")
    for name in ("a", "b", "logs/a", "logs/b"):  # followed, they would never end
        (place / name).symlink_to(place / "logs")
    (place / "c").symlink_to("nowhere")
    assert watched.looks() == {"latest": "taken"}
    assert_same(repo.load(), {"model": state(1), "files": {"config.json": b"{}"}})
    assert repo.resolve().meta["left_out"] == ["a", "b", "c", "logs"]


def test_what_was_taken_may_be_deleted_and_what_the_branch_has_is_not_taken_again(
    repo: Repository, empty: Path, watched: Watched
) -> None:
    for step in (10, 9):
        torch.save(state(step), empty / f"step_{step}.pt")
    assert watched.looks() == {"step_9.pt": "taken", "step_10.pt": "taken"}
    assert messages(repo) == ["step_9.pt", "step_10.pt"]
    (empty / "step_9.pt").unlink()
    assert watched.looks() == {}
    assert Watched(repo, empty).looks() == {}
    assert_same(repo.load("step:9"), state(9))


def test_a_file_that_vanishes_between_two_looks_at_it_is_passed_over(
    empty: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state(1), empty / "step_1.pt")
    assert watched.look() == {}

    def gone(path: Path) -> bool:
        path.unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr("casckpt.tensors.intake.watch.is_being_written", gone)
    assert watched.look(SETTLE) == {}
    assert watched.looks() == {}


def test_somebody_else_may_commit_to_the_branch_and_even_take_in_the_same_files(
    repo: Repository, empty: Path, watched: Watched
) -> None:
    with casckpt.open(repo.path) as other:
        for step in (1, 2):
            torch.save(state(step), empty / f"step_{step}.pt")
        assert watched.look() == {}
        other.import_folder(empty, pattern="step_1.pt")
        other.commit({"x": 1}, "of somebody else")
        assert watched.look(SETTLE) == {"step_1.pt": "present", "step_2.pt": "taken"}
    assert messages(repo) == ["step_1.pt", "of somebody else", "step_2.pt"]


def test_a_full_store_ends_the_watch(
    repo: Repository, empty: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state(1), empty / "step_1.pt")

    def full(*arguments: object, **options: object) -> None:
        raise StoreFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Repository, "commit", full)
        with pytest.raises(StoreFullError):
            watched.looks()
    assert watched.looks() == {"step_1.pt": "taken"}


# -- how often it looks ------------------------------------------------------------------------------------------------


class Ticking(threading.Event):
    """A stop that is never waited for: each wait passes on the test's own clock, and the last one stops."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.waits = waits
        self.waited: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        if len(self.waited) > self.waits:
            self.set()
        return self.is_set()

    def clock(self) -> float:
        return sum(wait or 0 for wait in self.waited)


def test_it_looks_at_every_interval_until_it_is_stopped_and_takes_what_rests(repo: Repository, empty: Path) -> None:
    torch.save(state(1), empty / "step_1.pt")
    stop = Ticking(3)
    watching = Watching(repo, empty, settle=5, stop=stop)
    report = keep_looking(watching, interval=2, stop=stop, clock=stop.clock)
    assert stop.waited == [2, 2, 2, 2]
    assert report.taken == 1
    stop = Ticking(1)
    torch.save(state(2), empty / "step_2.pt")
    watching = Watching(repo, empty, settle=5, stop=stop)
    report = keep_looking(watching, interval=2, stop=stop, clock=stop.clock)
    assert (report.taken, [item.reason for item in report.items]) == (0, ["it was changed not long ago"])


def test_once_it_looks_twice_so_far_apart_that_what_rests_is_known(repo: Repository, empty: Path) -> None:
    torch.save(state(1), empty / "step_1.pt")
    stop = Ticking(9)
    watching = Watching(repo, empty, settle=5, stop=stop)
    assert keep_looking(watching, interval=2, stop=stop, once_after=5, clock=stop.clock).taken == 1
    assert stop.waited == [5]


def test_a_stop_that_comes_while_many_are_taken_ends_it_behind_the_one_at_hand(repo: Repository, empty: Path) -> None:
    for step in range(5):
        torch.save(state(step), empty / f"step_{step}.pt")
    stop = threading.Event()
    report = repo.watch(empty, interval=0.001, settle=0, stop=stop, on_item=lambda item: stop.set())
    assert report.taken == 1
    assert [item.reason for item in report.of(Outcome.WAITING)] == ["it was not come to"] * 4
    assert messages(repo) == ["step_0.pt"]


def test_a_folder_that_is_not_there_is_an_error_at_first_and_waited_out_later(repo: Repository, empty: Path) -> None:
    with pytest.raises(ImportFormatError, match="none"):
        repo.watch(empty / "none")
    torch.save(state(1), empty / "step_1.pt")

    class Remounted(Ticking):
        def wait(self, timeout: float | None = None) -> bool:
            if len(self.waited) == 1:
                empty.rename(empty.with_name("away"))
            elif len(self.waited) == 2:
                empty.with_name("away").rename(empty)
            return super().wait(timeout)

    stop = Remounted(6)
    watching = Watching(repo, empty, settle=5, stop=stop)
    assert keep_looking(watching, interval=2, stop=stop, clock=stop.clock).taken == 1


def test_an_index_is_watched_with_its_shards(repo: Repository, empty: Path) -> None:
    tensors = {"w": torch.ones(100), "v": torch.ones(100)}
    repo.commit(tensors)
    repo.export("HEAD", empty / "latest.safetensors", max_shard_size=400)
    watched = Watched(repo, empty, pattern="*.index.json")
    assert watched.looks() == {"latest.safetensors.index.json": "taken"}
    assert_same(repo.load(), tensors)
