"""Several processes on one store: opening at once, dying at the worst moment, and losing LMDB's lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from pathlib import Path

import pytest

from casckpt.errors import StoreBusyError, StoreLockLostError
from casckpt.store import lmdb_lock, openers, opening
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.processes import Program, run

OPEN = """
import sys
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
print("ready", flush=True)
for line in sys.stdin:
    if not line.strip():
        break
    store = open_store(line.strip())
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, sys.argv[1].encode(), store.format.uuid.encode())
    print("open", flush=True)
    sys.stdin.readline()
    store.close()
    print("closed", flush=True)
"""

WRITE_FOR_EVER = """
import sys
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
store = open_store(sys.argv[1])
with store.write(durable=True, room=None) as writer:
    writer.put(Space.REF, b"acknowledged", b"value")
with store.read() as reader, store.write(durable=True, room=None) as writer:
    for number in range(100):
        writer.put(Space.CHUNK, b"%d" % number, b"v" * 10_000)
    print("inside", flush=True)
    sys.stdin.readline()
"""


def test_two_processes_that_create_and_open_one_store_at_once_share_it(tmp_path):
    with Program(OPEN, "one") as one, Program(OPEN, "two") as two:
        for program in (one, two):
            assert program.line() == "ready"
        for number in range(20):
            path = tmp_path / f"store {number}"
            for program in (one, two):
                program.say(str(path))
            for program in (one, two):
                assert program.line() == "open"
            store = open_store(path)
            assert len(store.openers()) == 3
            with store.read() as reader:
                uuids = {bytes(value) for _, value in reader.items(Space.REF)}
                assert uuids == {store.format.uuid.encode()} and reader.count(Space.REF) == 2
            store.close()
            for program in (one, two):
                program.say("close")
                assert program.line() == "closed"
        for program in (one, two):
            program.end()


def test_a_process_killed_inside_a_write_transaction_holds_nobody_up(tmp_path):
    waiting = open_store(tmp_path / "store")
    with Program(WRITE_FOR_EVER, tmp_path / "store") as program:
        assert program.line() == "inside"
        assert len(waiting.openers()) == 2
        program.kill()
        with waiting.write(durable=True, room=None) as writer:  # the kernel hands the dead one's lock on
            assert writer.has(Space.REF, b"acknowledged")
            assert writer.count(Space.CHUNK) == 0
        assert len(waiting.openers()) == 1
    waiting.close()


def test_a_store_whose_only_process_was_killed_opens_at_once_with_what_was_acknowledged(tmp_path):
    for _ in range(3):
        with Program(WRITE_FOR_EVER, tmp_path / "store") as program:
            assert program.line() == "inside"
            program.kill()
        store = open_store(tmp_path / "store")
        with store.write(durable=True, room=None) as writer:
            assert writer.has(Space.REF, b"acknowledged")
            assert writer.count(Space.CHUNK) == 0
        assert [path.name for path in openers.live(tmp_path / "store")] == [
            path.name for path in (tmp_path / "store/openers").iterdir()
        ]
        store.close()


COPIED_INSIDE = """
import shutil, sys
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
store = open_store(sys.argv[1])
shutil.copytree(sys.argv[1], sys.argv[2])  # closes a descriptor of lock.mdb, and with it LMDB's lock
print("copied", flush=True)
with store.write(durable=True, room=None) as writer:
    writer.put(Space.REF, b"theirs", b"value")
    print("inside", flush=True)
    sys.stdin.readline()
