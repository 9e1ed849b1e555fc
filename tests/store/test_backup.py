"""backup: a whole copy while others write, or none; what it leaves never looks like a store before it is one."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import pytest

from casckpt.errors import (
    CorruptObjectError,
    NotAStoreError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
)
from casckpt.history.repository import History
from casckpt.store import backup, filesystem
from casckpt.store.lmdb_store import open_store
from casckpt.store.mark import read_mark
from casckpt.store.protocol import Space
from tests.history.world import load
from tests.native import BEFORE, KILLED, build, doomed
from tests.processes import Program, run
from tests.store.wasteful import KEPT, check, commit_steps, make, open_history, sound, state

WRITER = """
import sys
from tests.store.wasteful import commit_steps, open_history
with open_history(sys.argv[1]) as history:
    history.switch(sys.argv[2], create=True)
    step = 0
    while True:
        commit_steps(history, step, step + 1, size=20_000)
        step += 1
        print(step, flush=True)
"""


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    make(tmp_path / "store")
    with open_history(tmp_path / "store") as made:
        yield made


def contents(history: History) -> dict[tuple[Space, bytes], bytes]:
    with history.store.read() as reader:
        return {(space, key): bytes(value) for space in Space for key, value in reader.items(space)}


LEFT = "backing-up-" + "0" * 32
DONE = {"data.mdb", "mark", "gate"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_the_copy_is_the_store_without_its_free_pages_and_lives_on_its_own(history: History, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    report = history.backup(tmp_path / "deep/er/copy", progress=lambda *one: told.append(one))
    copy = tmp_path / "deep/er/copy"
    assert report.path == str(copy)
    assert report.bytes == (copy / "data.mdb").stat().st_size < 0.6 * history.store.size().file
    assert names(copy) == {"data.mdb", "mark", "gate"}
    assert [one[0] for one in told][-1] == "waiting for the disk"
    assert {stage for stage, _, _ in told} == {"copying", "waiting for the disk"}
    counts = [(done, total) for stage, done, total in told if stage == "copying"]
    assert counts == sorted(counts) and counts[-1][0] == counts[-1][1]
    mark, theirs = read_mark(copy / "mark"), read_mark(Path(history.path) / "mark")
    assert mark is not None and theirs is not None
    assert mark.store == theirs.store and mark.counter >= theirs.counter
    with open_history(copy) as again:
        assert contents(again) == contents(history)
        assert again.store.format == history.store.format
        assert sound(again)
        check(again)
        commit_steps(again, KEPT, KEPT + 2)
        again.gc()
        again.compact()
        check(again, KEPT + 2)
    check(history)
    commit_steps(history, KEPT, KEPT + 1)
    check(history, KEPT + 1)


def test_a_copy_under_two_writing_processes_holds_all_that_was_acknowledged_before_it_began(tmp_path: Path) -> None:
    make(tmp_path / "store")
    with open_history(tmp_path / "store") as history:
        commit_steps(history, KEPT, KEPT + 1, size=20_000_000)  # so that copying takes a while
        with Program(WRITER, history.path, "one") as one, Program(WRITER, history.path, "two") as two:
            for number in range(3):
                acknowledged = [0, 0]
                for _ in range(5):
                    acknowledged = [int(one.line()), int(two.line())]
                report = history.backup(tmp_path / f"copy {number}")
                with open_history(report.path) as copy:
                    for name, least in zip(("one", "two"), acknowledged, strict=True):
                        steps = [found.step for found in copy.log(name)]
                        mine = steps[: steps.index(0) + 1]  # the branch began at main's tip
                        assert len(mine) >= least and mine == list(range(len(mine)))[::-1]
                        assert sound(copy)
                        for step in mine:
                            assert load(copy, f"{name}~{mine[0] - step}") == state(step, size=20_000)  # type: ignore[operator]
                    mark = read_mark(Path(report.path) / "mark")
                    assert mark is not None
                    commit_steps(copy, 0, 1)
            one.kill()
            two.kill()


@pytest.mark.parametrize("there", ["a store", "a file", "something else", "the store itself", "inside of it", "a copy"])
def test_where_something_is_already_nothing_is_done(history: History, tmp_path: Path, there: str) -> None:
    place = tmp_path / "place"
    if there == "a store":
        make(place)
    elif there == "a file":
        place.write_bytes(b"something")
    elif there == "something else":
        place.mkdir()
        (place / "thesis.tex").write_bytes(b"something")
    elif there == "a copy":
        history.backup(place)
    elif there == "the store itself":
        place = Path(history.path)
    else:
        place = Path(history.path) / "openers/copy"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "store" not in path.parts}
    with pytest.raises(NotAStoreError, match=str(place)):
        history.backup(place)
    assert {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "store" not in path.parts
    } == before
    assert not (place.parent / "copy/data.mdb").exists()
    check(history)


def test_an_empty_folder_will_do_and_one_that_was_left_is_named(history: History, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    (place / LEFT).mkdir(parents=True)
    (place / LEFT / "data.mdb").write_bytes(b"x" * 50_000)
    for create in (True, False):
        with pytest.raises(NotAStoreError, match=rf"a backup to this folder .*was killed; nothing in {LEFT}"):
            open_store(place, create=create)
    with pytest.raises(NotAStoreError, match=rf"{place}: .*nothing in {LEFT}.*remove {place / LEFT} with all"):
        history.backup(place)
    assert names(place) == {LEFT} and names(place / LEFT) == {"data.mdb"}
    shutil.rmtree(place / LEFT)
    history.backup(str(place))
    assert names(place) == DONE
    with open_history(place) as copy:
        check(copy)


def test_too_little_room_is_told_before_anything_is_made(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "free_bytes", lambda path: 100_000)
    with pytest.raises(StoreFullError, match=f"{tmp_path}/copy.*no room") as full:
        history.backup(tmp_path / "copy")
    assert full.value.needed > full.value.available == 100_000
    assert not (tmp_path / "copy").exists()


def test_a_destination_that_fills_up_on_the_way_leaves_no_store_and_can_be_tried_again(
    history: History, tmp_path: Path
) -> None:
    said = run(
        """
        import resource, sys
        from casckpt.errors import StoreFullError
        from tests.store.wasteful import check, open_history
        with open_history(sys.argv[1]) as history:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
            try:
                history.backup(sys.argv[2])
            except StoreFullError as error:
                print(sys.argv[2] in str(error))
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            check(history)
        """,
        history.path,
        tmp_path / "copy",
    )
    assert said == "True\n"
    assert names(tmp_path / "copy") == set()
    history.backup(tmp_path / "copy")
    with open_history(tmp_path / "copy") as copy:
        check(copy)


KILLED_WORK = """
from casckpt.store import backup
from tests.store.wasteful import open_history
backup._BLOCK = 1 << 16

