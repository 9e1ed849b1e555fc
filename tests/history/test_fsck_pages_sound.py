"""fsck finds no fault in pages of LMDB's, and where it finds none all that was stored is there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from casckpt.history.fsck.findings import SORTS
from casckpt.history.records import reflog_next
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.history.pages import SIZE, File, fill
from tests.history.world import commit
from tests.processes import Program, run


@pytest.fixture
def history(tmp_path) -> Iterator[History]:
    with History(open_store(tmp_path / "s", chunk_size=256)) as made:
        fill(made)
        yield made


@pytest.fixture
def file(history) -> File:
    return File(Path(history.path))


def test_a_check_counts_the_pages_that_lmdb_counts(history, file) -> None:
    pages = history.store.check_pages(values=True)
    size = history.store.size()
    assert pages.page_size == SIZE and pages.found == 0 and pages.leaked == 0
    assert (pages.used * SIZE, pages.pages - pages.used) == (
        size.used + treepages(pages, "free list") * SIZE,
        pages.free,
    )
    with history.store.read() as reader:
        for space in Space:
            assert pages.trees[space.value.decode()].entries == reader.count(space)


def treepages(pages, name: str) -> int:
    tree = pages.trees[name]
    return tree.branches + tree.leaves + tree.overflow


def test_pages_that_lmdb_writes_have_no_fault_whatever_is_done_to_a_store(tmp_path) -> None:
    chance = random.Random(7)
    store = open_store(tmp_path / "s")
    held: list[tuple[Space, bytes]] = []
    for number in range(300):
        with store.write(durable=False, room=None) as writer:
            for _ in range(chance.choice([1, 5, 100, 400])):
                if held and chance.random() < (0.3 if number % 100 < 60 else 0.7):
                    at = chance.randrange(len(held))
                    held[at], held[-1] = held[-1], held[at]
                    writer.delete(*held.pop())
                elif held and chance.random() < 0.1:
                    writer.put(*chance.choice(held), bytes(chance.choice([0, 5, 100, 1001, 5000])))
                else:
                    one = (
                        chance.choice([Space.CHUNK, Space.NODE, Space.REF]),
                        chance.randbytes(chance.choice([3, 16, 500])),
                    )
                    held.append(one)
                    writer.put(*one, bytes(chance.choice([0, 1, 100, 2000, 2100, 5000, 50000])))
        if number % 10 == 0:
            for values in (True, False):
                pages = store.check_pages(values=values)
                assert pages.found == 0, pages.faults
                assert pages.leaked == 0
                assert pages.used + pages.free <= pages.pages
    store.close()


def test_the_pages_are_those_of_one_transaction_whatever_is_committed_meanwhile(history, monkeypatch) -> None:
    from casckpt.store import pages

    real = pages._Check._page
    looked = [0]

    def page(self, *arguments):
        looked[0] += 1
        if looked[0] % 20 == 0:
            commit(history, {"model": {"w": looked[0].to_bytes(4, "big") * 3000}})
            history.gc()
        return real(self, *arguments)

    monkeypatch.setattr(pages._Check, "_page", page)
    report = history.fsck()
    monkeypatch.undo()
    assert looked[0] > 100 and report.ok and not report.stopped


def test_a_look_that_is_overtaken_before_it_begins_is_taken_again(history, monkeypatch) -> None:
    from casckpt.store import pages

    real = pages._head_of
    overtaken = []

    def head_of(*arguments):
        if len(overtaken) < 2:
            overtaken.append(1)
            for n in range(2):
                commit(history, {"model": {"w": bytes([n]) * 300}})
        return real(*arguments)

    monkeypatch.setattr(pages, "_head_of", head_of)
    assert history.fsck().ok
    assert len(overtaken) == 2


FLIPS = """
import random, sys
from pathlib import Path
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.history.pages import SIZE, File, fill

path, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
loose = {Space.META}  # the counter of changes: a larger one does no harm
with History(open_store(path, chunk_size=256)) as history:
    fill(history)
    file = File(path)

    def contents():
        with history.store.read() as reader:
            return {
                space: {key: bytes(value) for key, value in reader.items(space)}
                for space in Space
                if space not in loose
            }

    before = contents()
    sorts = {}
    for number, what in file.pages().items():
        sorts.setdefault(what, []).append(number)
    seen = {}
    for turn in range(count):
        what = chance.choice(sorted(sorts))
        number = chance.choice(sorts[what])
        at = number * SIZE + chance.choice(file.used(number, "value" in what))
        old = file.read(at, 1)
        file.write(at, bytes([old[0] ^ 1 << chance.randrange(8)]))
        report = history.fsck(read_data=True)
        if report.ok and not report.number("warning"):
            assert contents() == before, (turn, what, at)
            seen["harmless"] = seen.get("harmless", 0) + 1
        for id in report.counts:
            seen[id] = seen.get(id, 0) + 1
        file.write(at, old)
    assert not history.fsck(read_data=True).findings
print(seen)
"""


def test_after_any_bit_is_flipped_a_clean_check_means_that_everything_is_there(tmp_path) -> None:
    """In a process of its own: a page that passed the check and made LMDB crash would be the worst of all."""
    seen = eval(run(FLIPS, tmp_path / "s", 300, 11))
    assert {"damaged-page", "disordered-keys", "damaged-free-list"} <= seen.keys()
    assert seen["harmless"] < 150
    assert seen.keys() <= {"harmless", *SORTS}


def test_a_compacted_store_and_a_backup_have_no_fault(history, tmp_path) -> None:
    history.backup(str(tmp_path / "copy"))
    history.compact()
    assert not history.fsck(read_data=True).findings
    commit(history, {"model": {"w": b"after" * 3000}})
    history.gc()
    assert not history.fsck(read_data=True).findings
    with History(open_store(tmp_path / "copy", create=False)) as copy:
        assert not copy.fsck(read_data=True).findings
        commit(copy, {"model": {"w": b"after" * 3000}})
        assert not copy.fsck(read_data=True).findings


def test_a_file_that_is_short_and_healthy_has_no_fault(history, file) -> None:
    with history.store.write(durable=True, room=None) as writer:  # pages that are taken and given back are not written
        writer.put(Space.PIN, b"passing", b"v" * 4_000_000)
        writer.delete(Space.PIN, b"passing")
    assert file.path.stat().st_size < (file.head.last_page + 1) * SIZE
    report = history.fsck(read_data=True)
    assert not report.findings and report.looked.pages == file.head.last_page + 1


BESIDE = """
import sys
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit

with History(open_store(sys.argv[1])) as history:
    print("began", flush=True)
    number = 0
    while True:
        number += 1
        commit(history, {"model": {"w": bytes([number % 7]) * 20_000, "v": number.to_bytes(4, "big") * 3000}})
        if number % 3 == 0:
            history.prune(Keep(last=2))
        if number % 4 == 0:
            history.rollback("HEAD~1")
            history.expire_reflog()
        if number % 5 == 0:
            history.tag(f"t{number}")
            history.delete_tag(f"t{number}")
        history.gc()
"""


def test_a_check_beside_a_process_that_writes_and_collects_finds_nothing_wrong(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.fsck.data.CHECK_KEYS", 20)
    with History(open_store(tmp_path / "s", chunk_size=256)) as history:
        commit(history, {"model": {"w": b"begin" * 100}})
        with Program(BESIDE, tmp_path / "s") as writer:
            assert writer.line() == "began"
            checks = moves = 0
            while checks < 40 or moves < 60:
                report = history.fsck(read_data=True)
                assert not report.number("error") + report.number("warning"), report
                assert not report.stopped and report.looked.commits
                checks += 1
                with history.store.read() as reader:
                    moves = reflog_next(reader)
        assert not history.fsck(read_data=True).number("error")  # the writer was killed
