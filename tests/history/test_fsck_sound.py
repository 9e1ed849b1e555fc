"""fsck finds nothing in what is sound, whatever is done to the store before and meanwhile."""

from __future__ import annotations

import threading

import pytest

from casckpt.errors import CorruptObjectError, StoreClosedError
from casckpt.history.fetch import Objects
from casckpt.history.fsck import check
from casckpt.history.ingest import Ingest
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.objects.ids import Kind
from casckpt.store.protocol import Space
from tests.history.damage import (
    A,
    B,
    C,
    abandon,
    errors,
    flip,
)
from tests.history.world import commit, put_state

# -- what is sound


def test_a_store_after_everything_that_is_done_to_stores_has_nothing_wrong(history, store) -> None:
    assert not history.fsck(read_data=True).findings  # with nothing in it
    for step in range(8):
        state = {"model": {"w": bytes([step]) * 700, "same": A}, "optimizer": {"m": bytes([step + 50]) * 3000}}
        commit(history, state, step=step, metrics={"loss": 1.0 / (step + 1)})
        assert history.fsck(read_data=True).ok
    history.tag("v1", at="HEAD~2")
    history.branch("other", at="HEAD~4")
    history.rollback("HEAD~1")
    history.switch("other")
    commit(history, {"model": {"w": C}}, step=20)
    history.switch("main")
    history.delete_branch("other")
    history.delete_tag("v1")
    for act in (
        lambda: history.prune(Keep(last=3, parts={"optimizer": Keep(last=1)})),
        history.gc,
        history.expire_reflog,
        history.gc,
        lambda: commit(history, {"model": {"w": B}}),
    ):
        act()
        report = history.fsck(read_data=True)
        assert not errors(report), report
        if act == history.gc:
            assert set(report.counts) <= {"ref-at-pruned-commit"}  # the whole of a state's top is in use, too
    with Ingest(store, history.scheme) as ingest:  # a save that never ends
        put_state(ingest, history, {"model": {"w": b"never" * 400}})
    report = history.fsck(read_data=True)
    assert set(report.counts) == {"unreferenced-objects"}
    assert "2 trees" not in report.findings[0].what and "chunks" in report.findings[0].what


