"""A full disk is told before anything is written where it can be known, never costs data, and is cured by deleting."""

from __future__ import annotations

import ctypes
import errno
import os

import lmdb
import pytest

from casckpt.errors import StoreBusyError, StoreError, StoreFailedError, StoreFullError
from casckpt.limits import MIB
from casckpt.store import filesystem
from casckpt.store.environment import Environment
from casckpt.store.lmdb_store import open_store
from casckpt.store.locks import FileLock
from casckpt.store.protocol import Space
from casckpt.store.room import KEPT_FREE
from tests.processes import run


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path / "store")
    yield made
    made.close()


def contents(store):
    with store.read() as reader:
        return {(space, key): bytes(value) for space in Space for key, value in reader.items(space)}


def test_a_write_that_the_disk_has_no_room_for_is_refused_before_it_begins(store, monkeypatch):
    before = contents(store)
    monkeypatch.setattr(filesystem, "free_bytes", lambda path: 10 * MIB)
    with pytest.raises(StoreFullError, match="prune and gc") as refused, store.write(durable=True, room=10 * MIB):
        pytest.fail("the block must not run")
    assert refused.value.needed > refused.value.available == 10 * MIB
    assert contents(store) == before
    for room in (None, MIB):  # what frees room always may, and so may what fits
        with store.write(durable=True, room=room) as writer:
            writer.put(Space.REF, b"key", b"value")


def test_free_pages_of_the_file_count_as_room(store, monkeypatch):
    with store.write(durable=True, room=None) as writer:
        for number in range(40):
            writer.put(Space.CHUNK, b"%d" % number, b"v" * MIB)
    monkeypatch.setattr(filesystem, "free_bytes", lambda path: 0)
    with pytest.raises(StoreFullError), store.write(durable=True, room=30 * MIB):
        pass
    with store.write(durable=True, room=None) as writer:
        for number in range(40):
            writer.delete(Space.CHUNK, b"%d" % number)
    assert store.size().free > 39 * MIB
    with store.write(durable=True, room=None):  # what a commit frees can be used by the next but one
        pass
    length = (store._environment.path / "data.mdb").stat().st_size
    for _ in range(3):
        with store.write(durable=True, room=10 * MIB) as writer:
            for number in range(9):
                writer.put(Space.CHUNK, b"%d" % number, b"w" * MIB)
    assert (store._environment.path / "data.mdb").stat().st_size == length


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
def test_a_disk_without_a_byte_free_is_cured_by_a_process_that_opens_the_store_and_deletes(tmp_path, monkeypatch, call):
    """Who holds a lock is told to people only; the disk that has no room for it has none for anything else either."""
    store = open_store(tmp_path / "store")
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, b"key", b"v" * MIB)
    store.close()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    store = open_store(tmp_path / "store", create=False)
    assert len(store.openers()) == 1
    with store.maintenance():
        with pytest.raises(StoreBusyError), store.maintenance():
            pass
        with store.write(durable=True, room=None) as writer:
            assert writer.delete(Space.CHUNK, b"key")
    store.close()


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, StoreFullError), (errno.EACCES, StoreError), (errno.ENOLCK, StoreError)]
)
@pytest.mark.parametrize("what", ["__init__", "acquire"])
def test_a_maintenance_lock_that_the_system_refuses_names_the_store(store, monkeypatch, code, expected, what):
    def refuse(*args, **kwargs):
        raise OSError(code, "refused")

    with monkeypatch.context() as patch:
        patch.setattr(FileLock, what, refuse)
        with pytest.raises(expected, match=f"{store.path}: its maintenance lock"), store.maintenance():
            pytest.fail("the block must not run")
    with pytest.raises(FileNotFoundError, match="of the block"), store.maintenance():
        raise FileNotFoundError("of the block")  # is not the store's to name
    with store.maintenance():
        pass


