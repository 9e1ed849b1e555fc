"""A data file that is not known to be good is examined before LMDB maps it, and one that is known is not."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from casckpt.errors import CorruptObjectError, HistoryLostError
from casckpt.store import examined, pages
from casckpt.store.datafile import do_follow, transactions
from casckpt.store.examined import Stamp
from casckpt.store.folder import EXAMINED
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.protocol import Space
from tests.history.pages import File, put
from tests.processes import Program, forked

OPEN_AND_WRITE = """
import sys
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space

store = open_store(sys.argv[1])
with store.write(durable=True, room=None) as writer:
    writer.put(Space.REF, b"by another", b"value")
print("written", flush=True)
sys.stdin.readline()
store.close()
"""


def write(store: LmdbStore, key: bytes = b"key") -> None:
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, key, b"value")


def settle(path: Path) -> None:
    """Wait until a change would have another time than the last one, as it has unless it follows at once."""
    stamp = examined.stamp_of(path / "data.mdb")
    assert stamp is not None
    while not stamp.is_settled(time.clock_gettime_ns(5)):
        time.sleep(0.001)


@pytest.fixture
def path(tmp_path) -> Path:
    store = open_store(tmp_path / "store")
    write(store)
    settle(tmp_path / "store")
    store.close()
    return tmp_path / "store"


@pytest.fixture
def looks(monkeypatch) -> list[Path]:
    """The files that were examined."""
    seen: list[Path] = []
    real = pages.examine
    monkeypatch.setattr(pages, "examine", lambda data, **how: seen.append(data) or real(data, **how))
    return seen


def test_a_store_that_was_left_well_is_not_examined(path, looks) -> None:
    for _ in range(3):
        with_it = open_store(path)
        write(with_it)
        settle(path)
        with_it.close()
    open_store(path).close()
    assert not looks


def test_a_file_that_was_found_good_is_not_examined_again(path, looks) -> None:
    (path / EXAMINED).unlink()
    open_store(path).close()
    open_store(path).close()
    assert len(looks) == 1


def touched(path: Path) -> None:
    (path / "data.mdb").touch()


def copied(path: Path) -> None:
    shutil.copy2(path / "data.mdb", path / "new")
    (path / "new").replace(path / "data.mdb")


def torn(path: Path) -> None:
    (path / EXAMINED).write_bytes((path / EXAMINED).read_bytes()[:50])


def longer(path: Path) -> None:
    (path / EXAMINED).write_bytes((path / EXAMINED).read_bytes() + b"\0")


def flipped(path: Path) -> None:
    held = bytearray((path / EXAMINED).read_bytes())
    held[70] ^= 1
    (path / EXAMINED).write_bytes(held)


def of_another_store(path: Path) -> None:
    other = open_store(path.parent / "other")
    settle(path.parent / "other")
    other.close()
    shutil.copy(path.parent / "other" / EXAMINED, path / EXAMINED)


@pytest.mark.parametrize("change", [touched, copied, torn, longer, flipped, of_another_store])
def test_a_file_that_is_not_the_one_that_was_left_is_examined(path, looks, change: Callable[[Path], None]) -> None:
    change(path)
    open_store(path).close()
    assert len(looks) == 1


@pytest.mark.parametrize("boot", ["00010203-0405-0607-0809-0a0b0c0d0e0f", "nonsense", None])
def test_after_another_boot_the_file_is_examined(path, looks, monkeypatch, tmp_path, boot) -> None:
    if boot is not None:
        (tmp_path / "boot").write_text(boot + "\n")
    monkeypatch.setattr(examined, "_BOOT", tmp_path / "boot")
    open_store(path).close()
    assert len(looks) == 1


def test_after_a_process_was_killed_the_file_is_examined(path, looks) -> None:
    with Program(OPEN_AND_WRITE, path) as program:
        assert program.line() == "written"
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
    open_store(path).close()
    assert len(looks) == 1


def test_beside_a_process_that_has_it_open_nothing_is_examined_and_who_leaves_first_notes_nothing(path, looks) -> None:
    before = (path / EXAMINED).read_bytes()
    with Program(OPEN_AND_WRITE, path) as program:
        assert program.line() == "written"
        store = open_store(path)
        write(store)
        settle(path)
        store.close()
        assert not looks and (path / EXAMINED).read_bytes() == before
        program.end()
    assert (path / EXAMINED).read_bytes() == before  # the one that left last does not know who wrote what
    open_store(path).close()
    assert len(looks) == 1


def test_what_was_changed_under_an_open_store_is_not_noted_as_good(path, looks) -> None:
    for moment in ("before a write", "after a write"):
        store = open_store(path)
        if moment == "after a write":
            write(store)
            settle(path)
        touched(path)
        if moment == "before a write":
            write(store)
        settle(path)
        store.close()
        looks.clear()
        open_store(path).close()
        assert len(looks) == 1, moment


def test_once_another_has_committed_nobody_vouches_for_what_a_third_may_have_written(tmp_path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"1")
    mine = examined.Watch(data, 10)
    mine.before(10)
    data.write_bytes(b"22")
    mine.after(11)
    assert mine.is_untouched(11)
    data.write_bytes(b"third")  # and then the other commits the twelfth
    mine.before(12)
    data.write_bytes(b"4444")
    mine.after(13)
    assert not mine.is_untouched(13)


def test_a_transaction_that_was_given_up_leaves_the_file_known(path, looks) -> None:
    store = open_store(path)
    with pytest.raises(KeyError), store.write(durable=True, room=None) as writer:
        for number in range(200):
            writer.put(Space.CHUNK, b"%d" % number, bytes(1 << 20))  # more than LMDB holds in memory
        raise KeyError
    settle(path)
    store.close()
    open_store(path).close()
    assert not looks


def test_a_change_that_could_have_the_same_time_is_not_missed() -> None:
    stamp = Stamp(1, 2, 3, mtime=5_000_000_004, ctime=5_000_000_005)
    assert stamp.is_settled(5_000_000_006) and not stamp.is_settled(5_000_000_005)
    whole = Stamp(1, 2, 3, mtime=4_000_000_000, ctime=5_000_000_000)  # as files have it that know full seconds only
    assert whole.is_settled(7_000_000_000) and not whole.is_settled(6_999_999_999)


def test_a_compacted_store_and_its_backup_open_well(path, looks, tmp_path) -> None:
    store = open_store(path)
    store.compact()
    store.backup(tmp_path / "copy")
    settle(path)
    store.close()
    open_store(path).close()
    assert not looks
    open_store(tmp_path / "copy").close()
    assert len(looks) == 1


def test_a_child_that_opens_what_its_parent_has_open_examines_nothing(path, looks) -> None:
    store = open_store(path)

    def in_child() -> int:
        open_store(path).close()
        return len(looks)

    assert forked(in_child) == "0"
    store.close()


def test_of_heads_that_do_not_follow_each_other_one_is_damaged_also_where_there_is_no_mark(path) -> None:
    store = open_store(path)
    for _ in range(3):
        write(store)
    store.close()
    (path / "mark").unlink()
    file = File(path)
    last = file.head.transaction
    put(file, last % 2, 16 + 128, "Q", last - 4)  # by two less, it would be the head before
    for _ in range(2):
        with pytest.raises(HistoryLostError, match=r"may be missing.*accept_loss"):
            open_store(path)
    open_store(path, accept_loss=True).close()
    (path / EXAMINED).unlink(missing_ok=True)  # what was accepted lasts
    open_store(path).close()
    assert do_follow(*transactions(path / "data.mdb"))


@pytest.mark.parametrize("by", [-4, 4, 1 << 30, 1, -1])
@pytest.mark.parametrize("is_later", [True, False])
@pytest.mark.parametrize("has_mark", [True, False])
def test_a_damaged_head_is_written_anew_where_nothing_can_be_missing_and_else_refused(
    path, is_later, by, has_mark
) -> None:
    store = open_store(path)
    for number in range(6):
        write(store, b"%d" % number)
    store.close()
    if not has_mark:
        (path / "mark").unlink()
    file = File(path)
    last = file.head.transaction
    damaged = last if is_later else last - 1
    put(file, damaged % 2, 16 + 128, "Q", damaged + by)
    numbers = {damaged % 2: damaged + by, 1 - damaged % 2: last - 1 if is_later else last}
    is_lost = max(numbers.values()) % 2 != last % 2
    before = file.path.read_bytes()
    if is_lost:
        with pytest.raises(HistoryLostError):
            open_store(path)
        assert file.path.read_bytes() == before
    for accept_loss in (is_lost, False):
        (path / EXAMINED).unlink(missing_ok=True)
        store = open_store(path, accept_loss=accept_loss)
        assert do_follow(*transactions(path / "data.mdb"))
        assert not store.check_pages(values=True).found
        with store.read() as reader:
            assert reader.has(Space.REF, b"4") and reader.has(Space.REF, b"5") is not is_lost
        store.close()


def test_a_head_that_was_written_anew_leaves_the_file_known(path, looks) -> None:
    last = File(path).head.transaction
    put(File(path), (last - 1) % 2, 16 + 128, "Q", last - 5 if last > 5 else last + 1 << 20)
    (path / EXAMINED).unlink(missing_ok=True)
    store = open_store(path, accept_loss=True)
    settle(path)
    store.close()
    open_store(path).close()
    assert len(looks) == 1


def test_a_number_of_pages_that_the_file_never_had_is_damage(path) -> None:
    file = File(path)
    put(file, file.head.transaction % 2, 16 + 120, "Q", file.head.last_page + (1 << 20))
    with pytest.raises(CorruptObjectError, match=r"beyond the file's end, and not free"):
        open_store(path)


def test_a_store_whose_head_is_not_lmdb_s_any_more_is_a_damaged_store(path) -> None:
    put(File(path), 0, 16, "I", 0)
    with pytest.raises(CorruptObjectError, match=r"not an LMDB file.*casckpt salvage"):
        open_store(path)
