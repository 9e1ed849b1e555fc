"""Opening: what is no place for a store is left alone, and every refusal says what is there and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import lmdb
import msgspec
import pytest

from casckpt.errors import (
    CorruptObjectError,
    NetworkFilesystemError,
    NewerFormatError,
    NotAStoreError,
    StoreBusyError,
    StoreError,
    StoreFailedError,
    StoreFullError,
    StoreNotFoundError,
    StoreSettingsError,
)
from casckpt.limits import DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE
from casckpt.store import filesystem, lmdb_lock, lmdb_open, opening
from casckpt.store.format import FORMAT_VERSION, MAP_SIZE
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.history.world import commit, load
from tests.processes import run
from tests.store.wasteful import open_history


def snapshot(folder):
    """Every file below with its bytes, and when each folder last changed."""
    return {
        path: (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
    }


def test_a_new_store_has_the_defaults_and_an_existing_one_keeps_its_settings(tmp_path):
    store = open_store(tmp_path / "deep/er/store")
    held = store.format
    assert (held.version, held.hash, held.chunk_size, held.codec) == (3, "xxh3_128", DEFAULT_CHUNK_SIZE, "auto")
    assert held.map_size == MAP_SIZE
    store.close()
    again = open_store(str(tmp_path / "deep/er/store"), create=False, hash="xxh3_128", chunk_size=DEFAULT_CHUNK_SIZE)
    assert again.format == held and again.path == str(tmp_path / "deep/er/store")
    again.close()
    store = open_store(tmp_path / "other", hash="blake3", chunk_size=4096, codec="none")
    assert (store.format.hash, store.format.chunk_size, store.format.codec) == ("blake3", 4096, "none")
    store.close()


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"hash": "blake3"}, "hash='xxh3_128', not 'blake3'"),
        ({"chunk_size": 4096}, f"chunk_size={DEFAULT_CHUNK_SIZE}, not 4096"),
        ({"codec": "none"}, "codec='auto', not 'none'"),
    ],
)
def test_another_setting_than_the_store_s_is_refused_naming_both(tmp_path, wanted, says, is_open):
    store = open_store(tmp_path / "store")
    if not is_open:
        store.close()
    with pytest.raises(StoreSettingsError, match=says):
        open_store(tmp_path / "store", **wanted)
    store.close()
    open_store(tmp_path / "store").close()


@pytest.mark.parametrize(
    "wanted",
    [
        {"hash": "md5"},
        {"codec": "brotli"},
        *(
            {"chunk_size": size}
            for size in (0, -4096, 3000, MIN_CHUNK_SIZE // 2, MAX_CHUNK_SIZE * 2, True, 4096.0, "1")
        ),
    ],
)
def test_a_setting_that_no_store_can_have_is_refused_and_nothing_is_made(tmp_path, wanted):
    with pytest.raises(StoreSettingsError, match=str(next(iter(wanted.values())))):
        open_store(tmp_path / "store", **wanted)
    assert list(tmp_path.iterdir()) == []


def test_nothing_there_is_told_and_nothing_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(StoreNotFoundError, match=str(path)):
            open_store(path, create=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_other_things_are_left_alone(tmp_path):
    (tmp_path / "file").write_bytes(b"something")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_bytes(b"something")
    (tmp_path / "gated").mkdir()
    (tmp_path / "gated/gate").write_bytes(b"a gate of another kind")
    (tmp_path / "gated/door").write_bytes(b"")
    with lmdb.open(str(tmp_path / "foreign"), lock=False) as env, env.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    with lmdb.open(str(tmp_path / "blank"), lock=False):
        pass
    before = snapshot(tmp_path)
    for name in ("file", "file/below", "folder", "gated", "foreign", "blank"):
        for create in (True, False):
            with pytest.raises((NotAStoreError, StoreError), match=name):
                open_store(tmp_path / name, create=create)
    for name in ("file", "folder", "gated", "foreign", "blank"):
        with pytest.raises(NotAStoreError):
            open_store(tmp_path / name)
    assert snapshot(tmp_path) == before


def test_a_foreign_data_file_behind_a_gate_is_left_alone(tmp_path):
    with lmdb.open(str(tmp_path / "foreign"), lock=False) as env, env.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    (tmp_path / "foreign/gate").touch()
    with pytest.raises(NotAStoreError, match="not written by casckpt"):
        open_store(tmp_path / "foreign")
    assert sorted(path.name for path in (tmp_path / "foreign").iterdir()) == ["data.mdb", "gate"]


def test_a_data_file_alone_is_a_store(tmp_path):
    store = open_store(tmp_path / "store")
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    store.close()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/data.mdb").write_bytes((tmp_path / "store/data.mdb").read_bytes())
    copy = open_store(tmp_path / "copy", create=False)
    with copy.read() as reader:
        assert reader.has(Space.REF, b"key")
    copy.close()


@pytest.fixture
def synced(monkeypatch):
    """The folders that are synced, in order; LMDB syncs its file itself."""
    seen, real = [], filesystem.sync_folder

    def sync_folder(path):
        real(path)
        seen.append(path)

    monkeypatch.setattr(filesystem, "sync_folder", sync_folder)
    return seen


def test_every_folder_on_the_way_to_a_new_store_is_on_the_disk_before_the_store_is(tmp_path, synced, monkeypatch):
    create, before = opening._create, []

    def created(*args):
        before.extend(synced)
        create(*args)

    monkeypatch.setattr(opening, "_create", created)
    path = tmp_path / "a/b/store"
    (tmp_path / "a").mkdir()  # by somebody who did not see to it
    open_store(path).close()
    assert {path, path.parent, tmp_path / "a", tmp_path} <= set(before)
    assert path in synced[len(before) :]


def test_a_store_whose_creator_died_before_its_folder_was_synced_is_synced_by_the_next_to_open_it(tmp_path, synced):
    open_store(tmp_path / "store").close()
    synced.clear()
    open_store(tmp_path / "store", create=False).close()
    assert {tmp_path / "store", tmp_path} <= set(synced)


def test_a_folder_above_the_store_that_may_not_be_read_is_no_trouble(tmp_path, monkeypatch):
    def sync_folder(path):
        if path != tmp_path / "store":
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filesystem, "sync_folder", sync_folder)
    for create in (True, False):
        open_store(tmp_path / "store", create=create).close()


@pytest.mark.parametrize(
    "left", [["gate"], ["gate", "openers", "lock.mdb"], ["gate", "data.mdb"], ["gate", "creating"]]
)
def test_a_creation_that_was_cut_off_is_begun_again(tmp_path, left):
    path = tmp_path / "store"
    path.mkdir()
    for name in left:
        (path / name).mkdir() if name in ("openers", "creating") else (path / name).touch()
    with pytest.raises(StoreNotFoundError):
        open_store(path, create=False)
    store = open_store(path)
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    store.close()


def test_an_environment_without_its_first_transaction_is_begun_again(tmp_path):
    with lmdb.open(str(tmp_path / "store")):
        pass
    (tmp_path / "store/gate").touch()
    with pytest.raises(StoreNotFoundError, match="never finished"):
        open_store(tmp_path / "store", create=False)
    open_store(tmp_path / "store").close()


def rewrite_format(path, record):
    with lmdb.open(str(path), max_dbs=32) as env:
        meta = env.open_db(Space.META.value)
        with env.begin(write=True, db=meta) as transaction:
            transaction.put(b"format", record)


def test_a_newer_format_is_refused_and_nothing_is_changed(tmp_path):
    store = open_store(tmp_path / "store")
    store.close()
    rewrite_format(tmp_path / "store", msgspec.msgpack.encode({"version": FORMAT_VERSION + 1, "what": "comes later"}))
    before = snapshot(tmp_path)
    told = rf"its format is {FORMAT_VERSION + 1}, and .* up to {FORMAT_VERSION}.*later casckpt"
    with pytest.raises(NewerFormatError, match=told):
        open_store(tmp_path / "store")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": "1"},
        {"uuid": "no uuid"},
        {"hash": "md5"},
        {"chunk_size": 3},
        {"chunk_size": -1},
        {"codec": "brotli"},
        {"map_size": 1 << 50},
        {"map_size": 0},
        None,
    ],
)
def test_a_format_record_that_no_store_can_have_is_told_as_damage(tmp_path, change):
    store = open_store(tmp_path / "store")
    held = msgspec.to_builtins(store.format)
    store.close()
    record = b"\xc1" if change is None else msgspec.msgpack.encode({**held, **change})
    rewrite_format(tmp_path / "store", record)
    with pytest.raises(CorruptObjectError, match="format record"):
        open_store(tmp_path / "store")


@pytest.mark.parametrize("name", sorted(set(filesystem.NETWORK_FILESYSTEMS.values())))
def test_a_network_file_system_is_refused_with_what_to_do_and_nothing_is_made(tmp_path, monkeypatch, name):
    magic = next(key for key, value in filesystem.NETWORK_FILESYSTEMS.items() if value == name)
    monkeypatch.setattr(filesystem, "kind_of", lambda path: magic)
    with pytest.raises(NetworkFilesystemError, match=f"{tmp_path}/new/store: this is on {name}.*casckpt backup"):
        open_store(tmp_path / "new/store")
    assert list(tmp_path.iterdir()) == []


def test_the_kind_of_a_file_system_is_what_the_kernel_says():
    assert filesystem.kind_of("/proc") == 0x9FA0
    assert filesystem.kind_of("/sys") == 0x62656572
    with pytest.raises(FileNotFoundError):
        filesystem.kind_of("/proc/no such thing")


def test_what_the_system_refuses_names_the_store(tmp_path, monkeypatch):
    def refuse(code):
        def make(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        return make

    for code, expected in (
        (errno.EACCES, StoreError),
        (errno.EROFS, StoreError),
        (errno.ENOSPC, StoreFullError),
        (errno.EFBIG, StoreFullError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(opening.Path, "mkdir", refuse(code))
            with pytest.raises(expected, match=f"{tmp_path}/store"):
                open_store(tmp_path / "store")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EAGAIN, StoreBusyError),
        (errno.EACCES, StoreError),
        (errno.ENOMEM, StoreFailedError),
        (errno.ENOSPC, StoreFullError),
        (errno.EFBIG, StoreFullError),
        (errno.EIO, StoreError),
    ],
)
def test_what_lmdb_refuses_is_told_and_leaves_nobody_registered(tmp_path, monkeypatch, code, expected):
    open_store(tmp_path / "store").close()

    def refuse(*arguments):
        error = lmdb.Error(os.strerror(code))
        error.code = code
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_open, "_lmdb_environment", refuse)
        with pytest.raises(expected, match=f"{tmp_path}/store"):
            open_store(tmp_path / "store")
    assert list((tmp_path / "store/openers").iterdir()) == []
    open_store(tmp_path / "store").close()


def test_a_failure_late_in_opening_leaves_nothing_open(tmp_path, monkeypatch):
    open_store(tmp_path / "store").close()
    with monkeypatch.context() as patch:
        patch.setattr(opening, "_check_mark", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_store(tmp_path / "store")
    assert list((tmp_path / "store/openers").iterdir()) == []
    assert not lmdb_lock.is_lmdb_locked(tmp_path / "store")
    open_store(tmp_path / "store").close()


def test_a_file_that_something_else_in_this_process_has_open_is_refused(tmp_path):
    open_store(tmp_path / "store").close()
    with lmdb.open(str(tmp_path / "store")), pytest.raises(StoreBusyError, match="something else in this process"):
        open_store(tmp_path / "store")
    open_store(tmp_path / "store").close()


def test_a_failed_store_with_transactions_under_way_is_not_opened_again_yet(tmp_path):
    store = open_store(tmp_path / "store")
    reader = store.read()
    store._environment._failure = "a write failed"
    with pytest.raises(StoreBusyError, match="under way in this process"):
        open_store(tmp_path / "store")
    assert reader.count(Space.REF) == 0  # what was published before may still be read
    reader.close()
    again = open_store(tmp_path / "store")
    store.close()
    again.close()
    assert not lmdb_lock.is_lmdb_locked(tmp_path / "store")


def test_a_process_with_little_address_space_opens_and_works(tmp_path):
    store = open_store(tmp_path / "store")
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, b"key", b"v" * 5_000_000)
    said = run(
        """
        import resource, sys
        from casckpt.store.lmdb_store import open_store
        from casckpt.store.protocol import Space
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        store = open_store(sys.argv[1])
        other = open_store(sys.argv[1] + " of this one")
        with store.write(durable=True, room=None) as writer:
            assert writer.get(Space.CHUNK, b"key") == b"v" * 5_000_000
            writer.put(Space.REF, b"key", b"value")
        print(store.format.map_size, store._environment._raw.info()["map_size"])
        store.close()
        other.close()
        """,
        tmp_path / "store",
    )
    record, taken = map(int, said.split())
    assert record == MAP_SIZE and taken == 1 << 29  # half of what is left at most, and a power of two
    with store.write(durable=True, room=None) as writer:
        assert writer.has(Space.REF, b"key")
    store.close()
    other = open_store(tmp_path / "store of this one")
    assert other.format.map_size == MAP_SIZE
    other.close()


def test_where_maps_have_taken_the_address_space_a_smaller_one_is_made(tmp_path):
    """Sixteen maps of 16 TiB do not fit into the 128 TiB of a process."""
    stores = [open_store(tmp_path / str(number)) for number in range(16)]
    for store in stores:
        with store.write(durable=True, room=None) as writer:
            writer.put(Space.REF, b"key", b"value")
    assert len({store._environment._raw.info()["map_size"] for store in stores}) > 1
    for store in stores:
        store.close()


def test_nothing_of_the_store_imports_numpy_or_torch():
    assert run("import sys, casckpt.store.lmdb_store; print('numpy' in sys.modules, 'torch' in sys.modules)") == (
        "False False\n"
    )


def test_lmdb_is_opened_so_that_neither_a_crash_nor_a_full_disk_can_cost_what_was_acknowledged(tmp_path):
    store = open_store(tmp_path / "store")
    flags = store._environment._raw.flags()
    assert flags["sync"] and not flags["writemap"] and not flags["map_async"] and flags["lock"]
    info = store._environment._raw.info()
    assert info["map_size"] == MAP_SIZE and info["max_readers"] >= 1024
    store.close()


def test_the_file_is_of_the_one_format_whatever_this_process_s_default_is(tmp_path):
    run(
        """
        import os, sys
        os.environ["LMDB_DEFAULT_LIB_VERSION"] = "1"
        from casckpt.store.lmdb_store import open_store
        open_store(sys.argv[1]).close()
        """,
        tmp_path / "store",
    )
    open_store(tmp_path / "store", create=False).close()
    assert (tmp_path / "store/data.mdb").read_bytes()[20:24] == (1).to_bytes(4, "little")


@pytest.mark.parametrize("name", ["creating", "compacting"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_store_that_somebody_put_where_we_work_stays_there(tmp_path: Path, name: str, linked: bool) -> None:
    open_store(tmp_path / "store").close()
    theirs = tmp_path / "theirs" if linked else tmp_path / "store" / name
    with open_history(theirs) as history:
        made = commit(history, {"model": {"w": b"theirs"}})
    if linked:
        (tmp_path / "store" / name).symlink_to(theirs)
    open_store(tmp_path / "store").close()
    with open_history(tmp_path / "store") as history, contextlib.suppress(StoreError):
        history.compact()
    with open_history(theirs) as history:
        assert history.resolve("main").id == made.id and load(history, "main") == {"model": {"w": b"theirs"}}
