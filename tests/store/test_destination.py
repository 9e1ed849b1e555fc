"""A backup and a salvage make a store in a place of their own: what is not theirs there stays, whenever it came."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

import casckpt
from casckpt.errors import NotAStoreError, StoreBusyError, StoreError
from casckpt.history.repository import History
from casckpt.history.salvage import run
from casckpt.store import destination, opening
from casckpt.store.lmdb_store import open_store
from casckpt.store.locks import FileLock
from casckpt.store.mark import read_mark
from tests.history.world import commit, load, noise
from tests.native import BEFORE, KILLED, build, doomed
from tests.processes import PATIENCE, ROOT

WORK = """
import casckpt
import casckpt.history.salvage.run  # once, and not in each child

def work(folder, arm, disarm):
    arm()
    casckpt.salvage(folder + " of it", folder)
"""
STATE = {"model": {"w": noise(1, 3000)}}
LAST = 1000  # more calls than a salvage makes
DONE = {"data.mdb", "mark", "gate"}
BEGUN = {"salvage": "salvaging", "backup": "backing-up"}
both = pytest.mark.parametrize("command", ["salvage", "backup"])


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


def give(command: str, store: Path, place: Path) -> None:
    if command == "salvage":
        casckpt.salvage(store, place)
    else:
        with History(open_store(store, create=False)) as history:
            history.backup(place)


def everything(folder: Path) -> dict[Path, bytes | None]:
    """All that is in a folder, and where its links lead to."""
    return {one: one.read_bytes() if one.is_file() else None for one in folder.rglob("*")}


def at_the_end(monkeypatch: pytest.MonkeyPatch, do: Callable[[Path], None]) -> None:
    """Have something happen right before the place is looked at under the gate."""
    real = FileLock.acquire

    def acquire(lock: FileLock, *, wait: bool = True) -> bool:
        mine = real(lock, wait=wait)
        if lock.path.name == "gate" and any(map(destination._LEFTOVER.fullmatch, names(lock.path.parent))):
            monkeypatch.setattr(FileLock, "acquire", real)
            do(lock.path.parent)
        return mine

    monkeypatch.setattr(FileLock, "acquire", acquire)


def test_a_salvage_that_was_killed_anywhere_leaves_nothing_or_names_it_or_is_whole(store: Path, tmp_path: Path) -> None:
    """Killed at one call of so many, and of the last ones at every third. What lies beside a whole one is in no way."""
    seen = {"whole": 0, "whole beside": 0, "left": 0}
    coarse = itertools.count(1, 40)
    fine: Iterator[int] = iter(())
    with doomed(WORK, build("faults", tmp_path)) as one:
        while (number := next(fine, None) or next(coarse)) < LAST:
            place = tmp_path / f"{number}"
            source = Path(f"{place} of it")
            shutil.copytree(store, source)
            if (ended := one.meets(number, BEFORE, place)) == 0:
                fine, coarse = iter(range(max(1, number - 60), number, 3)), itertools.count(LAST)
            left = [name for name in names(place) if name.startswith("salvaging-")]
            if ended == KILLED and "data.mdb" in names(place):
                seen["whole beside" if left else "whole"] += 1
                with pytest.raises(NotAStoreError, match="it is whole: open it"):
                    casckpt.salvage(source, place)
                assert whole(place) and set(left) <= names(place)
                if seen["whole beside"] < 3:
                    with History(open_store(place, create=False)) as history:
                        commit(history, {"model": {"w": noise(2, 3000)}})
                        history.compact()
                    with History(open_store(place, create=False)) as history:
                        assert history.fsck(read_data=True).ok and load(history, "main~1") == STATE
            elif ended == KILLED:
                if left:
                    seen["left"] += 1
                    before = everything(place)
                    for again in (lambda: open_store(place), lambda: casckpt.salvage(source, place)):  # noqa: B023
                        with pytest.raises(NotAStoreError, match=f"nothing in {left[0]} was acknowledged"):
                            again()
                    assert everything(place) == before
                    shutil.rmtree(place / left[0])
                casckpt.salvage(source, place)
                assert names(place) == DONE and whole(place)
            shutil.rmtree(place)
            shutil.rmtree(source)
    assert seen["left"] > 3 and seen["whole beside"] > 1, seen


@both
@pytest.mark.parametrize("what", ["lock", "store", "link", "partial", "linked partial", "left of both", "hidden"])
def test_whatever_lies_there_stays(store: Path, tmp_path: Path, command: str, what: str) -> None:
    place, mine = tmp_path / "new", tmp_path / "mine"
    place.mkdir()
    shutil.copytree(store, mine)
    left = place / f"{BEGUN[command]}-{'0' * 32}"
    if what == "lock":
        (place / "salvaging.lock").touch()
        shutil.copytree(store, place, dirs_exist_ok=True)
    elif what == "store":
        shutil.copytree(store, left)
    elif what == "link":
        left.symlink_to(mine)
    elif what == "partial":
        (place / "data.mdb.partial").write_bytes(b"a download")
    elif what == "linked partial":
        (place / "data.mdb.partial").symlink_to(mine / "data.mdb")
    elif what == "left of both":
        for begun in BEGUN.values():
            (place / f"{begun}-{'0' * 32}").mkdir()
    else:
        (place / ".notes").touch()
    before = everything(tmp_path)
    with pytest.raises(NotAStoreError):
        give(command, store, place)
    after = everything(tmp_path)
    assert {one: after.get(one) for one in before if store not in one.parents} == {
        one: before[one] for one in before if store not in one.parents
    }
    assert names(place) == {one.name for one in before if one.parent == place}


def test_what_a_salvage_left_can_be_salvaged_and_helps_another(store: Path, tmp_path: Path) -> None:
    left = tmp_path / "new" / f"salvaging-{'0' * 32}"
    shutil.copytree(store, left)
    before = everything(left)
    for source, others in ((left, []), (left / "data.mdb", []), (store, [left])):
        with pytest.raises(NotAStoreError):
            casckpt.salvage(source, tmp_path / "new", others=others)
    assert everything(left) == before
    casckpt.salvage(left, tmp_path / "elsewhere")
    assert whole(tmp_path / "elsewhere")


@both
def test_a_store_that_is_made_there_meanwhile_is_not_replaced(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """By who looked at the place before anything was in it, and came to the gate first."""

    def make(path: Path, wanted: Any) -> None:
        monkeypatch.setattr(opening, "_check_place", real)

    def first(path: Path) -> Any:
        monkeypatch.setattr(destination, "_gate", gate)
        monkeypatch.setattr(opening, "_check_place", make)
        with History(open_store(tmp_path / "new")) as history:
            commit(history, STATE, "acknowledged")
        return gate(path, next(name for name in names(path) if name.startswith(BEGUN[command])))

    real, gate = opening._check_place, destination._gate
    monkeypatch.setattr(destination, "_gate", lambda place, own: first(place))
    with pytest.raises(NotAStoreError, match="a store, or a whole backup"):
        give(command, store, tmp_path / "new")
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert [one.message for one in history.log()] == ["acknowledged"]
    assert not [name for name in names(tmp_path / "new") if name.startswith(BEGUN[command])]


@both
@pytest.mark.parametrize("links", [True, False])
def test_a_data_file_that_comes_at_the_last_moment_is_not_replaced(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, links: bool
) -> None:
    """Where the gate keeps nobody out, a link replaces nothing; without links there is a look."""
    real = destination._give_name

    def name(made: Path, to: Path) -> None:
        to.write_bytes(b"acknowledged")
        real(made, to)

    def link(made: Path, to: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(destination, "_give_name", name)
    if not links:
        monkeypatch.setattr(os, "link", link)
    with pytest.raises(NotAStoreError, match="a store, or a whole backup"):
        give(command, store, tmp_path / "new")
    assert (tmp_path / "new/data.mdb").read_bytes() == b"acknowledged"
    assert names(tmp_path / "new") == {"data.mdb", "gate"}


@both
def test_what_comes_meanwhile_is_a_reason_to_refuse(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    other = f"{BEGUN[command]}-{'1' * 32}"
    at_the_end(monkeypatch, lambda place: (place / other).mkdir())
    with pytest.raises(NotAStoreError, match=other):
        give(command, store, tmp_path / "new")
    assert names(tmp_path / "new") == {other, "gate"}


@both
def test_of_two_at_once_at_most_one_comes_to_its_end(store: Path, tmp_path: Path, command: str) -> None:
    ends = []
    for number in range(6):
        place, together = tmp_path / f"new {number}", Barrier(2)

        def one(source: Path, place: Path = place, together: Barrier = together) -> str:
            together.wait(PATIENCE)
            try:
                give(command, source, place)
            except (NotAStoreError, StoreBusyError) as error:
                return type(error).__name__
            return "done"

        sources = [tmp_path / f"{at} of {number}" for at in range(2)]
        for source in sources:
            shutil.copytree(store, source)
        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(one, sources))
        assert said.count("done") <= 1
        if "done" in said:
            assert names(place) == DONE and whole(place)
        else:
            assert names(place) <= {"gate"}
        ends += said
    assert len(ends) == 12


@both
def test_who_opens_it_first_finds_the_mark_and_it_never_moves_backwards(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """In another process, which waits for the gate from before the data file has its name."""
    source = """
