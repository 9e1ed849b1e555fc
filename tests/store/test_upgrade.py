"""A store of an earlier format becomes one of today's: durably, for every handle, and never beside another process."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from threading import Thread

import pytest

from casckpt.errors import CorruptObjectError, StoreBusyError, StoreFailedError
from casckpt.history.records import (
    Mark,
    add_mark,
    all_refs,
    gc_epoch,
    get_figures,
    get_head,
    get_mark,
    moves_since,
    reflog_next,
)
from casckpt.history.repository import History
from casckpt.store import upgrade as upgrading
from casckpt.store.checked import CHECKED_SPACES, COUNTERS, records, without_check
from casckpt.store.environment import Environment
from casckpt.store.format import FORMAT_KEY, FORMAT_VERSION, encode_format
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.damage import as_format
from tests.history.world import commit, load, noise
from tests.processes import PATIENCE, ROOT, Program

HOLD = """
import sys
from casckpt.store.lmdb_store import open_store
store = open_store(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
store.close()
"""


DIES = """
import os, sys
from casckpt.store import upgrade
from casckpt.store.lmdb_store import open_store
real = getattr(upgrade, sys.argv[2])
def then_die(*given):
    real(*given)
    os._exit(7)
setattr(upgrade, sys.argv[2], then_die)
open_store(sys.argv[1]).upgrade()
"""


@pytest.fixture(params=range(1, FORMAT_VERSION))
def earlier(tmp_path, request) -> LmdbStore:
    """A store of each earlier format."""
    with History(open_store(tmp_path / "store", chunk_size=256)) as history:
        first = commit(history, {"model": {"w": noise(1, 900)}, "optimizer": {"m": noise(2, 900)}})
        commit(history, {"model": {"w": noise(1, 900)}})
        history.tag("first", at=first.id)
        with history.store.write(durable=True, room=None) as writer:
            add_mark(writer, bytes.fromhex(first.id), Mark(False, ("optimizer",)))
        history.gc()
        as_format(history.store, request.param)
    made = open_store(tmp_path / "store")
    assert made.format.version == request.param
    return made


def records_of(store: LmdbStore) -> tuple[object, ...]:
    """All that the small records say."""
    with store.read() as reader:
        commits = [*reader.keys(Space.COMMIT)]
        beside = [(get_mark(reader, one), get_figures(reader, one)) for one in commits]
        counters = gc_epoch(reader), reflog_next(reader)
        return get_head(reader), [*all_refs(reader)], [*moves_since(reader, 0)], beside, counters


def test_it_is_of_todays_format_from_then_on(earlier, tmp_path) -> None:
    other = open_store(tmp_path / "store")
    earlier.upgrade()
    assert earlier.format.version == other.format.version == FORMAT_VERSION
    assert earlier.format == replace(other.format, version=FORMAT_VERSION)
    earlier.upgrade()
    other.close()
    earlier.close()
    with History(open_store(tmp_path / "store")) as history:
        assert history.store.format.version == FORMAT_VERSION
        assert load(history, "HEAD") == {"model": {"w": noise(1, 900)}}
        assert history.fsck(read_data=True).findings == ()


def test_it_outlives_a_compact_and_a_reopening(earlier, tmp_path) -> None:
    earlier.upgrade()
    earlier.compact()
    assert earlier.format.version == FORMAT_VERSION
    earlier.close()
    with closing(open_store(tmp_path / "store")) as store:
        assert store.format.version == FORMAT_VERSION


def test_beside_another_process_it_is_refused_and_nothing_is_changed(earlier, tmp_path) -> None:
    with Program(HOLD, tmp_path / "store") as program:
        assert program.line() == "open"
        with pytest.raises(StoreBusyError, match="process") as caught:
            earlier.upgrade()
        assert len(caught.value.holders) == 1
        with earlier.read() as reader:
            assert reader.get(Space.META, FORMAT_KEY) == encode_format(earlier.format)
        assert earlier.format.version < FORMAT_VERSION
        program.end()
    earlier.upgrade()
    assert earlier.format.version == FORMAT_VERSION
    earlier.close()


def test_where_it_cannot_be_written_the_store_stays_what_it_was(earlier, tmp_path, monkeypatch) -> None:
    def fail(self):
        raise StoreFailedError("no", store="")

    monkeypatch.setattr("casckpt.store.environment.Environment._count", lambda self, transaction: fail(self))
    with pytest.raises(StoreFailedError):
        earlier.upgrade()
    monkeypatch.undo()
    assert earlier.format.version < FORMAT_VERSION
    earlier.upgrade()
    assert earlier.format.version == FORMAT_VERSION
    earlier.close()


def test_repack_upgrades_and_a_dry_run_does_not(earlier) -> None:
    history = History(earlier)
    history.repack(dry_run=True)
    assert earlier.format.version < FORMAT_VERSION
    history.repack()
    assert earlier.format.version == FORMAT_VERSION
    history.close()


def test_the_model_is_upgraded_too() -> None:
    store = MemoryStore()
    store.format = replace(store.format, version=1)
    with History(store) as history:
        commit(history, {"model": {"w": noise(1, 900)}})
        store.upgrade()
        assert store.format.version == FORMAT_VERSION
        assert history.fsck(read_data=True).findings == ()


def test_records_say_the_same_before_and_after_in_every_snapshot(earlier) -> None:
    """A snapshot from before goes on as what it is of, beside one of after, and so does the next write."""
    before = records_of(earlier)
    with earlier.read() as old:
        earlier.upgrade()
        assert [*all_refs(old)] == before[1] and old.format_version < FORMAT_VERSION
    assert records_of(earlier) == before
    with History(earlier) as history:
        commit(history, {"model": {"w": noise(3, 900)}})
        assert history.fsck(read_data=True).findings == ()


def test_every_record_has_a_check_after_it_and_none_before(earlier) -> None:
    def checked() -> set[bool]:
        with earlier.read() as reader:
            records = [(space, key, raw) for space in CHECKED_SPACES for key, raw in reader.items(space)]
            records += [(Space.META, key, reader.get(Space.META, key)) for key in COUNTERS]
            assert len({space for space, _, _ in records}) == 5
            return {without_check(*record) is not None for record in records}

    assert checked() == {False}
    with History(earlier) as history:  # what is written into a store of an earlier format is of that, too
        commit(history, {"model": {"w": noise(3, 900)}})
        assert checked() == {False}
        assert history.fsck(read_data=True).findings == ()
        history.store.upgrade()
        assert checked() == {True}
        assert history.fsck(read_data=True).findings == ()


def test_a_process_that_dies_within_it_leaves_the_store_as_it_was(earlier, tmp_path) -> None:
    before, version = records_of(earlier), earlier.format.version
    earlier.close()
    for moment in ("add_checks", "encode_format"):
        ran = subprocess.run([sys.executable, "-c", DIES, tmp_path / "store", moment], cwd=ROOT, check=False)
        assert ran.returncode == 7
        with closing(open_store(tmp_path / "store")) as store:
            assert store.format.version == version and records_of(store) == before


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION))
def test_a_store_of_today_of_which_a_bit_says_that_it_is_earlier_is_left_as_it_is(tmp_path, version) -> None:
    """Its records got a second check each, and could not be read any more."""
    with History(open_store(tmp_path / "store", chunk_size=256)) as history:
        commit(history, {"model": {"w": noise(1, 900)}})
        with history.store.write(durable=True, room=None) as writer:
            writer.put(Space.META, FORMAT_KEY, encode_format(replace(history.store.format, version=version)))
    with History(open_store(tmp_path / "store")) as history:
        with history.store.read() as reader:
            before = [(*one[:2], bytes(one[2])) for one in records(reader)]
        for work in (history.store.upgrade, history.repack):
            with pytest.raises(CorruptObjectError, match="the number of its format is damaged"):
                work()
        assert history.store.format.version == version
        assert history.fsck().counts["damaged-format"] == 1
        with history.store.write(durable=True, room=None) as writer:
            assert [(*one[:2], bytes(one[2])) for one in records(writer)] == before
            writer.put(Space.META, FORMAT_KEY, encode_format(replace(history.store.format, version=FORMAT_VERSION)))
    with History(open_store(tmp_path / "store")) as history:  # nothing else was the matter
        assert history.fsck(read_data=True).findings == ()


def test_the_model_refuses_a_store_of_today_that_is_said_to_be_earlier_too() -> None:
    store = MemoryStore()
    with History(store) as history:
        commit(history, {"model": {"w": noise(1, 900)}})
        store.format = replace(store.format, version=2)
        with pytest.raises(CorruptObjectError, match="the number of its format is damaged"):
            store.upgrade()
        assert store.format.version == 2


@pytest.mark.parametrize("written", [True, False])
def test_a_handle_that_was_interrupted_in_it_knows_what_the_store_is_then(earlier, monkeypatch, written) -> None:
    """Its version stayed the earlier one: fsck took a sound store for damaged."""
    before = earlier.format.version
    real = Environment.sync if written else Environment._count

    def interrupted(self, *given):
        if written:
            real(self, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Environment, real.__name__, interrupted)
    with pytest.raises(KeyboardInterrupt):
        earlier.upgrade()
    monkeypatch.undo()
    with earlier.read() as reader:
        assert earlier.format.version == reader.format_version == (FORMAT_VERSION if written else before)
    with History(earlier) as history:
        assert history.fsck(read_data=True).findings == ()
        commit(history, {"model": {"w": noise(3, 900)}})


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION))
def test_room_is_asked_for_all_that_it_writes_also_of_long_records(tmp_path, monkeypatch, version) -> None:
    """A mark can name thousands of parts: the disk was full within the transaction instead of before it."""
    with History(open_store(tmp_path / "store", chunk_size=256)) as history:
        for step in range(12):
            made = commit(history, {"model": {"w": noise(step, 900)}}, step=step)
            parts = tuple(f"part {n}" for n in range(10 ** (step % 4)))
            with history.store.write(durable=True, room=None) as writer:
                add_mark(writer, bytes.fromhex(made.id), Mark(False, parts))
            history.tag(f"{step}" * 60)
        as_format(history.store, version)
    with closing(open_store(tmp_path / "store")) as store:
        asked: list[int] = []
        real = type(store).write

        def write(self, *, durable, room):
            asked.append(room)
            return real(self, durable=durable, room=room)

        monkeypatch.setattr(type(store), "write", write)
        dirty = store.size().used
        store.upgrade()
        with store.read() as reader:
            longest = max(len(record) for _, _, record in records(reader))
            written = sum(len(key) + len(record) for _, key, record in records(reader))
        assert longest > 2 * 4096 and asked[0] > 2 * written
        assert store.size().used - dirty < asked[0]


def test_a_handle_that_is_closed_meanwhile_keeps_no_other_from_knowing_the_version(
    earlier, tmp_path, monkeypatch
) -> None:
    """The close waits for the transaction; another handle of the process goes on, and makes a backup."""
    real, closing_it = upgrading.add_checks, Thread(target=earlier.close)

    def add_checks(writer) -> None:
        closing_it.start()
        while not earlier._handle.closed:
            time.sleep(0.001)
        real(writer)

    monkeypatch.setattr(upgrading, "add_checks", add_checks)
    with closing(open_store(earlier.path, create=False)) as other:
        earlier.upgrade()
        closing_it.join(PATIENCE)
        with other.read() as reader:
            assert reader.format_version == other.format.version == FORMAT_VERSION
        assert other.backup(str(tmp_path / "copy")).bytes


def test_a_compact_that_comes_meanwhile_and_the_upgrade_do_not_wait_for_each_other(earlier, monkeypatch) -> None:
    real = upgrading.add_checks
    with closing(open_store(earlier.path, create=False)) as other:
        compacting = Thread(target=other.compact, daemon=True)

        def add_checks(writer) -> None:
            compacting.start()
            while earlier._environment.gate._alone is None:
                time.sleep(0.001)
            real(writer)

        monkeypatch.setattr(upgrading, "add_checks", add_checks)
        earlier.upgrade()
        compacting.join(PATIENCE)
        assert not compacting.is_alive() and other.format.version == FORMAT_VERSION