print("acknowledged", flush=True)
sys.stdin.readline()
"""


def test_a_folder_copied_inside_a_process_that_has_it_open_is_refused_to_others(tmp_path):
    with Program(COPIED_INSIDE, tmp_path / "store", tmp_path / "copy") as program:
        assert program.line() == "copied"
        with pytest.raises(StoreLockLostError, match=rf"process {program.process.pid} .*casckpt backup") as refused:
            open_store(tmp_path / "store")
        assert len(refused.value.holders) == 1
        assert program.line() == "inside"
        program.say()
        assert program.line() == "acknowledged"
        program.end()
    store = open_store(tmp_path / "store")  # fine again as soon as that process is gone
    with store.read() as reader:
        assert reader.has(Space.REF, b"theirs")
    store.close()
    store = open_store(tmp_path / "copy")  # nobody is alive there
    assert len(store.openers()) == 1
    store.close()


def test_without_that_refusal_acknowledged_changes_are_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "refuse_lost_lock", lambda path: None)
    with Program(COPIED_INSIDE, tmp_path / "store", tmp_path / "copy") as program:
        assert program.line() == "copied"
        assert program.line() == "inside"
        store = open_store(tmp_path / "store")  # LMDB takes the store for unused and makes its locks anew
        with store.write(durable=True, room=None) as writer:  # in the midst of theirs: there is no lock between us
            writer.put(Space.REF, b"ours", b"value")
        program.say()
        assert program.line() == "acknowledged"
        with store.read() as reader:
            assert reader.has(Space.REF, b"theirs") and not reader.has(Space.REF, b"ours")
        store.close()


def test_a_removed_lock_file_is_noticed_too(tmp_path):
    with Program(OPEN, "one") as program:
        assert program.line() == "ready"
        program.say(str(tmp_path / "store"))
        assert program.line() == "open"
        (tmp_path / "store/lock.mdb").unlink()
        with pytest.raises(StoreLockLostError):
            open_store(tmp_path / "store")
        program.end("")


def test_a_process_number_taken_in_another_container_is_told_as_such(tmp_path):
    open_store(tmp_path / "store").close()
    with (tmp_path / "store/lock.mdb").open("rb+") as file:
        # As LMDB marks a live reader: the byte at its process number, which another name space may use as well.
        said = run(
            """
            import fcntl, os, struct, subprocess, sys
            from casckpt.errors import StoreBusyError
            from casckpt.store.lmdb_store import open_store
            holder = subprocess.Popen(
                [sys.executable, "-c", sys.argv[2], sys.argv[1] + "/lock.mdb", str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            holder.stdout.readline()
            try:
                open_store(sys.argv[1])
            except StoreBusyError as error:
                print(error)
            holder.communicate(b"\\n")
            """,
            tmp_path / "store",
            """if True:
            import fcntl, os, sys
            file = open(sys.argv[1], "rb+")
            fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
            print("held", flush=True)
            sys.stdin.readline()
            """,
        )
        assert "another container has it open under this process's own number" in said
        assert file
    open_store(tmp_path / "store").close()


def test_maintenance_is_one_at_a_time_across_processes_and_names_its_holder(tmp_path):
    held = """
        import sys
        from casckpt.store.lmdb_store import open_store
        store = open_store(sys.argv[1])
        with store.maintenance():
            print("held", flush=True)
            sys.stdin.readline()
        store.close()
        """
    store, other = open_store(tmp_path / "store"), open_store(tmp_path / "store")
    with Program(held, tmp_path / "store") as program:
        assert program.line() == "held"
        named = pytest.raises(StoreBusyError, match=f"process {program.process.pid} ")
        with named as refused, store.maintenance():
            pass
        assert len(refused.value.holders) == 1
        program.say()
        named = pytest.raises(StoreBusyError, match=f"process {os.getpid()} ")
        with store.maintenance(wait=True), named, other.maintenance():
            pass
        program.end(None)
    with other.maintenance():
        pass
    store.close()
    other.close()


def test_openers_are_named_for_people(tmp_path):
    store = open_store(tmp_path / "store")
    with Program(OPEN, "one") as program:
        assert program.line() == "ready"
        program.say(str(tmp_path / "store"))
        assert program.line() == "open"
        lines = store.openers()
        assert len(lines) == 2
        assert any(line.startswith(f"process {program.process.pid} on ") and " since 20" in line for line in lines)
        next(iter((tmp_path / "store/openers").iterdir())).write_bytes(b"{}")
        assert any("does not say who it is" in line for line in store.openers())
        program.end("")
    store.close()
    assert list((tmp_path / "store/openers").iterdir()) == []


def test_a_folder_without_openers_has_none(tmp_path):
    assert openers.live(tmp_path) == openers.tidy(tmp_path) == []


def test_an_opener_that_is_about_to_be_gone_is_waited_for(tmp_path, monkeypatch):
    """A killed process loses LMDB's lock before its opener's: for that moment it looks like a lost lock."""
    open_store(tmp_path / "store").close()
    answers = iter([[Path("dying")], []])
    monkeypatch.setattr(openers, "tidy", lambda path: next(answers))
    open_store(tmp_path / "store").close()


def test_the_lock_is_asked_for_as_lmdb_holds_it(tmp_path):
    with Program(OPEN, "one") as program:
        assert program.line() == "ready"
        program.say(str(tmp_path / "store"))
        assert program.line() == "open"
        assert lmdb_lock.is_lmdb_locked(tmp_path / "store")
        program.end("")
    assert not lmdb_lock.is_lmdb_locked(tmp_path / "store")
    assert not lmdb_lock.is_lmdb_locked(tmp_path)
    assert lmdb_lock.FLOCK.size == len(struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, 0, 1, 0)) == 32


def test_a_folder_that_was_replaced_is_opened_anew_and_not_taken_for_the_old_one(tmp_path):
    old = open_store(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    new = open_store(tmp_path / "store")
    assert new.format.uuid != old.format.uuid
    with new.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    old.close()
    new.close()
    new = open_store(tmp_path / "store")
    with new.read() as reader:
        assert reader.has(Space.REF, b"key")
    new.close()


def test_one_store_by_two_paths_is_one_environment(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "store")
    one, two = open_store(tmp_path / "store"), open_store(tmp_path / "link")
    assert one._environment is two._environment
    one.close()
    two.close()