import sys
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from casckpt.store import opening
from tests.history.world import commit, noise
opening._check_place = lambda path, wanted: print("there", flush=True)
with History(open_store(sys.argv[1])) as history:
    for one in range(3):
        commit(history, {"model": {"w": noise(one, 300)}})
"""
    opener: list[subprocess.Popen[str]] = []

    def come(place: Path) -> None:
        program = [sys.executable, "-c", source, str(place)]
        opener.append(
            subprocess.Popen(
                program, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        )
        assert opener[0].stdout is not None and opener[0].stdout.readline() == "there\n"

    at_the_end(monkeypatch, come)
    give(command, store, tmp_path / "new")
    assert opener[0].wait(PATIENCE) == 0
    assert opener[0].stdout is not None
    opener[0].stdout.close()
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert len(list(history.log())) == 4
        mark = read_mark(tmp_path / "new/mark")
        assert mark is not None and mark.store == history.store.format.uuid and mark.counter >= 4


@both
def test_it_does_not_wait_for_who_holds_the_gate(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    held: list[FileLock] = []
    real = destination._gate

    def gate(place: Path, own: str) -> Any:
        held.append(FileLock(place / "gate"))
        assert held[0].acquire(wait=False)
        return real(place, own)

    monkeypatch.setattr(destination, "_gate", gate)
    with pytest.raises(StoreBusyError, match="somebody opens a store here"):
        give(command, store, tmp_path / "new")
    held[0].release()
    monkeypatch.undo()
    assert names(tmp_path / "new") == {"gate"}
    give(command, store, tmp_path / "new")  # a gate alone is nothing
    assert names(tmp_path / "new") == DONE


def test_who_opens_the_store_that_is_being_made_is_told_of(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.put_in_place

    def opened(data: Path, folder: Path, mark: Any) -> None:
        with History(open_store(folder, create=False, accept_loss=True)):
            real(data, folder, mark)

    monkeypatch.setattr(run, "put_in_place", opened)
    with pytest.raises(StoreBusyError, match="has it open"):
        casckpt.salvage(store, tmp_path / "new")
    assert names(tmp_path / "new") == set()


@both
def test_interrupted_at_any_step_it_leaves_its_own_folder_at_worst(store: Path, tmp_path: Path, command: str) -> None:
    """At every so many of the bytecodes of this, but for a backup only with errors: its thread is not interrupted."""
    sort: type[BaseException] = KeyboardInterrupt if command == "salvage" else RuntimeError
    ends: set[str] = set()
    for number in itertools.count(1, 29):
        place, count = tmp_path / "new", 0
        shutil.rmtree(place, ignore_errors=True)

        def step(frame: Any, event: str, argument: object, number: int = number) -> Any:
            nonlocal count
            if event == "opcode":
                count += 1
                if count == number:
                    raise sort
            return step

        def call(frame: Any, event: str, argument: object, step: Any = step) -> Any:
            frame.f_trace_opcodes = frame.f_code.co_filename == destination.__file__
            return step if frame.f_trace_opcodes else None

        held = sys.gettrace()
        sys.settrace(call)
        try:
            with destination.working_folder(place, command) as folder:
                shutil.copy(store / "data.mdb", folder)
                mark = read_mark(store / "mark")
                assert mark is not None
                destination.put_in_place(folder, mark)
        except sort:
            pass
        finally:
            sys.settrace(held)
        there = names(place)
        left = {name for name in there if destination._LEFTOVER.fullmatch(name)}
        assert len(left) <= 1 and there - left <= DONE
        if "data.mdb" in there:
            assert whole(place)
            ends.add("whole")
        else:
            with pytest.raises(StoreError):
                open_store(place, create=False)
            assert there - left <= {"gate"}
            ends.add("left" if left else "nothing")
        if count < number:
            break
    assert ends >= {"whole", "nothing"}


@both
@pytest.mark.parametrize("into_it", [False, True])
def test_nothing_but_what_is_its_own_is_removed_after_an_error(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, into_it: bool
) -> None:
    (tmp_path / "new").mkdir()

    def fail(place: Path, own: str) -> Any:
        (place / "thesis.tex").touch()
        if into_it:
            (place / own / "link").symlink_to(store)
        raise OSError(errno.EIO, "on the way")

    monkeypatch.setattr(destination, "_gate", fail)
    before = {one.name for one in store.iterdir()}
    with pytest.raises(StoreError, match="on the way"):
        give(command, store, tmp_path / "new")
    assert {"data.mdb"} <= before <= names(store) | {"openers"}
    left = names(tmp_path / "new") - {"thesis.tex"}
    assert [names(tmp_path / "new" / one) for one in left] == [{"link"}] * into_it
    with suppress(NotAStoreError):
        give(command, store, tmp_path / "new")
    assert names(tmp_path / "new") == {"thesis.tex", *left}