def test_a_file_that_cannot_grow_loses_nothing_and_is_cured_by_deleting(tmp_path):
    """Real failing writes: a limit on the size of files makes the kernel refuse them, as a full disk does."""
    said = run(
        """
        import os, resource, sys
        from casckpt.errors import StoreFailedError, StoreFullError
        from casckpt.store.lmdb_store import open_store
        from casckpt.store.protocol import Space

        path = sys.argv[1]
        store = open_store(path)
        with store.write(durable=True, room=None) as writer:
            for number in range(16):
                writer.put(Space.CHUNK, b"old %d" % number, b"v" * (1 << 20))
        limit = os.stat(path + "/data.mdb").st_size + 3 * (1 << 20) + 100
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        def put(count):
            with store.write(durable=True, room=1 << 20) as writer:
                for number in range(count):
                    writer.put(Space.CHUNK, b"new %d" % number, b"w" * (1 << 20))

        for attempt in range(2):
            try:
                put(8)
            except (StoreFullError, StoreFailedError) as error:
                print(type(error).__name__)
            try:
                store.read()
            except StoreFailedError as error:
                print("unusable", "open it again" in str(error))
            store.close()
            store = open_store(path)
            with store.read() as reader:
                assert reader.count(Space.CHUNK) == 16
                assert all(value == b"v" * (1 << 20) for _, value in reader.items(Space.CHUNK))
        with store.write(durable=True, room=None) as writer:
            for number in range(12):
                assert writer.delete(Space.CHUNK, b"old %d" % number)
        with store.write(durable=True, room=None):
            pass
        put(8)
        with store.read() as reader:
            print(reader.count(Space.CHUNK))
        store.close()
        """,
        tmp_path / "store",
    ).splitlines()
    assert said[0] in ("StoreFullError", "StoreFailedError")
    assert said == [said[0], "unusable True"] * 2 + ["12"]


@pytest.mark.parametrize(
    ("error", "free", "expected"),
    [
        (lmdb.MapFullError("mdb_put"), 1 << 40, StoreFullError),
        (OSError(errno.ENOSPC, "No space left"), 1 << 40, StoreFullError),
        (OSError(errno.EFBIG, "File too large"), 1 << 40, StoreFullError),
        (OSError(errno.EIO, "Input/output error"), 4096, StoreFullError),
        (OSError(errno.EIO, "Input/output error"), 1 << 40, StoreFailedError),
        (lmdb.PanicError("mdb_txn_begin"), 1 << 40, StoreFailedError),
    ],
)
@pytest.mark.parametrize("where", ["put", "commit", "begin"])
def test_a_failed_write_says_whether_the_disk_was_full_and_leaves_the_store_as_it_was(
    tmp_path, monkeypatch, error, free, expected, where
):
    raised = error
    if isinstance(error, OSError):  # py-lmdb raises these as its own error, with the code as an attribute
        raised = lmdb.Error(str(error))
        raised.code = error.errno
    store = open_store(tmp_path / "store")
    before = contents(store)
    monkeypatch.setattr(filesystem, "free_bytes", lambda path: free)
    real, begin = store._environment._raw, Environment._begin_write

    class Failing:
        """LMDB's own transaction or environment, with one method that fails."""

        def __init__(self, inner, name):
            self.inner, self.name = inner, name

        def __getattr__(self, name):
            if name == self.name:
                return self.fail
            return getattr(self.inner, name)

        def fail(self, *args, **kwargs):
            if self.name == "commit":
                self.inner.abort()  # as LMDB does
            raise raised

    if where == "begin":
        monkeypatch.setattr(store._environment, "_raw", Failing(real, "begin"))
    else:
        monkeypatch.setattr(Environment, "_begin_write", lambda self: Failing(begin(self), where))
    with pytest.raises(expected) as failure, store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    assert store.path in str(failure.value) and failure.value.remedy
    monkeypatch.undo()
    with pytest.raises(StoreFailedError):
        store.read()
    store.close()
    store = open_store(tmp_path / "store")
    assert contents(store) == before
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    store.close()