def work(folder, arm, disarm):
    history = open_history(folder + " of it")
    arm()
    history.backup(folder)
    history.close()
"""


def test_killed_at_any_call_it_leaves_no_store_or_a_whole_one(tmp_path: Path) -> None:
    library = build("faults", tmp_path)
    make(tmp_path / "template", 4096, size=20_000)
    ended: list[int] = []
    wholes = lefts = 0  # of those killed
    number = 0
    with doomed(KILLED_WORK, library) as one:
        # As many calls as the pipe's reader wakes up: one run that ends is not the proof that none has more.
        while ended[-3:] != [0, 0, 0]:
            number += 1
            source, place = tmp_path / f"{len(ended)} of it", tmp_path / str(len(ended))
            shutil.copytree(tmp_path / "template", source)
            ended.append(one.meets(number, BEFORE, place))
            left = [name for name in names(place) if name.startswith("backing-up-")]
            with open_history(source) as history:
                if (place / "data.mdb").exists():
                    wholes += ended[-1] == KILLED
                    with pytest.raises(NotAStoreError, match="if a command that was killed put it there, it is whole"):
                        history.backup(place)
                else:
                    with pytest.raises((NotAStoreError, StoreNotFoundError)):
                        open_store(place, create=False)
                    if left:
                        lefts += 1
                        with pytest.raises(NotAStoreError):
                            open_store(place)
                        with pytest.raises(NotAStoreError, match=f"nothing in {left[0]} was acknowledged"):
                            history.backup(place)
                        shutil.rmtree(place / left.pop())
                    history.backup(place)
            for path in (place, source):
                with open_history(path) as found:  # also beside what was left
                    check(found, size=20_000)
            assert set(left) <= names(place)
            for path in (place, source):
                shutil.rmtree(path)
    assert len(ended) > 10 and wholes > 3 and lefts > 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whatever_call_fails_it_says_so_and_can_be_tried_again(tmp_path: Path, code: int) -> None:
    library = build("faults", tmp_path)
    make(tmp_path / "template", 4096, size=20_000)
    work = KILLED_WORK.replace(
        "    history.backup(folder)\n",
        """
    try:
        history.backup(folder)
    except StoreError as error:
        disarm()
        assert folder in str(error)
        for left in pathlib.Path(folder).glob("backing-up-*"):  # the disk did not let it be removed either
            shutil.rmtree(left)
        if not os.path.exists(folder + "/data.mdb"):
            history.backup(folder)
