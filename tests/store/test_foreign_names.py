"""The folder of a store may come from anybody: what has the name of a file of casckpt's, and is none, is left alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import casckpt
from casckpt.errors import HistoryLostError, NotAStoreError, StoreError
from casckpt.history.repository import History
from casckpt.store.folder import COMPACTING, CREATING, FILES, FOLDERS
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit, load, noise
from tests.processes import run

STATE = {"model": {"w": noise(1, 3000)}}
PRECIOUS = b"precious" * 1000


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with History(open_store(tmp_path / "store")) as history:
        commit(history, STATE)
    return tmp_path / "store"


def put_away(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", sorted(FILES | FOLDERS - {CREATING, COMPACTING}))
def test_a_link_out_of_the_folder_is_not_followed(store: Path, tmp_path: Path, name: str) -> None:
    put_away(store / name)
    target = tmp_path / "elsewhere"
    if name in FOLDERS:
        target.mkdir()
        (target / "a thesis").write_bytes(PRECIOUS)
        (target / "00000000-0000-0000-0000-000000000000").write_bytes(PRECIOUS)
    else:
        target.write_bytes(PRECIOUS)
    (store / name).symlink_to(target)
    with pytest.raises(NotAStoreError, match=f"its {name} is no .*, but a link"):
        open_store(store)
    casckpt.salvage(store, tmp_path / "salvaged")
    there = list(target.iterdir()) if name in FOLDERS else [target]
    assert len(there) == 1 + (name in FOLDERS) and all(one.read_bytes() == PRECIOUS for one in there)
    (store / name).unlink()
    for place in (store, tmp_path / "salvaged"):
        with History(open_store(place, create=False, accept_loss=True)) as history:
            assert load(history, "main") == STATE


@pytest.mark.parametrize("name", [*sorted(FILES), "data.mdb", "openers/00000000-0000-0000-0000-000000000000"])
def test_a_pipe_keeps_nobody_waiting(store: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(store, tmp_path / "whole")
    put_away(store / name)
    os.mkfifo(store / name)
    source = """
import sys
import casckpt
from casckpt.errors import CasckptError
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
for work in (lambda: History(open_store(sys.argv[1])).close(), lambda: casckpt.salvage(sys.argv[1], sys.argv[2])):
    try:
        work()
        print("done")
    except CasckptError as error:
        print(type(error).__name__)
"""
    said = run(source, store, tmp_path / "salvaged").split()
    if name.startswith("openers"):
        assert said == ["done", "done"]
    else:
        assert said == ["NotAStoreError", "StoreNotFoundError" if name == "data.mdb" else "done"]


def test_what_somebody_keeps_among_the_openers_stays(store: Path, tmp_path: Path) -> None:
    """A backup of another store, say, which opening this one must not tidy away."""
    with History(open_store(tmp_path / "other")) as history:
        commit(history, STATE, "of the other")
        history.backup(store / "openers")
        history.backup(store / "openers/deeper")
    for _ in range(2):
        with History(open_store(store, create=False)) as history:
            commit(history, STATE)
    for copy in (store / "openers", store / "openers/deeper"):
        with History(open_store(copy, create=False)) as history:
            assert [one.message for one in history.log()] == ["of the other"]


def test_a_link_to_a_data_file_that_is_not_there_is_never_written_over(store: Path) -> None:
    (store / "data.mdb").rename(store.parent / "kept")
    (store / "mark").unlink()
    (store / "data.mdb").symlink_to(store.parent / "unmounted")
    for create in (True, False):
        with pytest.raises(NotAStoreError, match=r"its data\.mdb is no file, but a link"):
            open_store(store, create=create)
    assert (store / "data.mdb").is_symlink()
    (store / "data.mdb").unlink()
    (store / "data.mdb").symlink_to(store.parent / "kept")
    with History(open_store(store, create=False)) as history:
        assert load(history, "main") == STATE


def test_what_else_is_where_a_store_is_made_stays(tmp_path: Path) -> None:
    place = tmp_path / "new"
    (place / "creating").mkdir(parents=True)
    (place / "creating/thesis.tex").touch()
    (place / "gate").touch()
    with pytest.raises(StoreError, match="something else is in its folder creating"):
        open_store(place)
    assert {one.name for one in place.rglob("*")} == {"creating", "thesis.tex", "gate"}


def test_a_second_name_of_a_lost_data_file_is_named_and_never_called_of_no_use(store: Path) -> None:
    left = store / f"backing-up-{'0' * 32}"
    left.mkdir()
    os.link(store / "data.mdb", left / "whole")
    with History(open_store(store, create=False)) as history:
        commit(history, {"model": {"w": noise(2, 3000)}})
    (store / "data.mdb").unlink()
    for create in (True, False):
        with pytest.raises(HistoryLostError, match=f"{left.name}/whole"):
            open_store(store, create=create)
    os.link(left / "whole", store / "data.mdb")
    with History(open_store(store, create=False)) as history:
        assert len(list(history.log())) == 2