def test_a_failed_write_is_the_last_one_also_where_the_disk_cannot_be_asked_for_its_room(tmp_path, monkeypatch):
    def gone(path):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    store = open_store(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "free_bytes", gone)
        patch.setattr(
            Environment, "_begin_write", lambda self: self._fail("it could not begin", lmdb.Error("Input/output error"))
        )
        with pytest.raises(StoreFailedError, match="it could not begin"), store.write(durable=True, room=None):
            pass
    with pytest.raises(StoreFailedError):
        store.read()
    store.close()


def test_size_tells_what_the_disk_holds_and_what_can_be_used_again(store):
    with store.write(durable=True, room=None) as writer:
        for number in range(10):
            writer.put(Space.CHUNK, b"%d" % number, b"v" * MIB)
    full = store.size()
    assert 10 * MIB < full.used <= full.file
    with store.write(durable=True, room=None) as writer:
        for number in range(10):
            writer.delete(Space.CHUNK, b"%d" % number)
    empty = store.size()
    assert empty.used < MIB and empty.free > 10 * MIB and empty.file >= full.file
    assert isinstance(store._environment, Environment)


def test_a_map_that_is_too_small_is_told_as_full_and_one_that_others_outgrew_as_to_be_opened_again(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "address_space_left", lambda: 64 * MIB)
        store = open_store(tmp_path / "store")
    with pytest.raises(StoreFullError), store.write(durable=True, room=None) as writer:
        for number in range(40):
            writer.put(Space.CHUNK, b"%d" % number, b"v" * MIB)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "address_space_left", lambda: 64 * MIB)
        store = open_store(tmp_path / "store")
    run(
        """
        import sys
        from casckpt.store.lmdb_store import open_store
        from casckpt.store.protocol import Space
        store = open_store(sys.argv[1])
        with store.write(durable=True, room=None) as writer:
            for number in range(40):
                writer.put(Space.CHUNK, b"%d" % number, b"v" * (1 << 20))
        store.close()
        """,
        tmp_path / "store",
    )
    with pytest.raises(StoreFailedError, match="open it again"):
        store.read()
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "address_space_left", lambda: 64 * MIB)
        store = open_store(tmp_path / "store")  # never smaller than the file
    with store.read() as reader:
        assert reader.count(Space.CHUNK) == 40
    store.close()


def test_a_store_keeps_room_on_the_disk_for_what_a_deletion_copies_and_for_its_readers(store):
    """Without it nothing can be deleted on a disk that others filled, and the 63rd reader is killed by SIGBUS."""
    folder = store._environment.path
    for turn in range(3):
        with store.write(durable=True, room=None) as writer:
            writer.put(Space.CHUNK, b"%d" % turn, b"v" * 3 * MIB)
        end = (store._environment._raw.info()["last_pgno"] + 1) * store._environment.page_size
        data = (folder / "data.mdb").stat()
        assert data.st_blocks * 512 >= end + 2 * MIB > data.st_size
    lock = (folder / "lock.mdb").stat()
    assert lock.st_blocks * 512 >= lock.st_size >= 1024 * 64


def test_where_no_room_can_be_kept_a_change_is_made_all_the_same_but_a_store_is_not_opened(store, monkeypatch):
    class Libc:
        def fallocate(self, *args):
            ctypes.set_errno(code)
            return -1

    monkeypatch.setattr(filesystem, "_libc", Libc())
    monkeypatch.setattr(filesystem, "kind_of", lambda path: 0)
    code = errno.ENOSPC
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, b"key", b"v" * 5 * MIB)
    with store.read() as reader:
        assert reader.has(Space.CHUNK, b"key")
    path = store.path
    store.close()
    with pytest.raises(StoreFullError, match=path):
        open_store(path)
    code = errno.EOPNOTSUPP  # a file system that knows no such thing
    open_store(path).close()


def test_what_is_in_reserve_is_told_apart_from_what_is_free_and_from_what_is_in_use(tmp_path):
    store = open_store(tmp_path / "store")
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, b"key", b"value" * 2**20)
    size = store.size()
    length = (tmp_path / "store/data.mdb").stat().st_size
    assert size.used + size.free == length  # the disk's room behind the end does not make it longer
    assert size.reserve == size.file - length
    assert 2 * MIB <= size.reserve <= KEPT_FREE + MIB
    store.close()