""",
    ).replace(
        "from casckpt.store import backup",
        "import pathlib, shutil\nfrom casckpt.errors import StoreError\nfrom casckpt.store import backup",
    )
    ended = [1]
    with doomed(work, library) as one:
        while ended[-1] == 1:
            source, place = tmp_path / f"{len(ended)} of it", tmp_path / str(len(ended))
            shutil.copytree(tmp_path / "template", source)
            ended.append(one.meets(len(ended), code, place))
            with open_history(place) as found:
                check(found, size=20_000)
    assert ended[-1] == 0 and len(ended) > 8


@pytest.mark.parametrize("at", ["copying", "waiting for the disk"])
def test_an_interrupt_leaves_nothing_or_all_of_it(history: History, tmp_path: Path, at: str) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        history.backup(tmp_path / "copy", progress=interrupt)
    assert names(tmp_path / "copy") in (set(), {"data.mdb", "mark", "gate"})
    assert not history.store._environment.gate.live
    history.backup(tmp_path / "another")
    assert history.compact().after > 0


def test_closing_waits_until_the_copy_is_done_and_compact_too(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, on = threading.Event(), threading.Event()
    real = backup._pump

    def pump(copying: Any, *rest: Any) -> int:
        there.set()
        assert on.wait(60)
        return real(copying, *rest)

    monkeypatch.setattr(backup, "_pump", pump)
    with ThreadPoolExecutor(3) as pool:
        copying = pool.submit(history.backup, tmp_path / "copy")
        assert there.wait(60)
        compacting = pool.submit(history.compact)
        while not history.store._environment.gate._moved._waiters:
            time.sleep(0.001)
        with history.store.write(durable=True, room=None) as writer:  # let in: the handle's snapshot is under way
            writer.put(Space.FIGURES, b"late", b"value")
        on.set()
        copying.result(60)
        assert compacting.result(60).given_back > 0
        there.clear()
        on.clear()
        copying = pool.submit(history.backup, tmp_path / "another")
        assert there.wait(60)
        closing = pool.submit(history.close)
        time.sleep(0.05)
        assert not closing.done()
        on.set()
        copying.result(60)
        closing.result(60)
    with pytest.raises(StoreClosedError):
        history.backup(tmp_path / "third")
    for name in ("copy", "another"):
        with open_history(tmp_path / name) as copy:
            check(copy)


def test_the_map_is_not_closed_under_lmdb_s_copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would kill the process."""
    make(tmp_path / "store", 65536, size=2_000_000)  # several times what a pipe holds
    history = open_history(tmp_path / "store")
    environment = history.store._environment
    real, real_write, order = environment._raw, backup._write, []
    there, on = threading.Event(), threading.Event()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def copyfd(self, descriptor: int, compact: bool) -> None:
            real.copyfd(descriptor, compact=compact)
            order.append("copied")

        def close(self) -> None:
            order.append("closed")
            if "copied" in order:
                real.close()

    def write(*rest: Any) -> None:
        there.set()
        assert on.wait(60)
        real_write(*rest)

    monkeypatch.setattr(environment, "_raw", Watched())
    monkeypatch.setattr(backup, "_write", write)
    with ThreadPoolExecutor(2) as pool:
        copying = pool.submit(history.backup, tmp_path / "copy")
        assert there.wait(60)
        closing = pool.submit(history.close)
        while not environment.gate._moved._waiters and not closing.done():
            time.sleep(0.001)
        on.set()
        closing.result(60)
        copying.result(60)
    assert order == ["copied", "closed"]
    with open_history(tmp_path / "copy") as copy:
        check(copy, size=2_000_000)


def test_a_database_that_cannot_be_copied_is_told_and_leaves_nothing(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = history.store._environment._raw

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def copyfd(self, descriptor: int, compact: bool) -> None:
            os.write(descriptor, b"half of it")
            raise next(errors)

    monkeypatch.setattr(history.store._environment, "_raw", Failing())
    cases: list[tuple[Exception, type[StoreError] | type[CorruptObjectError] | type[ValueError]]] = [
        (lmdb.CorruptedError("mdb_env_copyfd2"), CorruptObjectError),
        (lmdb.ReadersFullError("mdb_env_copyfd2"), StoreBusyError),
        (ValueError("no such thing"), ValueError),
    ]
    errors = iter([error for error, _ in cases])
    for _, expected in cases:
        with pytest.raises(expected):
            history.backup(tmp_path / "copy")
        assert names(tmp_path / "copy") == set()
    assert not history.store._environment.gate.live


def test_a_copy_that_is_not_what_was_copied_is_not_kept(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_store(tmp_path / "other")
    real = history.store._environment._raw
    monkeypatch.setattr(history.store._environment, "_raw", other._environment._raw)
    monkeypatch.setattr(backup._Copying, "__init__", _begun_with(real))
    with pytest.raises(StoreError, match="not what was copied"):
        history.backup(tmp_path / "copy")
    monkeypatch.undo()
    assert names(tmp_path / "copy") == set()
    other.close()


def _begun_with(raw: Any) -> Any:
    def begin(self: Any, environment: Any, snapshot: Any) -> None:
        self._environment, self._snapshot = environment, snapshot
        self._error = self._thread = None
        self.counter, self.expected = 1, 1000

    return begin


def test_nobody_may_read_the_copy_who_may_not_read_the_store(history: History, tmp_path: Path) -> None:
    data = Path(history.path) / "data.mdb"
    for mode, seen in ((0o600, 0o600), (0o666, 0o644)):
        data.chmod(mode)
        held = os.umask(0o022)
        try:
            history.backup(tmp_path / oct(mode))
        finally:
            os.umask(held)
        assert (tmp_path / oct(mode) / "data.mdb").stat().st_mode & 0o777 == seen


def test_inside_of_its_own_transaction_a_thread_is_refused(history: History, tmp_path: Path) -> None:
    with history.store.read(), pytest.raises(StoreBusyError, match="this thread"):
        history.backup(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
