"""compact killed at every call that changes the store's folder, or failing at it: old or new, the file is whole."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from casckpt.store.mark import read_mark
from tests.native import AFTER, BEFORE, KILLED, build, doomed
from tests.store.wasteful import KEPT, check, commit_steps, make, open_history

# In transactions of a few entries, so that there are several to be killed in.
WORK = """
from casckpt.errors import StoreError, StoreFailedError, StoreFullError
from casckpt.store import compact
from tests.store.wasteful import KEPT, check, commit_steps, open_history

compact._BATCH_ENTRIES = 16

def work(folder, arm, disarm):
    history = open_history(folder)
    arm()
    try:
        history.compact()
    except StoreError as error:
        disarm()
        assert str(folder) in str(error), error
        if isinstance(error, StoreFailedError):
            history.close()
            history = open_history(folder)
    disarm()
    check(history, size=20_000)
    commit_steps(history, KEPT, KEPT + 1, size=20_000)
    history.compact()
    assert history.store.size().free < 100_000
    check(history, KEPT + 1, size=20_000)
    history.close()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("faults", tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "template"
    make(path, 4096, size=20_000)
    return path


@pytest.mark.parametrize("when", [BEFORE, AFTER])
def test_killed_at_any_call_that_changes_a_file_it_leaves_the_old_file_or_the_new_one_whole(
    template: Path, library: Path, tmp_path: Path, when: int
) -> None:
    ended, lengths = [], set()
    with doomed(WORK, library) as one:
        while not ended or ended[-1] == KILLED:
            path = tmp_path / str(len(ended))
            shutil.copytree(template, path)
            ended.append(one.meets(len(ended) + 1, when, path))
            lengths.add((path / "data.mdb").stat().st_size)
            with open_history(path) as history:
                assert not (path / "compacting").exists()
                check(history, KEPT + (ended[-1] == 0), size=20_000)
                if ended[-1] == KILLED:
                    commit_steps(history, KEPT, KEPT + 1, size=20_000)
                    if len(ended) % 4 == 0:
                        history.compact()
                        check(history, KEPT + 1, size=20_000)
                counter = history.store._environment.path / "mark"
                assert read_mark(counter) is not None
            shutil.rmtree(path)
    assert ended[-1] == 0
    assert len(ended) > 30
    assert len(lengths) >= 2  # of those killed, some had the old file and some the new one


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whatever_call_fails_it_leaves_a_whole_file_and_a_store_that_can_be_used_or_opened_again(
    template: Path, library: Path, tmp_path: Path, code: int
) -> None:
    ended: list[int] = []
    with doomed(WORK, library) as one:
        while not ended or ended[-1] == 1:
            path = tmp_path / str(len(ended))
            shutil.copytree(template, path)
            ended.append(one.meets(len(ended) + 1, code, path))
            with open_history(path) as history:
                check(history, KEPT + 1, size=20_000)
            shutil.rmtree(path)
    assert ended[-1] == 0
    assert len(ended) > 30
