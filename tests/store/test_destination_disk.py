"""A backup and a salvage on whatever disk there is: what is handed over there is on it, and as private as before."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casckpt
from casckpt.errors import StoreError, StoreFullError
from casckpt.history.repository import History
from casckpt.store import destination, filesystem
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit, load, noise

STATE = {"model": {"w": noise(1, 3000)}}
DONE = {"data.mdb", "mark", "gate"}
both = pytest.mark.parametrize("command", ["salvage", "backup"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with History(open_store(tmp_path / "store")) as history:
        commit(history, STATE)
    return tmp_path / "store"


def give(command: str, store: Path, place: Path) -> None:
    if command == "salvage":
        casckpt.salvage(store, place)
    else:
        with History(open_store(store, create=False)) as history:
            history.backup(place)


def whole(place: Path) -> bool:
    with History(open_store(place, create=False)) as history:
        return load(history, "main") == STATE and history.fsck(read_data=True).ok


def names(place: Path) -> set[str]:
    return {entry.name for entry in place.iterdir()}


def test_a_file_system_without_locks_or_links_or_folders_that_can_be_synced_will_do(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may refuse to let go of what it did not lock, too."""

    def refuse(*given: Any, **more: Any) -> Any:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    real = fcntl.flock

    def flock(descriptor: int, what: int) -> None:
        at = Path(f"/proc/self/fd/{descriptor}").readlink()
        refuse() if at.is_relative_to(tmp_path / "copy") else real(descriptor, what)

    opened = names(Path("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "link", refuse)
    with History(open_store(store, create=False)) as history:
        monkeypatch.setattr(filesystem, "sync_folder", refuse)
        history.backup(tmp_path / "copy")
    monkeypatch.undo()
    assert names(tmp_path / "copy") == DONE and whole(tmp_path / "copy")
    assert names(Path("/proc/self/fd")) == opened


@both
def test_all_on_the_way_is_on_the_disk_before_anybody_can_open_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Who opens it between two of these steps syncs its folder, and the one above that, before he acknowledges."""
    done: list[str] = []
    sync, name = destination.sync, destination._give_name
    monkeypatch.setattr(destination, "sync", lambda folder: (done.append(f"sync {folder}"), sync(folder))[1])
    monkeypatch.setattr(destination, "_give_name", lambda made, to: (done.append(f"name {to.name}"), name(made, to))[1])
    place = tmp_path / "deep/er/new"
    give(command, store, place)
    at = done.index("name data.mdb")
    for folder in (place.parent, place.parent.parent, tmp_path):
        assert f"sync {folder}" in done[:at]
    assert done[at + 1] == f"sync {place}" and done.index("name mark") > at + 1
    assert whole(place)


@both
def test_a_link_that_was_made_and_is_said_to_be_there_already_was_made(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """As NFS does whose answer was lost, so that it asked again."""
    real = os.link

    def link(made: Path, name: Path) -> None:
        real(made, name)
        raise FileExistsError(errno.EEXIST, "File exists", str(name))

    monkeypatch.setattr(os, "link", link)
    give(command, store, tmp_path / "new")
    monkeypatch.undo()
    assert names(tmp_path / "new") == DONE and whole(tmp_path / "new")


@both
@pytest.mark.parametrize(("mode", "becomes"), [(0o600, 0o600), (0o440, 0o640), (0o444, 0o644)])
def test_who_may_not_read_the_one_may_not_read_the_other_which_its_owner_may_write(
    store: Path, tmp_path: Path, command: str, mode: int, becomes: int
) -> None:
    (store / "data.mdb").chmod(mode)
    give(command, store, tmp_path / "new")
    assert (tmp_path / "new/data.mdb").stat().st_mode & 0o777 == becomes


def test_a_file_system_of_small_files_is_told_so(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(descriptor: int, data: Any) -> int:
        raise OSError(errno.EFBIG, "File too large")

    with History(open_store(store, create=False)) as history:
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(StoreFullError, match=r"no file as large.*give another place"):
            history.backup(tmp_path / "new")
        monkeypatch.undo()
    assert names(tmp_path / "new") == set()


def test_a_child_that_is_forked_amid_a_backup_keeps_it_from_nothing(tmp_path: Path) -> None:
    """It inherits both ends of a pipe, of which one must be closed by everybody before the other is at its end."""
    with History(open_store(tmp_path / "store")) as history:
        for step in range(4):
            commit(history, {"model": {"w": noise(step, 2_000_000)}})
        children: list[int] = []

        def fork(stage: str, done: int, total: int) -> None:
            if not children:
                child = os.fork()
                if child == 0:
                    time.sleep(600)
                    os._exit(0)
                children.append(child)

        try:
            history.backup(tmp_path / "new", progress=fork)
            assert os.waitpid(children[0], os.WNOHANG) == (0, 0)
        finally:
            for child in children:
                os.kill(child, 9)
                os.waitpid(child, 0)
    assert names(tmp_path / "new") == DONE


@pytest.mark.parametrize("what", ["too long", "a loop", "a NUL", "nobody's home"])
def test_whatever_path_is_given_the_error_is_typed(store: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = {
        "too long": str(tmp_path / ("x" * 300)),
        "a loop": str(tmp_path / "loop/x"),
        "a NUL": f"{tmp_path}/a\0b",
        "nobody's home": "~nobody-has-this-name/x",
    }[what]
    calls: list[Callable[[], object]] = [
        lambda: open_store(path),
        lambda: casckpt.salvage(store, path),
        lambda: casckpt.salvage(path, tmp_path / "new"),
        lambda: casckpt.salvage(store, tmp_path / "new", others=[path]),
        lambda: give("backup", store, Path(path)),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=re.escape(path)):
            call()
    assert not (tmp_path / "new").exists()