def test_a_gc_that_was_interrupted_anywhere_leaves_nothing_wrong(history, store, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.gc.GC_LOCK_HELD", 0.0)
    monkeypatch.setattr("casckpt.history.gc._STRIDE", 1)
    commit(history, {"model": {"w": A}})
    for number in range(6):
        commit(history, {"model": {"w": bytes([number]) * 3000}, "optimizer": {"m": bytes([number, 1]) * 600}})
    history.prune(Keep(last=4))
    abandon(history)
    real, left = store.write, [0]

    class InterruptedHereError(Exception):
        pass

    def write(**how):
        if left[0] == 0:
            raise InterruptedHereError
        left[0] -= 1
        return real(**how)

    monkeypatch.setattr(store, "write", write)
    for transactions in range(1, 200):
        left[0] = transactions
        try:
            history.gc()
        except InterruptedHereError:
            assert not errors(history.fsck(read_data=True))
            continue
        break
    else:
        raise AssertionError("gc never came to its end")
    assert transactions > 3
    assert not history.fsck(read_data=True).findings


# -- others at work meanwhile


def test_what_is_collected_between_two_steps_of_a_check_is_no_finding(history, store, monkeypatch) -> None:
    commit(history, {"model": {"w": A}})
    commit(history, {"model": {"w": C}})
    real = check.check_data

    def collected(*arguments):
        abandon(history)
        assert history.gc().chunks
        return real(*arguments)

    monkeypatch.setattr(check, "check_data", collected)
    assert not errors(history.fsck(read_data=True))


def test_a_damaged_chunk_that_is_collected_before_the_end_of_a_check_is_no_finding(history, store, monkeypatch) -> None:
    commit(history, {"model": {"w": A}})
    commit(history, {"model": {"w": C}})
    flip(store, Space.CHUNK, history.scheme.digest(Kind.CHUNK, C[:256]))
    real = check.check_data

    def collected(*arguments):
        data = real(*arguments)
        assert len(data.bad) == 1
        abandon(history)
        history.gc()
        return data

    monkeypatch.setattr(check, "check_data", collected)
    assert not errors(history.fsck(read_data=True))


def test_a_damaged_chunk_that_a_commit_comes_to_need_is_found_as_such(history, store, monkeypatch) -> None:
    commit(history, {"model": {"w": A}})
    commit(history, {"model": {"w": C}})
    abandon(history)
    flip(store, Space.CHUNK, history.scheme.digest(Kind.CHUNK, C[:256]))
    assert errors(history.fsck(read_data=True)) == {"damaged-unreferenced"}
    real = check.check_data

    def published(*arguments):
        commit(history, {"model": {"w": C}}, step=7)
        return real(*arguments)

    monkeypatch.setattr(check, "check_data", published)
    found = history.fsck(read_data=True).findings[0]
    assert found.id == "damaged-chunk" and found.hurt.commits[0].step == 7


def test_a_check_beside_a_writer_and_gc_finds_nothing_wrong(history, store, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.fsck.data.CHECK_KEYS", 5)  # many transactions, with others' between them
    commit(history, {"model": {"w": A}})
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            other = History(store)
            number = 0
            while not stop.is_set():
                number += 1
                commit(other, {"model": {"w": bytes([number % 7]) * 2000, "v": number.to_bytes(4, "big") * 300}})
                if number % 3 == 0:
                    other.prune(Keep(last=2))
                if number % 4 == 0:
                    abandon(other)
                other.gc()
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for _ in range(40):
            report = history.fsck(read_data=True)
            assert not errors(report), report
            assert not report.stopped
    finally:
        stop.set()
        writer.join()
    assert not failed


def test_a_store_that_is_closed_meanwhile_is_an_error_and_no_finding(history, store, monkeypatch) -> None:
    commit(history, {"model": {"w": A}})
    real = check.check_records

    def closed(reader, *arguments):
        reader.close()
        return real(reader, *arguments)

    monkeypatch.setattr(check, "check_records", closed)
    with pytest.raises(StoreClosedError):
        history.fsck()
    monkeypatch.undo()

    def ended(*arguments):
        raise StoreClosedError("it is closed")

    for read in ("commit", "tree", "node"):
        with monkeypatch.context() as patch, pytest.raises(StoreClosedError):
            patch.setattr(Objects, read, ended)
            history.fsck()


def test_where_lmdb_cannot_read_on_that_is_a_finding(history, store, monkeypatch) -> None:
    commit(history, {"model": {"w": A}})

    def unreadable(*arguments):
        raise CorruptObjectError("MDB_CORRUPTED")

    monkeypatch.setattr(check, "check_records", unreadable)
    report = history.fsck()
    assert set(report.counts) == {"damaged-database"} and report.stopped


def test_a_check_tells_how_far_it_has_come_and_how_much_it_saw(history) -> None:
    commit(history, {"model": {"w": A, "v": B}})
    stages: dict[str, list[tuple[int, int]]] = {}
    report = history.fsck(read_data=True, progress=lambda stage, *far: stages.setdefault(stage, []).append(far))
    assert list(stages) == [
        "looking at the pages of the database",
        "looking at commits, trees and nodes",
        "reading chunks",
    ]
    assert all(0 <= done <= total for done, total in stages["reading chunks"])
    done, total = stages["reading chunks"][-1]
    assert done == total > 0
    looked = report.looked
    assert (looked.commits, looked.trees, looked.nodes, looked.chunks, looked.chunks_read) == (1, 1, 2, 4, 4)
    assert (looked.refs, looked.moves, looked.records) == (1, 1, 1)
    assert report.bytes > 1400 and report.seconds > 0
    assert history.fsck().looked.chunks_read == 0
