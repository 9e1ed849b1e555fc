"""A store of an earlier format becomes one of today's: durably, for every handle, and never beside another process."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from casckpt.errors import StoreBusyError, StoreFailedError
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
from casckpt.store.checked import CHECKED_SPACES, COUNTERS, without_check
from casckpt.store.format import FORMAT_KEY, FORMAT_VERSION, encode_format
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.damage import as_format
from tests.history.world import commit, load, noise
from tests.processes import ROOT, Program

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
