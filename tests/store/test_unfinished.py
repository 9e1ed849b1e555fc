"""What a command that was killed leaves in the folder of its new store is known to it, and nothing else is."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import casckpt
from casckpt.errors import NotAStoreError, StoreBusyError
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from casckpt.store.locks import FileLock
from tests.history.world import commit, load, noise
from tests.native import BEFORE, build, doomed

WORK = """
import casckpt

def work(folder, arm, disarm):
    arm()
    casckpt.salvage(folder + " of it", folder)
"""
STATE = {"model": {"w": noise(1, 3000)}}
LAST = 1000  # more calls than a salvage makes
DONE = {"data.mdb", "mark", "gate"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with History(open_store(tmp_path / "store")) as history:
        commit(history, STATE)
    return tmp_path / "store"


def names(place: Path) -> set[str]:
    return {entry.name for entry in place.iterdir()} if place.exists() else set()


def whole(place: Path) -> bool:
    with History(open_store(place, create=False)) as history:
        return load(history, "main") == STATE and history.fsck(read_data=True).ok


def again(command: str, store: Path, place: Path) -> None:
    if command == "salvage":
        casckpt.salvage(store, place)
    else:
        with History(open_store(store, create=False)) as history:
            history.backup(place)


def leave(command: str, store: Path, place: Path) -> None:
    """What a command leaves that is killed right after its store has its name."""
    again(command, store, place)
    (place / {"salvage": "salvaging.lock", "backup": "backing-up.lock"}[command]).touch()
    for name in ("mark", "gate"):
        (place / name).unlink()


def test_a_salvage_that_was_killed_anywhere_can_be_given_again(store: Path, tmp_path: Path) -> None:
    """Or all is there, and it says so. Killed at every tenth call, and at each of the last ones."""
    replaced = finished = 0
    coarse = itertools.count(1, 10)
    fine: Iterator[int] = iter(())
    with doomed(WORK, build("faults", tmp_path)) as one:
        while (number := next(fine, None) or next(coarse)) < LAST:
            place = tmp_path / f"{number}"
            source = Path(f"{place} of it")
            shutil.copytree(store, source)
            if one.meets(number, BEFORE, place) == 0:
                fine, coarse = iter(range(number - 12, number)), itertools.count(LAST)
                shutil.rmtree(place)
                shutil.rmtree(source)
                continue
            there = names(place)
            if "data.mdb" in there and "salvaging.lock" not in there:
                finished += 1
                with pytest.raises(NotAStoreError, match="it is whole"):
                    casckpt.salvage(source, place)
            else:
                replaced += "data.mdb" in there
                casckpt.salvage(source, place)
            assert names(place) == DONE and whole(place)
            shutil.rmtree(place)
            shutil.rmtree(source)
    assert replaced > 2 and finished > 0


@pytest.mark.parametrize("command", ["salvage", "backup"])
def test_what_somebody_has_opened_since_is_not_replaced(store: Path, tmp_path: Path, command: str) -> None:
    leave(command, store, tmp_path / "new")
    with History(open_store(tmp_path / "new", create=False)) as history:
        commit(history, STATE, "after it")
    assert not {"salvaging.lock", "backing-up.lock"} & names(tmp_path / "new")
    with pytest.raises(NotAStoreError, match=r"a store, or a whole backup, is in this folder"):
        again(command, store, tmp_path / "new")
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert [one.message for one in history.log()] == ["after it", ""]


@pytest.mark.parametrize("command", ["salvage", "backup"])
def test_who_opens_it_while_another_is_made_keeps_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Looked at again under the gate, right before the new one would get its name."""
    leave(command, store, tmp_path / "new")
    real = FileLock.__init__

    def opened(lock: FileLock, path: Path) -> None:
        if path == tmp_path / "new" / "gate":
            monkeypatch.setattr(FileLock, "__init__", real)
            with History(open_store(tmp_path / "new", create=False)) as history:
                commit(history, STATE, "meanwhile")
        real(lock, path)

    monkeypatch.setattr(FileLock, "__init__", opened)
    with pytest.raises(NotAStoreError):
        again(command, store, tmp_path / "new")
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert [one.message for one in history.log()] == ["meanwhile", ""]


@pytest.mark.parametrize("command", ["salvage", "backup"])
def test_what_is_unfinished_stays_until_another_is_whole(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The disk that is salvaged may give less the second time."""
    leave(command, store, tmp_path / "new")
    data = (tmp_path / "new" / "data.mdb").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="on the way"):
        for name in ("casckpt.history.salvage.run.build", "casckpt.store.backup._pump"):
            patch.setattr(name, lambda *args: (_ for _ in ()).throw(RuntimeError("on the way")))
        again(command, store, tmp_path / "new")
    assert (tmp_path / "new" / "data.mdb").read_bytes() == data
    again(command, store, tmp_path / "new")
    assert names(tmp_path / "new") == DONE and whole(tmp_path / "new")


@pytest.mark.parametrize("command", ["salvage", "backup"])
def test_what_was_finished_is_not_replaced(store: Path, tmp_path: Path, command: str) -> None:
    again(command, store, tmp_path / "new")
    data = (tmp_path / "new" / "data.mdb").read_bytes()
    for other in ("salvage", "backup"):
        with pytest.raises(NotAStoreError, match="if a command that was killed put it there, it is whole: open it"):
            again(other, store, tmp_path / "new")
    assert (tmp_path / "new" / "data.mdb").read_bytes() == data and names(tmp_path / "new") == DONE


def test_a_store_of_somebody_s_own_is_not_taken_for_what_a_salvage_left(store: Path, tmp_path: Path) -> None:
    """It has the name of the folder in which a salvage makes its store."""
    mine = tmp_path / "runs" / "salvaging"
    with History(open_store(mine)) as history:
        commit(history, STATE)
    with pytest.raises(NotAStoreError, match=r"other things are in this folder \(salvaging\)"):
        casckpt.salvage(store, tmp_path / "runs")
    assert names(tmp_path / "runs") == {"salvaging"} and whole(mine)
    with History(open_store(tmp_path / "runs2")) as history:  # nor by whoever opens a store around it
        commit(history, STATE)
    shutil.copytree(mine, tmp_path / "runs2" / "salvaging")
    open_store(tmp_path / "runs2").close()
    assert whole(tmp_path / "runs2" / "salvaging")


@pytest.mark.parametrize("command", ["salvage", "backup"])
def test_another_that_lives_is_left_alone(store: Path, tmp_path: Path, command: str) -> None:
    leave(command, store, tmp_path / "new")
    before = names(tmp_path / "new")
    (name,) = before - {"data.mdb"}
    lock = FileLock(tmp_path / "new" / name)
    assert lock.acquire(wait=False)
    with pytest.raises(StoreBusyError, match=f"another {command} to this place is under way"):
        again(command, store, tmp_path / "new")
    assert names(tmp_path / "new") == before
    lock.release()
    again(command, store, tmp_path / "new")
    assert names(tmp_path / "new") == DONE


@pytest.mark.parametrize("command", ["salvage", "backup"])
def test_the_other_command_does_not_take_it_for_its_own(store: Path, tmp_path: Path, command: str) -> None:
    leave(command, store, tmp_path / "new")
    other = {"salvage": "backup", "backup": "salvage"}[command]
    before = names(tmp_path / "new")
    with pytest.raises(NotAStoreError):
        again(other, store, tmp_path / "new")
    assert names(tmp_path / "new") == before
