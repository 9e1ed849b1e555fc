"""compact is alone or doesn't happen (I6), gives back what is free, and loses nothing whoever does what meanwhile."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from casckpt.errors import (
    CorruptObjectError,
    ForkedStoreError,
    NotAStoreError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFailedError,
    StoreFullError,
)
from casckpt.history.repository import History
from casckpt.limits import MIB
from casckpt.store import compact, filesystem, lmdb_lock, registry
from casckpt.store.checked import with_check
from casckpt.store.lmdb_store import open_store
from casckpt.store.mark import read_mark
from casckpt.store.memory import MemoryStore
from casckpt.store.openers import live
from casckpt.store.protocol import Space
from tests.history.world import load
from tests.processes import Program, forked, run
from tests.store.wasteful import KEPT, check, commit_steps, make, open_history, sound, state, waste

HOLD = """
import sys
from casckpt.store.lmdb_store import open_store
store = open_store(sys.argv[1])
if sys.argv[2] == "reading":
    held = store.read()
elif sys.argv[2] == "writing":
    held = store.write(durable=True, room=None)
    held.__enter__()
print("holds it", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    with open_history(path) as made:
        yield made


def contents(history: History) -> dict[tuple[Space, bytes], bytes]:
    with history.store.read() as reader:
        return {(space, key): bytes(value) for space in Space for key, value in reader.items(space)}


def file_of(history: History) -> tuple[int, int]:
    """Which file it is, and how long."""
    stat = (Path(history.path) / "data.mdb").stat()
    return stat.st_ino, stat.st_size


def goes_on(history: History) -> None:
    """Look that everything is there, also for whoever opens the store anew, and that the next commit is too."""
    check(history)
    commit_steps(history, KEPT, KEPT + 1)
    check(history, KEPT + 1)
    history.close()
    assert not (Path(history.path) / "compacting").exists()
    with open_history(history.path) as again:
        check(again, KEPT + 1)


# -- what it gives back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk_size", "shape"),
    [(1 << 20, {"size": 3 << 20}), (4096, {"size": 400_000}), (256, {"size": 400_000, "parts": 400})],
    ids=["large chunks", "small chunks", "many tiny objects"],
)
def test_the_file_is_no_larger_than_that_of_a_fresh_store_with_the_same_commits(
    tmp_path: Path, chunk_size: int, shape: dict[str, int]
) -> None:
    make(tmp_path / "old", chunk_size, **shape)
    with open_history(tmp_path / "fresh", chunk_size) as fresh:
        commit_steps(fresh, 0, KEPT, **shape)
        ids = [one.id for one in fresh.log()]
        held = fresh.store.size()
        _, length = file_of(fresh)
    with open_history(tmp_path / "old") as old:
        before = old.store.size()
        assert before.file > 1.5 * held.file
        foreseen = old.compact(dry_run=True)
        report = old.compact()
        after = old.store.size()
        assert [one.id for one in old.log()] == ids
        assert file_of(old)[1] <= 1.1 * length
        assert after.file <= 1.1 * held.file
        assert (report.before, report.after, report.given_back) == (before.file, after.file, before.file - after.file)
        assert foreseen.dry_run and foreseen.before == before.file and foreseen.holders == ()
        assert after.file <= foreseen.after <= before.file
        check(old, **shape)
        goes_on_as = old.compact()  # once more has nothing to give
        assert goes_on_as.after <= report.after + 64 * 1024
    with open_history(tmp_path / "old") as again:
        check(again, **shape)


def test_every_space_is_copied_and_sub_databases_of_other_names_too(history: History) -> None:
    raw = history.store._environment._raw
    other = raw.open_db(b"of a later version")
    with raw.begin(write=True) as writer:
        for number in range(5000):
            writer.put(b"key %06d" % number, b"value %d" % number, db=other)
    before = contents(history)
    assert {space for space, _ in before} >= {
        Space.CHUNK,
        Space.NODE,
        Space.TREE,
        Space.COMMIT,
        Space.REFLOG,
        Space.META,
    }
    history.compact()
    assert contents(history) == before
    raw = history.store._environment._raw
    other = raw.open_db(b"of a later version", create=False)
    with raw.begin(db=other) as reader:
        assert dict(reader.cursor()) == {b"key %06d" % number: b"value %d" % number for number in range(5000)}


