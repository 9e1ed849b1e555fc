"""A folder of checkpoints becomes one history: in order, each equal to its file, none twice, and nothing torn."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import casckpt
from benchmarks.folder import check, train
from casckpt.errors import ImportFormatError, RefMovedError, StateError
from casckpt.limits import SAVE_BATCH, SAVE_MEMORY
from casckpt.tensors import formats
from casckpt.tensors.intake import intake as module
from casckpt.tensors.intake.report import Item, Outcome
from casckpt.tensors.repository import Repository
from tests.equality import assert_same
from tests.processes import Program, run
from tests.tensors.intake.conftest import state


def messages(repo: Repository, revision: str = "HEAD") -> list[str]:
    return [commit.message for commit in repo.log(revision)][::-1]


def test_thirty_checkpoints_of_a_real_training_run_are_one_history_and_each_loads_equal_to_its_file(
    repo: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    losses = train(folder, 30, 16, 128, between=4)
    assert losses[-1] < losses[0] * 0.95
    report = repo.import_folder(folder)
    check(repo, folder, [4 * number for number in range(1, 31)])
    assert [item.outcome for item in report.items] == [Outcome.TAKEN] * 30
    assert report.nbytes == sum(file.stat().st_size for file in folder.iterdir())
    assert report.stored == sum(commit.figures.stored for commit in repo.log() if commit.figures)
    assert report.saved > 1.3
    assert report.after.file - report.before.file > report.stored
    assert len(list(repo.log())) == 30


def test_a_folder_is_one_history_and_says_of_each_commit_where_it_is_from(repo: Repository, folder: Path) -> None:
    told: list[Item] = []
    seen: list[tuple[str, int, int]] = []
    report = repo.import_folder(folder, on_item=told.append, progress=lambda *now: seen.append(now))
    assert messages(repo) == ["step_9.pt", "step_10.pt", "step_100.pt"]
    assert tuple(told) == report.items
    commits = list(repo.log())[::-1]
    assert [item.commit for item in told] == commits
    assert [commit.parents for commit in commits] == [(), (commits[0].id,), (commits[1].id,)]
    for commit in commits:
        file = folder / commit.message
        assert commit.step == int(file.stem.removeprefix("step_"))
        found = file.stat()
        assert commit.meta["source"] == {
            "name": file.name,
            "bytes": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "format": "torch",
        }
        assert_same(repo.load(commit.id), state(commit.step))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[0] == ("step_9.pt", 0, report.nbytes)
    assert seen[-1] == ("step_100.pt", report.nbytes, report.nbytes)


def test_what_the_branch_has_is_passed_over_and_what_is_new_or_replaced_is_taken(
    repo: Repository, folder: Path
) -> None:
    repo.import_folder(folder)
    before = list(repo.log())
    again = repo.import_folder(folder)
    assert {item.outcome for item in again.items} == {Outcome.PRESENT}
    assert [item.commit for item in again.items] == before[::-1]
    assert (again.taken, again.nbytes, again.stored) == (0, 0, 0)
    torch.save(state(50), folder / "step_50.pt")
    found = (folder / "step_9.pt").stat()
    os.utime(folder / "step_9.pt", ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    report = repo.import_folder(folder)
    assert [item.name for item in report.of(Outcome.TAKEN)] == ["step_9.pt", "step_50.pt"]
    assert list(repo.log())[2:] == before
    assert repo.import_folder(folder, part="ema").taken == 4


@pytest.mark.parametrize("odd", ["a link to nothing", "a link to itself", "a pipe"])
def test_a_folder_with_something_odd_in_it_is_taken_once(odd: str, repo: Repository, tmp_path: Path) -> None:
    place = tmp_path / "run" / "checkpoint-5"
    place.mkdir(parents=True)
    torch.save(state(5), place / "pytorch_model.bin")
    if odd == "a pipe":
        os.mkfifo(place / "odd")
        os.utime(place / "odd", ns=(0, 1 << 62))
    else:
        (place / "odd").symlink_to("nowhere" if odd == "a link to nothing" else "odd")
    (commit,) = [item.commit for item in repo.import_folder(place.parent).items]
    assert commit is not None and commit.meta["left_out"] == ["odd"]
    assert repo.import_folder(place.parent).taken == 0
    imported = repo.import_file(place)
    assert imported.meta["source"] == commit.meta["source"]


def test_the_shards_of_an_index_are_looked_at_as_the_index_is(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "model.safetensors.index.json"
    repo.commit({"w": torch.ones(100), "v": torch.ones(100)})
    repo.export("HEAD", tmp_path / "model.safetensors", max_shard_size=400)
    (item,) = repo.import_folder(index).items
    assert item.nbytes == sum(path.stat().st_size for path in tmp_path.glob("model*"))
    assert repo.import_folder(index).taken == 0
    shard = tmp_path / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes())
    assert repo.import_folder(index).taken == 1
    commit = repo.commit

    def meanwhile(*given: Any, **options: Any) -> Any:
        os.utime(shard, ns=(1, 1))
        return commit(*given, **options)

    monkeypatch.setattr(repo, "commit", meanwhile)
    for take in (repo.import_file, repo.import_folder):
        shard.touch()
        with pytest.raises(ImportFormatError, match="written to while"):
            take(index)


def test_a_pruned_checkpoint_does_not_come_back_and_a_branch_without_it_takes_it(
    repo: Repository, folder: Path
) -> None:
    repo.import_folder(folder)
    repo.prune(casckpt.Keep(last=1))
    assert repo.import_folder(folder).taken == 0
    with casckpt.open(repo.path, branch="again") as other:
        assert other.import_folder(folder).taken == 3
        assert len(list(other.log())) == 3


def test_a_dry_run_says_what_would_be_taken_and_takes_nothing(repo: Repository, folder: Path) -> None:
    torch.save(state(10), folder / "step_10.ckpt")
    report = repo.import_folder(folder, dry_run=True, on_item=lambda item: pytest.fail(item.name))
    assert [(item.name, item.step, item.outcome) for item in report.items] == [
        ("step_9.pt", 9, Outcome.WAITING),
        ("step_10.pt", 10, Outcome.WAITING),
        ("step_100.pt", 100, Outcome.WAITING),
    ]
    assert [one.name for one in report.left_out] == ["step_10.ckpt"]
    assert list(repo.log()) == []
    assert report.before == report.after


def test_part_message_and_pattern(repo: Repository, folder: Path) -> None:
    repo.import_folder(folder, pattern="step_1*", part="model", message="run 7")
    assert messages(repo) == ["run 7: step_10.pt", "run 7: step_100.pt"]
    assert_same(repo.load("step:10"), {"model": state(10)})
    assert repo.import_folder(folder, pattern="step_1*", part="model").taken == 0


# -- which step --------------------------------------------------------------------------------------------------------


def trainer_folder(place: Path, step: int) -> Path:
    """A checkpoint as transformers' Trainer lays it out."""
    place.mkdir(parents=True)
    save_file({"w": torch.full((3000,), float(step))}, place / "model.safetensors")
    torch.save({"state": {}, "param_groups": []}, place / "optimizer.pt")
    (place / "config.json").write_text("{}")
    (place / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return place


def test_the_step_is_the_one_that_the_name_says_else_that_of_the_state_else_the_number(
    repo: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    trainer_folder(folder / "checkpoint-2", 2000)
    trainer_folder(folder / "step_3", 2001)
    save_file({"w": torch.ones(3)}, folder / "weights_4.safetensors")
    save_file({"w": torch.ones(3)}, folder / "best.safetensors")
    trainer_folder(folder / "last", 2002)
    os.utime(folder / "best.safetensors", ns=(0, 0))
    repo.import_folder(folder)
    assert [(commit.message, commit.step) for commit in repo.log()][::-1] == [
        ("checkpoint-2", 2000),
        ("step_3", 3),
        ("weights_4.safetensors", 4),
        ("best.safetensors", None),
        ("last", 2002),
    ]


def test_a_folder_that_is_one_checkpoint_is_one_commit(repo: Repository, tmp_path: Path) -> None:
    report = repo.import_folder(trainer_folder(tmp_path / "checkpoint-7", 7))
    assert [(item.name, item.step) for item in report.items] == [("checkpoint-7", 7)]
    assert torch.equal(repo.load()["model"]["w"], torch.full((3000,), 7.0))
    assert repo.import_folder(tmp_path / "checkpoint-7").taken == 0
    (tmp_path / "checkpoint-7" / "config.json").write_text("{ }")
    assert repo.import_folder(tmp_path / "checkpoint-7").taken == 1


# -- what cannot be read -----------------------------------------------------------------------------------------------


def spoil(folder: Path, name: str) -> str:
    """Make a file of the folder one that cannot be read; returns what its error must say."""
    path = folder / name
    if "bad_pickle" in name:
        torch.save({"w": torch.ones(3), "evil": Evil(folder / "evil")}, path)
        return "weights_only"
    if "foreign" in name:
        path.write_bytes(b"no checkpoint at all" * 100)
        return name
    whole = folder / "whole.pt"
    torch.save(state(1), whole)
    path.write_bytes(whole.read_bytes()[:-100])
    whole.unlink()
    return name


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["step_50_cut.pt", "step_50_foreign.bin", "step_50_bad_pickle.pt"])
def test_a_file_that_cannot_be_read_stops_the_import_or_is_skipped_and_named_either_way(
    name: str, repo: Repository, folder: Path
) -> None:
    said = spoil(folder, name)
    told: list[Item] = []
    with pytest.raises(ImportFormatError, match=said) as stopped:
        repo.import_folder(folder, on_item=told.append)
    assert stopped.value.file == str(folder / name)
    assert messages(repo) == ["step_9.pt", "step_10.pt"]
    assert [item.outcome for item in told] == [Outcome.TAKEN, Outcome.TAKEN, Outcome.FAILED]
    report = repo.import_folder(folder, skip_bad=True)
    assert [item.outcome for item in report.items] == [
        Outcome.PRESENT,
        Outcome.PRESENT,
        Outcome.FAILED,
        Outcome.TAKEN,
    ]
    assert report.error is not None
    assert str(folder / name) in str(report.error)
    assert messages(repo) == ["step_9.pt", "step_10.pt", "step_100.pt"]
    assert not (folder / "evil").exists()


def test_a_state_that_cannot_be_saved_is_named_and_skipped_as_well(
    repo: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = formats.read_state

    def read(path: Path) -> Any:
        found = really(path)
        if path.name == "step_10.pt":
            found.state["odd"] = object()
        return found

    monkeypatch.setattr("casckpt.tensors.formats.read_state", read)
    with pytest.raises(StateError, match="odd"):
        repo.import_folder(folder)
    assert repo.import_folder(folder, skip_bad=True).taken == 1
    assert messages(repo) == ["step_9.pt", "step_100.pt"]


@pytest.mark.parametrize("how", ["written", "replaced", "gone"])
def test_a_file_that_is_written_to_while_it_is_read_is_not_committed(
    how: str, repo: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = formats.read_state

    def read(path: Path) -> Any:
        found = really(path)
        if path.name == "step_10.pt":
            if how == "written":
                with path.open("r+b") as file:
                    file.seek(path.stat().st_size // 2)
                    file.write(b"torn")
            elif how == "replaced":
                before = path.stat()
                torch.save(state(11), path.with_suffix(".tmp"))
                os.utime(path.with_suffix(".tmp"), ns=(before.st_atime_ns, before.st_mtime_ns))
                path.with_suffix(".tmp").replace(path)
            else:
                path.unlink()
        return found

    with monkeypatch.context() as patch:
        patch.setattr("casckpt.tensors.formats.read_state", read)
        with pytest.raises(ImportFormatError, match="step_10"):
            repo.import_folder(folder)
    assert messages(repo) == ["step_9.pt"]
    assert all(found.severity == "info" for found in repo.fsck(read_data=True).findings)
    if how == "replaced":
        assert repo.import_folder(folder).taken == 2
        assert_same(repo.load("step:10"), state(11))


def test_a_path_without_a_checkpoint_is_named(repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tmp-step_1.pt").touch()
    os.mkfifo(tmp_path / "pipe.pt")
    for name, said in (
        ("none", "no such file"),
        ("none/none", "no such file"),
        ("empty", "no checkpoint"),
        ("notes", "tmp-step_1.pt: a temporary name"),
        ("pipe.pt", "neither a file nor a folder"),
    ):
        with pytest.raises(ImportFormatError, match=said) as error:
            repo.import_folder(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_somebody_elses_move_of_the_branch_ends_the_import_whatever_is_skipped(repo: Repository, folder: Path) -> None:
    def meanwhile(item: Item) -> None:
        with casckpt.open(repo.path) as other:
            other.commit({"x": 1}, "of somebody else")

    with pytest.raises(RefMovedError):
        repo.import_folder(folder, skip_bad=True, on_item=meanwhile)
    repo.switch("main")
    assert messages(repo) == ["step_9.pt", "of somebody else"]
    assert repo.import_folder(folder).taken == 2


# -- killed, and memory ------------------------------------------------------------------------------------------------

IMPORTER = """
    import sys
    import casckpt
    def told(item):
        if item.outcome.value == "taken":
            print(item.name, flush=True)
            input()
    with casckpt.open(sys.argv[1]) as repo:
        repo.import_folder(sys.argv[2], on_item=told)
"""


def test_killed_in_the_middle_and_run_again_it_goes_on_with_the_rest(folder: Path, tmp_path: Path) -> None:
    for step in range(200, 208):
        torch.save(state(step), folder / f"step_{step}.pt")
    for _ in range(3):
        with Program(IMPORTER, tmp_path / "store", folder) as program:
            program.line()
            program.say()
            program.line()
            program.say()  # it is at the third now, somewhere
            program.kill()
    with casckpt.open(tmp_path / "store") as repo:
        before = messages(repo)
        assert 6 <= len(before) < 11
        report = repo.import_folder(folder)
        assert report.taken == 11 - len(before)
        assert messages(repo) == ["step_9.pt", "step_10.pt", "step_100.pt", *(f"step_{n}.pt" for n in range(200, 208))]
        for commit in repo.log():
            assert commit.step is not None
            assert_same(repo.load(commit.id), state(commit.step))
        assert all(found.severity == "info" for found in repo.fsck(read_data=True).findings)


# The peak of anonymous and shared memory while states are taken in, above what it was before.
MEASURED = """
    import sys, threading
    from pathlib import Path
    import torch
    import casckpt

    def held():
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return sum(int(lines[name].split()[0]) for name in ("RssAnon", "RssShmem")) << 10

    folder, store, how = sys.argv[1:]
    with casckpt.open(store, codec="none") as repo:
        repo.commit({"first": torch.zeros(1 << 20)})
        before = peak = held()
        ended = threading.Event()
        def sample():
            global peak
            while not ended.wait(0.002):
                peak = max(peak, held())
        sampler = threading.Thread(target=sample)
        sampler.start()
        if how == "import":
            report = repo.import_folder(folder, skip_bad=True)
        else:
            report = repo.watch(folder, settle=0, once=True)
        ended.set()
        sampler.join()
        print(report.taken, peak - before)
"""


@pytest.mark.parametrize(("how", "states"), [("import", 0), ("watch", 1)])
def test_never_are_two_states_in_memory(how: str, states: int, tmp_path: Path) -> None:
    """An import maps its files; a watch reads a copy of one that may be written again. Beside that, a save has its
    staging pool, the copy of one batch that LMDB makes, and the one before where malloc keeps it."""
    size = 64 << 20
    folder = tmp_path / "run"
    folder.mkdir()
    for number in range(6):
        name = f"step_{number}.pt" if how == "import" else f"{'abcdef'[number]}.pt"
        torch.save({"w": torch.randint(256, (size,), dtype=torch.uint8)}, folder / name)
    (folder / "step_50.pt").write_bytes((folder / name).read_bytes()[:-1000])
    taken, peak = map(int, run(MEASURED, folder, tmp_path / "store", how).split())
    assert taken == 6
    assert peak < SAVE_MEMORY + 2 * SAVE_BATCH + (states + 0.4) * size


def test_the_error_of_a_checkpoint_that_is_skipped_keeps_no_state_in_memory(
    repo: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    really = formats.read_state
    alive: list[weakref.ref[torch.Tensor]] = []

    def read(path: Path) -> Any:
        found = really(path)
        alive.append(weakref.ref(found.state["model"]["w"]))
        found.state["odd"] = object()
        return found

    monkeypatch.setattr("casckpt.tensors.formats.read_state", read)
    report = repo.import_folder(folder, skip_bad=True)
    assert len(report.of(Outcome.FAILED)) == 3
    assert [found() for found in alive] == [None, None, None]


def test_the_branch_is_asked_once_however_many_checkpoints_there_are(
    repo: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    really = module.Intake.look_again
    monkeypatch.setattr(module.Intake, "look_again", lambda self: (asked.append(None), really(self)))
    repo.import_folder(folder)
    assert len(asked) == 1
