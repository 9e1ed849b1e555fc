"""A store of an earlier format becomes one of today's: durably, for every handle, and never beside another process."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from casckpt.errors import StoreBusyError, StoreFailedError
from casckpt.history.repository import History
from casckpt.store.format import FORMAT_KEY, FORMAT_VERSION, encode_format
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.world import commit, load, noise
from tests.processes import Program

HOLD = """
import sys
from casckpt.store.lmdb_store import open_store
store = open_store(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
store.close()
"""


@pytest.fixture
def earlier(tmp_path) -> LmdbStore:
    """A store of format 1."""
    with History(open_store(tmp_path / "store", chunk_size=256)) as history:
        commit(history, {"model": {"w": noise(1, 900)}})
        store = history.store
        with store.write(durable=True, room=None) as writer:
            writer.put(Space.META, FORMAT_KEY, encode_format(replace(store.format, version=1)))
    made = open_store(tmp_path / "store")
    assert made.format.version == 1
    return made


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
        assert earlier.format.version == 1
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
    assert earlier.format.version == 1
    earlier.upgrade()
    assert earlier.format.version == FORMAT_VERSION
    earlier.close()


def test_repack_upgrades_and_a_dry_run_does_not(earlier) -> None:
    history = History(earlier)
    history.repack(dry_run=True)
    assert earlier.format.version == 1
    history.repack()
    assert earlier.format.version == FORMAT_VERSION
    history.close()


def test_the_model_is_upgraded_too() -> None:
    store = MemoryStore()
    store.format = replace(store.format, version=1)
    store.upgrade()
    assert store.format.version == FORMAT_VERSION