def test_the_mark_stays_what_it_was_and_goes_on_from_there(history: History) -> None:
    place = Path(history.path) / "mark"
    before = read_mark(place)
    history.compact()
    assert before is not None and read_mark(place) == before
    commit_steps(history, KEPT, KEPT + 1)
    after = read_mark(place)
    assert after is not None and after.counter > before.counter
    history.close()
    open_history(history.path).close()


def test_the_new_file_keeps_room_on_the_disk_for_what_a_deletion_copies(history: History) -> None:
    history.compact()
    stat = (Path(history.path) / "data.mdb").stat()
    assert stat.st_blocks * 512 >= stat.st_size + 2 * MIB


def test_permissions_and_owner_stay_and_another_s_file_is_not_taken_over(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(history.path) / "data.mdb"
    data.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(data, 4711, 4712)
        history.compact()
        assert (data.stat().st_uid, data.stat().st_gid) == (4711, 4712)
    else:
        history.compact()
    assert data.stat().st_mode & 0o777 == 0o640

    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    real = Path.stat

    def another_s(path: Path, **more: Any) -> os.stat_result:
        found = real(path, **more)
        if path != data:
            return found
        return os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]], {"st_blocks": found.st_blocks})

    before = file_of(history)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", refuse)
        patch.setattr(compact.Path, "stat", another_s)
        with pytest.raises(StoreError, match="belongs to user"):
            history.compact()
    assert file_of(history) == before
    goes_on(history)


