"""gc deletes what is not live, all of it, and nothing else, whoever writes meanwhile (I1, I2)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from casckpt.errors import MissingObjectError, PrunedCommitError, RefMovedError, StoreBusyError, StoreClosedError
from casckpt.history.ingest import Ingest
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.store.protocol import Space, Store
from tests.history.world import commit, describe, load, put_state

A, B = b"a" * 256, b"b" * 256


def state(*runs: bytes) -> dict[str, dict[str, bytes]]:
    return {"model": {str(n): run + b"!" for n, run in enumerate(runs)}}


def count(store: Store, space: Space) -> int:
    with store.read() as reader:
        return reader.count(space)


def numbered(n: int) -> bytes:
    return n.to_bytes(4, "big") * 64


def abandon(history: History, to: str = "HEAD~1") -> None:
    """Move the branch back and forget where it was, so that only gc stands between its old commits and nothing."""
    history.rollback(to)
    history.expire_reflog()


def test_nothing_live_is_deleted_and_nothing_dead_is_left(history, store) -> None:
    commit(history, state(A, B))
    second = commit(history, state(A, numbered(1)))
    third = commit(history, state(numbered(2), numbered(3)))
    history.prune(Keep(last=2))
    dry = history.gc(dry_run=True)
    report = history.gc()
    assert dry.dry_run and (dry.chunks, dry.nodes, dry.trees, dry.commits) == (1, 1, 1, 0)
    assert (report.chunks, report.nodes, report.trees, report.commits) == (1, 1, 1, 0)
    assert report.bytes == dry.bytes > 256
    assert load(history, second.id) == state(A, numbered(1))
    assert load(history, third.id) == state(numbered(2), numbered(3))
    again = history.gc()
    assert (again.chunks, again.nodes, again.trees, again.bytes) == (0, 0, 0, 0)
    assert count(store, Space.CHUNK) == 5  # the one-byte tails are one chunk


@pytest.mark.parametrize("space", [Space.CHUNK, Space.NODE, Space.TREE, Space.FIGURES, Space.COMMIT, Space.MARK])
def test_a_key_that_is_no_id_keeps_nothing_dead_alive_and_stays(history, store, space) -> None:
    kept = commit(history, state(A))
    gone = commit(history, state(*map(numbered, range(8))))
    abandon(history)
    strays = [b"\0", b"\x55" * (history.scheme.size - 1), b"\xff" * (history.scheme.size + 1)]
    with store.write(durable=True, room=None) as writer:
        for key in strays:
            writer.put(space, key, b"none of ours")
    dry, report = history.gc(dry_run=True), history.gc()
    assert (report.commits, report.trees, report.chunks) == (dry.commits, dry.trees, dry.chunks)
    assert (report.commits, report.chunks) == (1, 8)
    with store.read() as reader:
        assert not reader.has(Space.COMMIT, bytes.fromhex(gone.id))
        assert [key for key in reader.keys(space) if len(key) != history.scheme.size] == strays
    assert load(history, kept.id) == state(A)


def test_unreachable_commits_go_with_their_records(history, store) -> None:
    kept = commit(history, state(A))
    commit(history, state(B))
    abandon(history)
    report = history.gc()
    assert report.commits == 1
    for space in (Space.COMMIT, Space.FIGURES):
        assert count(store, space) == 1
    assert count(store, Space.MARK) == 0
    assert [c.id for c in history.log()] == [kept.id]


def test_the_reflog_keeps_alive_what_a_rollback_left(history) -> None:
    commit(history, state(A))
    left = commit(history, state(B))
    history.rollback("HEAD~1")
    assert history.gc().commits == 0
    assert load(history, left.id) == state(B)


def test_a_deleted_branch_is_kept_alive_by_the_reflog(history) -> None:
    commit(history, state(A))
    history.switch("b", create=True)
    left = commit(history, state(B))
    history.switch("main")
    history.delete_branch("b")
    assert history.gc().commits == 0
    assert load(history, left.id) == state(B)
    history.expire_reflog()
    assert history.gc().commits == 1


def test_a_damaged_live_object_stops_gc_before_it_deletes(history, store) -> None:
    commit(history, state(A))
    commit(history, state(B))
    with store.read() as reader:
        node = next(iter(reader.keys(Space.NODE)))
        chunks = reader.count(Space.CHUNK)
    with store.write(durable=True, room=None) as writer:
        writer.delete(Space.NODE, node)
    abandoned = History(store)
    with pytest.raises(MissingObjectError, match=node.hex()):
        abandoned.gc()
    assert count(store, Space.CHUNK) == chunks


def test_only_one_gc_at_a_time(history, store) -> None:
    with store.maintenance(), pytest.raises(StoreBusyError):
        history.gc()
    history.gc()


# -- races: what happens between two steps of a gc


@contextmanager
def before_write(monkeypatch: pytest.MonkeyPatch, store: Store, number: int, act) -> Iterator[None]:
    """Run `act` once, just before the write transaction of that number is begun."""
    real = store.write
    calls = 0

    def write(**how):
        nonlocal calls
        calls += 1
        if calls == number:
            monkeypatch.setattr(store, "write", real)
            act()
        return real(**how)

    monkeypatch.setattr(store, "write", write)
    yield
    assert calls >= number, "the moment never came"
    monkeypatch.setattr(store, "write", real)


def test_a_ref_that_moved_before_the_mark_saves_its_commit(history, store, monkeypatch) -> None:
    commit(history, state(A))
    saved = commit(history, state(B))
    abandon(history)
    other = History(store)
    with before_write(monkeypatch, store, 1, lambda: other.branch("saved", at=saved.id)):
        assert history.gc().commits == 0
    assert load(history, "saved") == state(B)


def test_a_ref_cannot_move_to_a_commit_that_gc_is_stripping(history, store, monkeypatch) -> None:
    commit(history, state(A))
    lost = commit(history, state(B))
    abandon(history)
    other = History(store)

    def revive() -> None:
        for move in (lambda: other.branch("b", at=lost.id), lambda: other.tag("t", at=lost.id)):
            with pytest.raises(PrunedCommitError, match=lost.id[:12]):
                move()
        with pytest.raises(PrunedCommitError):
            other.rollback(lost.id)

    with before_write(monkeypatch, store, 2, revive):  # after the marking, before the first deletion
        assert history.gc().commits == 1


def test_what_is_published_after_the_walk_is_kept_with_all_it_shares(history, store, monkeypatch) -> None:
    commit(history, state(A))
    commit(history, state(B))
    abandon(history)
    other = History(store)
    made = []

    def publish() -> None:
        made.append(commit(other, state(A, B)))  # B's chunks and node are dead by the walk of the gc under way

    with before_write(monkeypatch, store, 2, publish):
        history.gc()
    assert made[0].figures.new_chunks == 0
    assert load(other, made[0].id) == state(A, B)


def test_gc_catches_up_between_its_deleting_transactions(history, store, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.gc.GC_LOCK_HELD", 0.0)
    monkeypatch.setattr("casckpt.history.gc._STRIDE", 1)
    commit(history, state(A))
    commit(history, state(*[numbered(n) for n in range(40)]))
    abandon(history)
    other = History(store)
    made = []
    with before_write(monkeypatch, store, 12, lambda: made.append(commit(other, state(*map(numbered, range(40)))))):
        history.gc()
    assert load(other, made[0].id) == state(*map(numbered, range(40)))
    assert 0 < made[0].figures.new_chunks < 40


def test_a_reflog_that_is_expired_after_the_marking_cannot_strip_what_may_be_revived(
    history, store, monkeypatch
) -> None:
    commit(history, state(A))
    lost = commit(history, state(B))
    history.rollback("HEAD~1")
    other = History(store)
    real = store.read
    reads = 0

    def read():
        nonlocal reads
        reads += 1
        if reads == 2:  # the marking has looked; the walk has not
            monkeypatch.setattr(store, "read", real)
            other.expire_reflog()
        return real()

    monkeypatch.setattr(store, "read", read)
    assert history.gc().chunks == 0
    other.tag("saved", at=lost.id)
    assert load(history, "saved") == state(B)
    other.delete_tag("saved")
    other.expire_reflog()
    assert history.gc().commits == 1


# -- a save under way


@contextmanager
def saving(history: History, what: dict) -> Iterator:
    """A save whose objects are written but not published; call the result to publish it."""
    parent = history._tip
    with Ingest(history.store, history.scheme) as ingest:
        tree, total = put_state(ingest, history, what)

        def publish():
            described = describe(history, tree, parent, "saved", None)
            oid, figures = ingest.publish(described, expected=parent, logical=total)
            history._tip = oid
            return oid.hex(), figures

        yield publish


def test_what_a_save_shares_may_be_collected_under_it(history, store) -> None:
    commit(history, state(A))
    commit(history, state(B, numbered(1)))
    abandon(history)
    other = History(store)
    with saving(history, state(A, B, numbered(1))) as publish:
        report = other.gc()
        assert report.chunks >= 2  # the dead ones that the save relies on
        oid, _ = publish()
    assert load(history, oid) == state(A, B, numbered(1))
    assert history.gc().chunks == 0


def test_the_base_may_be_released_and_collected_under_a_save(history, store) -> None:
    commit(history, state(A, B))
    commit(history, {"model": {}})
    other = History(store)
    with saving(history, state(A, B)) as publish:  # everything is a dedup hit on the first commit
        other.prune(Keep(last=1))
        assert other.gc().chunks == 3
        oid, figures = publish()
    assert figures.new_chunks == 0
    assert load(history, oid) == state(A, B)


def test_collected_again_between_the_look_and_the_publishing_transaction(history, store, monkeypatch) -> None:
    commit(history, state(A))
    commit(history, state(B))
    abandon(history)
    other = History(store)
    # the gc runs when publish has looked and found nothing amiss, just before its transaction
    with saving(history, state(B)) as publish, before_write(monkeypatch, store, 1, other.gc):
        oid, _ = publish()
    assert load(history, oid) == state(B)


def test_published_in_the_middle_of_the_deleting(history, store, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.gc.GC_LOCK_HELD", 0.0)
    monkeypatch.setattr("casckpt.history.gc._STRIDE", 1)
    many = state(*[numbered(n) for n in range(40)])
    commit(history, state(A))
    commit(history, many)
    abandon(history)
    other = History(store)
    published = []
    with (
        saving(history, many) as publish,  # every chunk is one that the gc below is about to delete
        before_write(monkeypatch, store, 12, lambda: published.append(publish()[0])),
    ):
        other.gc()
    assert load(history, published[0]) == many


def test_what_a_save_itself_wrote_may_be_collected_under_it(history, store) -> None:
    commit(history, state(A))
    other = History(store)
    with saving(history, state(numbered(7))) as publish:
        assert other.gc().chunks == 1
        oid, _ = publish()
    assert load(history, oid) == state(numbered(7))
    assert history.gc().chunks == 0


def test_what_is_collected_before_the_save_has_looked_is_written_again(history, store, monkeypatch) -> None:
    commit(history, state(A))
    other = History(store)
    write, collected = store.write, []

    @contextmanager
    def then_gc(**how):
        monkeypatch.setattr(store, "write", write)
        with write(**how) as writer:
            yield writer
        collected.append(other.gc().chunks)  # between the batch and the snapshot that shows it

    monkeypatch.setattr(store, "write", then_gc)
    with saving(history, state(numbered(7))) as publish:
        assert collected == [1]
        oid, _ = publish()
    assert load(history, oid) == state(numbered(7))


def test_a_save_on_a_pruned_or_vanished_parent_builds_on_nothing(history, store) -> None:
    first = commit(history, state(A))
    with Ingest(store, history.scheme) as ingest:
        assert ingest.base(None) is None
        assert ingest.base(b"\0" * 16) is None
        base = ingest.base(bytes.fromhex(first.id))
        assert base is not None and base.released == ()
    history.prune(Keep(first=1, branches=False, parts={"model": Keep(last=1, branches=False)}))
    commit(history, state(B))
    history.prune(Keep(last=1))
    with Ingest(store, history.scheme) as ingest:
        assert ingest.base(bytes.fromhex(first.id)) is None


def test_a_lost_race_leaves_the_chunks_for_the_retry(history, store) -> None:
    commit(history, state(A))
    other = History(store)
    with saving(history, state(B)) as publish:
        commit(other, state(A, A))
        with pytest.raises(RefMovedError):
            publish()
    assert not any(c.message == "saved" for c in history.log("main"))


def test_closing_waits_for_the_gc_in_flight(history, store) -> None:
    commit(history, state(A))
    commit(history, state(*map(numbered, range(50))))
    abandon(history)
    closing = threading.Thread(target=history.close)
    told = []

    def close_meanwhile(stage: str, done: int, total: int) -> None:
        told.append(stage)
        if len(told) == 1:
            closing.start()
            time.sleep(0.05)

    report = history.gc(progress=close_meanwhile)
    closing.join()
    assert report.chunks == 50
    with pytest.raises(StoreClosedError):
        history.gc()


def test_progress_is_told(history) -> None:
    commit(history, state(A))
    commit(history, state(B))
    abandon(history)
    told = []
    history.gc(progress=lambda stage, done, total: told.append((stage, done, total)))
    assert told[0][0] == "looking for what is live" and told[-1][1] == told[-1][2] > 0