def test_the_new_file_is_on_the_disk_before_it_has_the_name_and_the_name_before_anybody_goes_on(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure, which no killed process can show: what is done is looked at in its order."""
    done: list[str] = []
    fsync, replace, sync_folder = os.fsync, Path.replace, filesystem.sync_folder
    new = Path(history.path) / "compacting/data.mdb"

    def record_fsync(descriptor: int) -> None:
        if new.exists() and os.path.samestat(os.fstat(descriptor), new.stat()):
            done.append("file")
        fsync(descriptor)

    def record_replace(path: Path, target: Path) -> Path:
        done.append("name")
        return replace(path, target)

    def record_sync_folder(path: Path) -> None:
        done.append("folder")
        sync_folder(path)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(compact.Path, "replace", record_replace)
    monkeypatch.setattr(filesystem, "sync_folder", record_sync_folder)
    take_up = type(history.store._environment).take_up
    monkeypatch.setattr(
        type(history.store._environment), "take_up", lambda self, *new: (done.append("goes on"), take_up(self, *new))
    )
    history.compact()
    assert done == ["file", "name", "folder", "goes on"]


def test_nobody_sees_the_new_file_who_may_not_see_the_old_one(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(history.path) / "data.mdb").chmod(0o600)
    seen = []
    real = compact._see_to_disk

    def see_to_disk(environment: Any, old: Path, copy: Path) -> None:
        seen.append(copy.parent.stat().st_mode & 0o777)
        real(environment, old, copy)

    monkeypatch.setattr(compact, "_see_to_disk", see_to_disk)
    history.compact()
    assert seen == [0o700]
    assert (Path(history.path) / "data.mdb").stat().st_mode & 0o777 == 0o600


def test_a_data_file_that_is_a_link_elsewhere_is_refused(path: Path, tmp_path: Path) -> None:
    (path / "data.mdb").rename(tmp_path / "elsewhere.mdb")
    (path / "data.mdb").symlink_to(tmp_path / "elsewhere.mdb")
    with open_history(path) as history:
        with pytest.raises(StoreError, match="symbolic link"):
            history.compact()
        assert (path / "data.mdb").is_symlink()
        goes_on(history)


def test_a_hard_link_to_the_old_file_keeps_what_it_held(path: Path, tmp_path: Path) -> None:
    os.link(path / "data.mdb", tmp_path / "kept.mdb")
    kept = (tmp_path / "kept.mdb").read_bytes()
    with open_history(path) as history:
        history.compact()
        assert (tmp_path / "kept.mdb").read_bytes() == kept
        goes_on(history)


def test_a_store_in_memory_has_nothing_to_give_back() -> None:
    store = MemoryStore()
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    report = store.compact()
    assert report.given_back == 0
    with store.maintenance(), pytest.raises(StoreBusyError):
        store.compact()
    with pytest.raises(StoreError):
        store.backup("elsewhere")


# -- who is in the way -----------------------------------------------------------------------------------------------


def refused(history: History, match: str) -> StoreBusyError:
    before = file_of(history)
    with pytest.raises(StoreBusyError, match=match) as error:
        history.compact()
    assert file_of(history) == before
    assert not (Path(history.path) / "compacting").exists()
    check(history)
    return error.value


@pytest.mark.parametrize("doing", ["reading", "writing", "nothing"])
def test_another_process_that_has_it_open_is_named_and_keeps_it_from_happening(history: History, doing: str) -> None:
    with Program(HOLD, history.path, doing) as other:
        assert other.line() == "holds it"
        error = refused(history, f"process {other.process.pid} ")
        assert len(error.holders) == 1 and "compact_above" in error.remedy
        foreseen = history.compact(dry_run=True)
        assert foreseen.holders == error.holders
        other.kill()
    assert history.compact().given_back > 0
    goes_on(history)


def other_pid_namespace() -> list[str]:
    """What runs a program where it has another number; nothing, where this system lets nobody do that."""
    for way in (["unshare", "--pid", "--fork", "--mount-proc"], ["unshare", "-r", "--pid", "--fork", "--mount-proc"]):
        if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return way
    return []


def test_a_process_of_another_container_keeps_it_from_happening_whatever_its_number(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = other_pid_namespace()
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: popen([*way, *command], **more))
    with Program(HOLD, history.path, "reading") as other:
        assert other.line() == "holds it"
        mine = history.store._environment.opener
        theirs = next(one for one in live(Path(history.path)) if one != mine)
        if not way:  # then it says that it has a number which another process has: this one
            theirs.write_bytes(mine.read_bytes())
        (holder,) = refused(history, "process ").holders
        assert holder.startswith("process 1 " if way else f"process {os.getpid()} ")
        other.end()
    assert history.compact().given_back > 0
    goes_on(history)


def test_something_that_is_not_casckpt_keeps_it_from_happening_too(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_lock, "_SETTLE_TRIES", 3)
    source = """
        import lmdb, sys
        raw = lmdb.open(sys.argv[1], max_dbs=32, map_size=1 << 30)
        held = raw.begin()
        print("holds it", flush=True)
        sys.stdin.readline()
        """
    with Program(source, history.path) as other:
        assert other.line() == "holds it"
        refused(history, "not casckpt")
        other.end()
    goes_on(history)


def test_gc_and_another_compact_keep_it_from_happening(history: History) -> None:
    with history.store.maintenance():
        refused(history, f"process {os.getpid()} ")
    holds = HOLD.replace("held = store.read()", "held = store.maintenance(); held.__enter__()")
    with Program(holds, history.path, "reading") as other:
        assert other.line() == "holds it"
        refused(history, "process ")
        other.end()
    goes_on(history)


def test_a_thread_inside_of_its_own_transaction_is_refused_and_does_not_wait_for_itself(history: History) -> None:
    with history.store.read():
        refused(history, "this thread")
    with history.store.write(durable=True, room=None), pytest.raises(StoreBusyError, match="this thread"):
        history.compact()
    goes_on(history)


def test_a_store_that_is_closed_or_has_failed_is_not_compacted(history: History) -> None:
    history.store._environment._failure = "a write failed"
    with pytest.raises(StoreFailedError, match="a write failed"):
        history.compact()
    history.close()
    with pytest.raises(StoreClosedError):
        history.compact()


def test_a_file_that_somebody_exchanged_is_left_alone(history: History, tmp_path: Path) -> None:
    make(tmp_path / "other")
    (tmp_path / "other/data.mdb").replace(Path(history.path) / "data.mdb")
    before = file_of(history)
    with pytest.raises(StoreError, match="exchanged by somebody else"):
        history.compact()
    assert file_of(history) == before


def test_a_damaged_database_is_told_and_left_as_it_is(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file_of(history)

    def lose(self: Any, database: Any) -> Iterator[Any]:
        yield from list(batches(self, database))[:-1]

    batches = compact._Copy._batches
    with monkeypatch.context() as patch:
        patch.setattr(compact._Copy, "_batches", lose)
        with pytest.raises(CorruptObjectError, match="says that it has"):
            history.compact()

    def broken(self: Any, database: Any) -> Iterator[Any]:
        with self._reading():
            raise lmdb.CorruptedError("mdb_cursor_get")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(compact._Copy, "_batches", broken)
        with pytest.raises(CorruptObjectError, match="fsck"):
            history.compact()
    assert file_of(history) == before
    goes_on(history)


def test_what_a_killed_one_left_is_cleared_away_and_nothing_that_somebody_put_there(path: Path) -> None:
    (path / "compacting").mkdir()
    (path / "compacting/data.mdb").write_bytes(b"half of it")
    open_history(path).close()
    assert not (path / "compacting").exists()
    (path / "compacting").mkdir()
    (path / "compacting/thesis.tex").write_bytes(b"something")
    with open_history(path) as history:
        with pytest.raises(StoreError, match="compacted"):
            history.compact()
        check(history)
    assert (path / "compacting/thesis.tex").read_bytes() == b"something"
    (path / "data.mdb").unlink()  # what is left may be the only copy
    for create in (True, False):
        with pytest.raises(NotAStoreError):
            open_store(path, create=create)


# -- room ------------------------------------------------------------------------------------------------------------


def test_too_little_room_is_told_with_both_numbers_before_anything_is_done(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file_of(history)
    used = history.store.size().used
    monkeypatch.setattr(filesystem, "free_bytes", lambda path: used)
    with pytest.raises(StoreFullError, match="beside the old one") as full:
        history.compact()
    assert full.value.needed > full.value.available == used
    assert file_of(history) == before
    monkeypatch.undo()
    goes_on(history)


def test_a_file_that_cannot_grow_on_the_way_costs_nothing(tmp_path: Path) -> None:
    """Real failing writes, by the limit on the size of files; every other one by a shim, in tests/trials."""
    make(tmp_path / "store", size=400_000)
    said = run(
        """
        import resource, sys
        from casckpt.errors import StoreError
        from tests.store.wasteful import KEPT, check, commit_steps, open_history
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        with open_history(sys.argv[1]) as history:
            try:
                history.compact()
            except StoreError as error:
                print("the new file" in str(error), sys.argv[1] in str(error))
            check(history, size=400_000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print(history.compact().given_back > 1 << 20)
            check(history, size=400_000)
        """,
        tmp_path / "store",
    )
    assert said.split() == ["True"] * 3


def test_a_process_with_little_address_space_compacts_too(path: Path) -> None:
    run(
        """
        import resource, sys
        from tests.store.wasteful import check, open_history
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        with open_history(sys.argv[1]) as history:
            assert history.compact().given_back > 0
            check(history)
        """,
        path,
    )


# -- threads of this process ---------------------------------------------------------------------------------------


class Held:
    """A compact that stops where its copy is done, until it is let on."""

    def __init__(self, history: History, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there, self.on = threading.Event(), threading.Event()
        real = compact._see_to_disk

        def see_to_disk(*args: Any) -> None:
            self.there.set()
            assert self.on.wait(60)
            real(*args)

        monkeypatch.setattr(compact, "_see_to_disk", see_to_disk)
        self.done: Future[Any] = pool.submit(history.compact)
        assert self.there.wait(60)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *error: object) -> None:
        self.on.set()


@contextmanager
def waiting(history: History, work: Callable[[], Any], pool: ThreadPoolExecutor) -> Iterator[Future[Any]]:
    """`work` on another thread, once that waits at the gate."""
    gate = history.store._environment.gate._moved
    before = len(gate._waiters)
    future = pool.submit(work)
    while len(gate._waiters) == before and not future.done():
        time.sleep(0.001)
    assert not future.done()
    yield future


def test_whoever_comes_meanwhile_waits_and_goes_on_with_the_new_file(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_history(history.path)
    begun = history.store.write(durable=True, room=None)  # made with the old file, entered with the new one

    def write() -> None:
        with begun as writer:
            tip = bytes.fromhex(history.resolve().id)
            writer.put(Space.REF, b"tag/late", with_check(Space.REF, b"tag/late", tip))

    with (
        ThreadPoolExecutor(5) as pool,
        Held(history, pool, monkeypatch) as held,
        waiting(history, lambda: check(other), pool) as reading,
        waiting(history, write, pool) as writing,
        waiting(history, lambda: open_history(history.path).close(), pool) as opening_it,
    ):
        held.on.set()
        assert held.done.result(60).given_back > 0
        for future in (reading, writing, opening_it):
            future.result(60)
    assert any(ref.name == "late" for ref in history.refs())
    other.close()
    goes_on(history)


def test_a_save_in_flight_is_waited_for_and_what_it_needs_to_end_is_let_in(history: History) -> None:
    store = history.store
    snapshot = store.read()  # as a save has from its start to its end
    elsewhere = open_store(store.path)
    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as others, contextlib.closing(snapshot):
        gate = store._environment.gate._moved
        compacting = pool.submit(history.compact)
        while not gate._waiters:
            time.sleep(0.001)
        with store.write(durable=True, room=None) as writer:
            writer.put(Space.FIGURES, b"mine", b"value")
        with store.read() as again:
            assert again.has(Space.FIGURES, b"mine")
        with elsewhere.read() as again:  # by another handle, on the thread that has one
            assert again.has(Space.FIGURES, b"mine")

        def on_another_thread() -> None:
            with store.write(durable=True, room=None) as writer:  # in the name of the handle that has one
                writer.put(Space.FIGURES, b"ours", b"value")
            assert not snapshot.has(Space.FIGURES, b"mine")  # handed over: now it is this thread's
            with store.read() as again:
                assert again.has(Space.FIGURES, b"ours")

        pool.submit(on_another_thread).result(60)
        with waiting(history, lambda: elsewhere.read().close(), others) as late:  # nobody's: waits until it is done
            assert not compacting.done()
            snapshot.close()
            assert compacting.result(60).given_back > 0
            late.result(60)
    elsewhere.close()
    with store.write(durable=True, room=None) as writer:
        assert writer.delete(Space.FIGURES, b"mine") and writer.delete(Space.FIGURES, b"ours")
    goes_on(history)


def test_closing_the_handle_that_compacts_waits_for_it_and_others_may_close_at_once(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_store(history.path)
    with ThreadPoolExecutor(3) as pool, Held(history, pool, monkeypatch) as held:
        other.close()
        closing = pool.submit(history.store.close)
        time.sleep(0.05)
        assert not closing.done()
        held.on.set()
        held.done.result(60)
        closing.result(60)
    assert live(Path(history.path)) == []
    with open_history(history.path) as again:
        goes_on(again)


def test_two_at_once_are_one_after_the_other_or_one_of_them_is_refused(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_history(history.path)
    environment, handle = other.store._environment, other.store._handle
    with ThreadPoolExecutor(2) as pool, Held(history, pool, monkeypatch) as held:
        with pytest.raises(StoreBusyError, match="under way"):
            other.compact()
        with pytest.raises(StoreBusyError), environment.gate.alone(handle, environment.check, lambda: None):
            pass
        held.on.set()
        held.done.result(60)
    assert other.compact().after > 0
    other.close()
    goes_on(history)


def test_twenty_times_while_three_threads_go_on_committing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shared = open_history(path, 4096)
    commit_steps(shared, 0, 1, size=20_000)
    first = shared.resolve("main").id
    stop = threading.Event()
    lengths = []

    def train(name: str) -> int:
        with open_history(path) as mine:
            mine.branch(name, at=first)  # HEAD is wherever another of these threads has switched to
            mine.switch(name)
            step = 1
            while not stop.is_set():
                commit_steps(mine, step, step + 1, size=20_000)
                found = shared.resolve(f"{name}~1")  # a handle that all of them use
                assert load(shared, found.id) == state(step - 1, size=20_000)
                shared.tag(f"{name}-{step}", at=name)
                step += 1
        return step

    with ThreadPoolExecutor(3) as pool:
        names = ["one", "two", "three"]
        trained = [pool.submit(train, name) for name in names]
        with open_history(path) as mine:
            for _ in range(20):
                waste(mine, 3, size=20_000)
                mine.compact()
                lengths.append(file_of(mine)[1])
        stop.set()
        steps = [future.result(60) for future in trained]
    assert all(step > 20 for step in steps)
    for name, step in zip(names, steps, strict=True):
        check(shared, step, name, size=20_000)
    assert sum(ref.kind == "tag" for ref in shared.refs()) == sum(steps) - 3
    shared.close()
    with open_history(path) as again:
        for name, step in zip(names, steps, strict=True):
            check(again, step, name, size=20_000)
        assert sound(again)
        again.compact()
        assert sound(again)
        check(again, 1, size=20_000)


# -- interrupts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["waiting for what is under way", "copying what is in use", "exchanging the file"])
def test_an_interrupt_at_any_stage_leaves_a_file_in_use_and_everything_usable(history: History, at: str) -> None:
    stages = []

    def interrupt(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        if stage == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        history.compact(progress=interrupt)
    assert stages[-1] == at
    goes_on(history)


def test_an_interrupt_ends_the_wait_for_what_is_under_way(history: History) -> None:
    begun, end = threading.Event(), threading.Event()

    def read() -> None:
        with history.store.read():
            begun.set()
            assert end.wait(60)

    def interrupt(*told: object) -> None:
        raise KeyboardInterrupt

    before = file_of(history)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert begun.wait(60)
        with pytest.raises(KeyboardInterrupt):
            history.compact(progress=interrupt)
        with history.store.read() as reader:  # nobody is made to wait any more
            assert reader.count(Space.REF)
        end.set()
        reading.result(60)
    assert file_of(history) == before
    goes_on(history)


# -- when there is no going on ---------------------------------------------------------------------------------------


def test_where_the_new_file_cannot_be_opened_the_store_says_so_and_is_whole_for_whoever_opens_it(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file_of(history)
    other = open_history(history.path)

    def refuse(*args: object) -> None:
        raise StoreError("no address space")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "open_lmdb", refuse)
        with pytest.raises(StoreFailedError, match=r"cannot be opened again.*no address space"):
            history.compact()
    for handle in (history, other):
        with pytest.raises(StoreFailedError):
            handle.log(limit=1).__next__()
    assert live(Path(history.path)) == []  # an opener without LMDB's lock would keep everybody out
    assert file_of(history) != before
    run("import sys; from casckpt.store.lmdb_store import open_store; open_store(sys.argv[1]).close()", history.path)
    with open_history(history.path) as again:
        check(again)
    history.close()
    other.close()
    with open_history(history.path) as again:
        goes_on(again)


def test_a_folder_that_cannot_be_synced_leaves_an_environment_that_acknowledges_nothing_more(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "sync_folder", refuse)
        with pytest.raises(StoreFailedError, match="could not be synced"):
            history.compact()
        with pytest.raises(StoreFailedError):
            commit_steps(history, KEPT, KEPT + 1)
    history.close()
    with open_history(history.path) as again:
        goes_on(again)


def test_a_lock_file_made_for_another_data_file_is_noticed(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers take the number of the last transaction from it, and with a wrong one an old state of the file."""
    real = registry.exchange
    monkeypatch.setattr(compact, "exchange", lambda environment, copy, last: real(environment, copy, last + 1))
    with pytest.raises(StoreFailedError, match="its lock file is at transaction"):
        history.compact()
    history.close()
    with open_history(history.path) as again:
        goes_on(again)


# -- forks -------------------------------------------------------------------------------------------------------------


def use_inherited(history: History) -> str:
    try:
        history.resolve()
    except ForkedStoreError:
        gc.collect()
        return "refused"
    return "used"


def test_a_loader_process_that_was_forked_before_neither_keeps_the_room_nor_does_harm(history: History) -> None:
    held = os.open(Path(history.path) / "data.mdb", os.O_RDONLY)  # as a forked child has it
    reading, writing = os.pipe()
    done_reading, done = os.pipe()

    def work() -> str:
        os.write(writing, b".")
        os.read(done_reading, 1)  # the file is exchanged meanwhile
        said = use_inherited(history)
        with open_history(history.path) as mine:
            check(mine)
        return said

    with ThreadPoolExecutor(1) as pool:
        child = pool.submit(forked, work)
        os.read(reading, 1)
        try:
            assert history.compact().given_back > 0
            stat = os.fstat(held)
            assert (stat.st_nlink, stat.st_size, stat.st_blocks) == (0, 0, 0)
        finally:
            os.write(done, b".")
        assert child.result(60) == "refused"
    for descriptor in (held, reading, writing, done_reading, done):
        os.close(descriptor)
    goes_on(history)


def test_a_child_that_is_forked_afterwards_does_no_harm(history: History) -> None:
    history.compact()

    def work() -> str:
        with open_history(history.path) as mine:
            check(mine)
        return use_inherited(history)

    assert forked(work) == "refused"
    history.compact()
    goes_on(history)


def test_children_that_are_forked_in_the_midst_of_it_do_no_harm(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(1) as pool, Held(history, pool, monkeypatch) as held:
        assert forked(lambda: use_inherited(history)) == "refused"
        held.on.set()
        assert held.done.result(60).given_back > 0
    goes_on(history)
    with open_history(history.path) as again:
        stop = threading.Event()

        def go_on() -> int:
            turns = 0
            while not stop.is_set():
                again.compact()
                turns += 1
            return turns

        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(go_on)
            try:
                for _ in range(8):
                    assert forked(lambda: use_inherited(again)) == "refused"
            finally:
                stop.set()
            assert work.result(60) > 0
        check(again, KEPT + 1)
