"""gc where chunks are stored as deltas: nothing dead is kept for ever, nothing live is ever without its base (I2)."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from casckpt.errors import StoreFullError
from casckpt.history import recode
from casckpt.history.bases import all_bases, base_of, delete_chunk, depth_of, put_chunk, replace_chunk
from casckpt.history.commits import Commit
from casckpt.history.fetch import Objects
from casckpt.history.ingest import Ingest
from casckpt.history.records import move_gc_epoch
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.limits import DEPTHS
from casckpt.objects.codec import encode
from casckpt.objects.frame import read_frame
from casckpt.objects.ids import Kind
from casckpt.store.lmdb_store import open_store
from casckpt.store.memory import MemoryStore, MemoryWriter
from casckpt.store.protocol import Space, Store
from tests.history.test_bases import check_invariant
from tests.history.test_gc import abandon, before_write
from tests.history.world import State, commit, describe, drifted, frame, load, nodes_of, noise, put_state, release
from tests.processes import Program

CHUNK = 1024
SIZE = 2500  # three chunks, the last one shorter


@pytest.fixture(params=["memory", "lmdb"])
def store(request, tmp_path) -> Iterator[Store]:
    made = MemoryStore(chunk_size=CHUNK) if request.param == "memory" else open_store(tmp_path / "s", chunk_size=CHUNK)
    yield made
    made.close()


def states(count: int, *, seed: int = 0, by: int = 1) -> list[State]:
    """A state of which everything moves a little at each step."""
    run = noise(seed, SIZE)
    found: list[State] = []
    for step in range(count):
        found.append({"model": {"w": run}})
        run = drifted(run, seed + step, by)
    return found


def dense(history: History, count: int, **how: int) -> list[tuple[Commit, State]]:
    """A history of such states, stored as saves store it."""
    return [(commit(history, state, codec="auto", step=step), state) for step, state in enumerate(states(count, **how))]


def shape(store: Store) -> list[int]:
    """How deep the chunks lie."""
    with store.read() as reader:
        check_invariant(reader)
        return sorted(depth_of(reader, oid) for oid in reader.keys(Space.CHUNK))


def check(history: History, kept: list[tuple[Commit, State]]) -> None:
    with history.store.read() as reader:
        check_invariant(reader)
    for one, state in kept:
        assert load(history, one.id) == state


def without_times(report):
    return dataclasses.replace(report, dry_run=False, seconds=0.0)


def test_a_dense_history_is_stored_as_deltas(history, store) -> None:
    made = dense(history, 6)
    assert shape(store) == [0] * 6 + [1] * 6 + [2] * 6
    check(history, made)
    assert history.gc().reencoded_chunks == 0


def test_what_is_over_something_dead_is_stored_anew_over_what_is_kept(history, store) -> None:
    made = dense(history, 9)  # by depth: 0 1 2 0 1 2 0 1 2
    release(history, [one for one, _ in made[1::2]])
    dry = history.gc(dry_run=True)
    assert len(shape(store)) == 27
    report = history.gc()
    assert without_times(dry) == without_times(report)
    assert (report.chunks, report.kept_bases) == (12, 0)
    assert report.reencoded_chunks == 9  # of commits 2, 4 and 8: 6 stands by itself
    assert report.reencoded_before > 0 < report.reencoded_after
    assert shape(store) == [0] * 6 + [1] * 6 + [2] * 3
    check(history, made[::2])
    again = history.gc()
    assert (again.chunks, again.reencoded_chunks, again.bytes) == (0, 0, 0)


def test_what_has_no_kept_ancestor_stands_by_itself_from_then_on(history, store) -> None:
    made = dense(history, 6)
    history.prune(Keep(last=1))
    report = history.gc()
    assert (report.chunks, report.reencoded_chunks) == (15, 3)
    assert report.reencoded_after > report.reencoded_before
    assert shape(store) == [0, 0, 0]
    check(history, made[-1:])


def test_a_chain_never_becomes_longer_than_the_mode_has_it(history, store) -> None:
    made = dense(history, 6)  # 0 1 2 0 1 2: 4 is over 3, and 5 over 4
    release(history, [made[3][0]])
    assert history.gc().reencoded_chunks == 3
    assert max(shape(store)) <= DEPTHS["auto"]
    check(history, [*made[:3], *made[4:]])


def test_what_lies_over_a_chunk_counts_when_it_is_given_another_base(history, store) -> None:
    made = dense(history, 6)  # 4, over 3, would lie over 1, and 5 over it: one delta too many
    release(history, [one for one, _ in made[2:4]])
    dry, report = history.gc(dry_run=True), history.gc()
    assert without_times(dry) == without_times(report)
    assert shape(store) == [0] * 6 + [1] * 6
    check(history, [*made[:2], *made[4:]])


def test_a_hit_on_a_delta_of_another_branch_outlives_that_branch(history, store) -> None:
    made = states(3)
    kept = [(commit(history, made[0], codec="auto"), made[0])]
    history.switch("other", create=True)
    commit(history, made[1], codec="auto")
    commit(history, made[2], codec="auto")
    history.switch("main")
    kept.append((commit(history, made[2], codec="auto"), made[2]))
    history.delete_branch("other")
    history.expire_reflog()
    report = history.gc()
    assert (report.commits, report.chunks, report.reencoded_chunks, report.kept_bases) == (2, 3, 3, 0)
    assert shape(store) == [0, 0, 0, 1, 1, 1]
    check(history, kept)


def test_only_a_part_of_a_dead_base_may_still_be_needed(history, store) -> None:
    first = {"model": {"a": noise(1, SIZE), "b": noise(2, SIZE)}}
    second = {"model": {"a": drifted(first["model"]["a"], 1), "b": first["model"]["b"]}}
    one = commit(history, first, codec="auto")
    two = commit(history, second, codec="auto")
    release(history, [one])
    report = history.gc()
    assert (report.chunks, report.reencoded_chunks) == (3, 3)  # b is shared
    check(history, [(two, second)])


def test_a_released_part_is_taken_to_the_nearest_ancestor_that_has_it(history, store) -> None:
    run, made = noise(3, SIZE), []
    for step in range(4):
        state = {"model": {"w": noise(step, SIZE)}, "optimizer": {"m": run}}
        made.append((commit(history, state, codec="auto", step=step), state))
        run = drifted(run, step)
    history.prune(Keep(last=4, parts={"optimizer": Keep(every_steps=3)}))  # of 0 and 3
    report = history.gc()
    assert report.reencoded_chunks == 0  # 3 stands by itself: 0 <- 1 <- 2
    history.repack()
    with store.read() as reader:
        assert len(list(all_bases(reader))) == 3  # the optimizer of 3, over that of 0
    assert load(history, made[3][0].id) == made[3][1]


def test_a_mode_without_deltas_does_not_make_what_was_a_delta_larger_than_it_must_be(tmp_path) -> None:
    with History(open_store(tmp_path / "s", chunk_size=CHUNK, codec="none")) as history:
        made = dense(history, 3)
        release(history, [made[1][0]])
        assert history.gc().reencoded_chunks == 3
        assert shape(history.store) == [0, 0, 0, 1, 1, 1]


def test_pruning_every_second_commit_costs_no_more_than_never_having_made_them(tmp_path) -> None:
    for keep in (Keep(every_steps=2), Keep(every_steps=5), Keep(last=13)):
        with (
            History(open_store(tmp_path / "all", chunk_size=16384)) as history,
            History(open_store(tmp_path / "fresh", chunk_size=16384)) as fresh,
        ):
            run, made = noise(5, 100_000), []
            for step in range(40):
                state = {"model": {"w": run}}
                made.append((commit(history, state, codec="auto", step=step), state))
                run = drifted(run, step, 7)
            kept = {d.step for d in history.prune(keep).kept}
            history.gc()
            for step, (_, state) in enumerate(made):
                if step in kept:
                    commit(fresh, state, codec="auto", step=step)
            sizes = []
            for one in (history, fresh):
                one.compact()
                size = one.store.size()
                sizes.append(size.file - size.reserve)
            assert sizes[0] <= 1.10 * sizes[1], keep
            check(history, [pair for step, pair in enumerate(made) if step in kept])
        shutil.rmtree(tmp_path / "all")
        shutil.rmtree(tmp_path / "fresh")


# -- what cannot be re-encoded


def damage(store: Store, oid: bytes) -> None:
    with store.write(durable=True, room=None) as writer:
        frame = bytearray(writer.get(Space.CHUNK, oid))
        frame[-1] ^= 255
        writer.put(Space.CHUNK, oid, frame)


@pytest.mark.parametrize("which", [0, 1])
def test_where_a_chunk_cannot_be_read_its_bases_stay_and_gc_goes_on(history, store, which) -> None:
    made = dense(history, 6)
    release(history, [one for one, _ in made[:4]])  # 4 is over 3
    with store.read() as reader:
        live = min(oid for oid in chunk_ids(history, made[4][0]))
        base = base_of(reader, live)
    damage(store, base if which else live)
    dry, report = history.gc(dry_run=True), history.gc()
    assert without_times(dry) == without_times(report)
    assert (report.reencoded_chunks, report.kept_bases, report.chunks) == (2, 1, 11)
    with store.read() as reader:
        check_invariant(reader)
        assert base_of(reader, live) == base
    assert history.gc().kept_bases == 1


def chunk_ids(history: History, one: Commit) -> set[bytes]:
    with Ingest(history.store, history.scheme) as ingest:
        return {oid for node in nodes_of(ingest, bytes.fromhex(one.id)).values() for oid in node.ids()}


def test_gc_works_on_a_full_disk_and_the_next_one_does_the_rest(history, store, monkeypatch) -> None:
    made = dense(history, 6)
    release(history, [one for one, _ in made[:4]])
    real = store.write

    def full(*, durable: bool, room: int | None):
        if room is not None:
            raise StoreFullError("no room", needed=room)
        return real(durable=durable, room=room)

    monkeypatch.setattr(store, "write", full)
    report = history.gc()
    assert (report.reencoded_chunks, report.kept_bases, report.chunks) == (0, 3, 9)
    check(history, made[4:])
    monkeypatch.setattr(store, "write", real)
    report = history.gc()
    assert (report.reencoded_chunks, report.kept_bases, report.chunks) == (3, 0, 3)
    check(history, made[4:])


def test_a_frame_that_does_not_hold_what_it_should_is_never_put(history, store, monkeypatch) -> None:
    made = dense(history, 3)
    release(history, [made[1][0]])
    real = recode.encode_chunk

    def wrong(oid, buffer, words, mode, base=None):
        buffer[-1] ^= 1  # as a bit that flips in memory would
        return real(oid, buffer, words, mode, base)

    monkeypatch.setattr(recode, "encode_chunk", wrong)
    assert history.gc().kept_bases == 3
    check(history, [made[0], made[2]])


def test_where_a_delta_cannot_be_put_any_more_the_chunk_is_stored_by_itself(history, store, monkeypatch) -> None:
    made = dense(history, 9)
    release(history, [one for one, _ in made[1::2]])
    real, refused = recode.replace_chunk, []

    def replace(writer, oid, frame, **how):
        if read_frame(memoryview(frame))[0].base is not None:
            refused.append(oid)
            return False
        return real(writer, oid, frame, **how)

    monkeypatch.setattr(recode, "replace_chunk", replace)
    report = history.gc()
    assert len(refused) == report.reencoded_chunks == 9
    assert (report.kept_bases, shape(store)) == (0, [0] * 15)
    check(history, made[::2])


# -- interrupted


def test_whoever_watches_may_end_it(history, store, monkeypatch) -> None:
    kept = left(history)
    monkeypatch.setattr(recode, "WRITE_BATCH", CHUNK)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "re-encoding chunks":
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        history.gc(progress=stop)
    assert threading.active_count() == before
    check(history, kept)
    report = history.gc()
    assert report.reencoded_chunks > 0
    with store.read() as reader:
        assert set(reader.keys(Space.CHUNK)) == live_chunks(history, kept)


@contextmanager
def interrupt_change(monkeypatch, number: int) -> Iterator[list[int]]:
    """Interrupt at the put or delete of that number."""
    calls = [0]
    with monkeypatch.context() as patch:
        for real in (MemoryWriter.put, MemoryWriter.delete):

            def change(*given, real=real, **how):
                calls[0] += 1
                if calls[0] == number:
                    raise KeyboardInterrupt
                return real(*given, **how)

            patch.setattr(MemoryWriter, real.__name__, change)
        yield calls


@contextmanager
def interrupt_write(store: Store, number: int, *, after: bool) -> Iterator[None]:
    """Interrupt before the write transaction of that number begins, or just after it has ended."""
    real, calls = store.write, 0

    @contextmanager
    def write(**how):
        nonlocal calls
        calls += 1
        mine = calls
        if mine == number and not after:
            raise KeyboardInterrupt
        with real(**how) as writer:
            yield writer
        if mine == number:
            raise KeyboardInterrupt

    store.write = write
    try:
        yield
    finally:
        store.write = real


def left(history: History) -> list[tuple[Commit, State]]:
    made = dense(history, 7)
    release(history, [one for one, _ in made[1:6:2]])
    return [*made[0:6:2], made[6]]


@pytest.mark.parametrize("work", ["gc", "repack"])
def test_interrupted_at_any_change_everything_is_as_it_was_or_done(monkeypatch, work) -> None:
    history = History(MemoryStore(chunk_size=CHUNK))
    kept = left(history)
    began = history.store._contents
    number, interrupted = 0, True
    while interrupted:
        number += 1
        history.store._contents = began
        with interrupt_change(monkeypatch, number) as calls:
            try:
                run(history, work)
                interrupted = False
            except KeyboardInterrupt:
                pass
        assert interrupted == (calls[0] >= number)
        check(history, kept)
        if number % 7 == 0 or not interrupted:
            run(history, work)
            history.gc()
            check(history, kept)
            assert history.store._contents[Space.CHUNK].keys() == live_chunks(history, kept)
    assert number > (30 if work == "gc" else 8)


@pytest.mark.parametrize("after", [False, True])
def test_interrupted_between_any_two_transactions_the_next_one_goes_on(history, store, monkeypatch, after) -> None:
    monkeypatch.setattr(recode, "_PUT", 1)  # one frame a transaction
    monkeypatch.setattr("casckpt.history.gc._STRIDE", 1)
    kept = left(history)
    number, interrupted = 0, True
    while interrupted:
        number += 1
        with interrupt_write(store, number, after=after):
            try:
                history.gc()
                interrupted = False
            except KeyboardInterrupt:
                pass
        check(history, kept)
    assert number > 3
    with store.read() as reader:
        assert set(reader.keys(Space.CHUNK)) == live_chunks(history, kept)


def run(history: History, work: str) -> None:
    history.gc() if work == "gc" else history.repack(codec="small")


def live_chunks(history: History, kept: list[tuple[Commit, State]]) -> set[bytes]:
    return set().union(*(chunk_ids(history, one) for one, _ in kept))


# -- others at work meanwhile


@contextmanager
def saving(history: History, what: State, *, codec: str = "auto") -> Iterator:
    """A save whose objects are written, deltas among them, but not published; call the result to publish it."""
    parent = history._tip
    with Ingest(history.store, history.scheme) as ingest:
        tree, total = put_state(ingest, history, what, parent, codec)

        def publish() -> Commit:
            oid, _ = ingest.publish(describe(history, tree, parent, "saved", None), expected=parent, logical=total)
            history._tip = oid
            return history.resolve(oid.hex())

        yield publish


def test_what_a_save_put_is_collected_with_its_bases_and_written_again(history, store) -> None:
    made = states(2)
    one = commit(history, made[0], codec="auto")
    other = History(store)
    with saving(history, made[1]) as publish:
        release(other, [one])
        assert shape(store) == [0, 0, 0, 1, 1, 1]
        assert other.gc().chunks == 6
        saved = publish()
    assert shape(store) == [0, 0, 0]
    check(history, [(saved, made[1])])


def test_a_base_that_goes_before_its_delta_is_put_leaves_a_chunk_by_itself(history, store, monkeypatch) -> None:
    made = states(2)
    one = commit(history, made[0], codec="auto")
    other = History(store)

    def collect() -> None:
        release(other, [one])
        assert other.gc().chunks == 3

    with before_write(monkeypatch, store, 1, collect), saving(history, made[1]) as publish:  # encoded, and not yet put
        saved = publish()
    assert shape(store) == [0, 0, 0]
    check(history, [(saved, made[1])])


def test_a_base_that_a_save_puts_a_delta_over_amid_the_gc_waits_for_the_next(history, store, monkeypatch) -> None:
    made = states(2)
    one = commit(history, made[0], codec="auto")
    other, published = History(store), []
    parent = history._tip
    with Ingest(store, history.scheme) as ingest:

        def save() -> None:
            tree, total = put_state(ingest, history, made[1], parent, "auto")
            described = describe(history, tree, parent, "saved", None)
            oid, _ = ingest.publish(described, expected=parent, logical=total)
            published.append(history.resolve(oid.hex()))

        release(other, [one])  # the save began before that
        with before_write(monkeypatch, store, 1, save):  # gc has looked, and deletes now
            report = other.gc()
    assert (report.chunks, report.kept_bases) == (0, 3)
    check(history, [(published[0], made[1])])
    report = other.gc()
    assert (report.chunks, report.reencoded_chunks, report.kept_bases) == (3, 3, 0)
    check(history, [(published[0], made[1])])


def test_a_base_that_was_turned_into_a_delta_of_what_is_based_on_it_is_found_all_the_same(history, store) -> None:
    (before,), (after,) = (list(state["model"].values()) for state in states(2))
    before, after = before[:CHUNK], after[:CHUNK]
    commit(history, {"model": {"w": before + b"!"}}, codec="auto")
    base, oid = (history.scheme.digest(Kind.CHUNK, raw) for raw in (before, after))
    with Ingest(store, history.scheme) as ingest:
        assert ingest.claim_chunk(oid)
        ingest.add_chunk(oid, frame(ingest, oid, after, base, "auto"), CHUNK)
        with store.write(durable=True, room=None) as writer:
            put_chunk(writer, oid, encode(Kind.CHUNK, oid, after, "none"), lambda: b"")
        with Ingest(store, history.scheme) as other:
            over = frame(other, base, before, oid, "auto")
        with store.write(durable=True, room=None) as writer:
            assert replace_chunk(writer, base, over, before=None, depth=2)
        ingest._secure([])  # as after a batch: now it shows that
        with store.write(durable=True, room=None) as writer:
            assert delete_chunk(writer, base) and delete_chunk(writer, oid)
            move_gc_epoch(writer)
        ingest.flush()
        with store.read() as reader:
            assert base_of(reader, oid) is None
            assert Objects(reader, history.scheme).chunk(oid) == after


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_hit_on_a_chunk_that_gc_is_about_to_delete_or_encode_anew_is_good(store, monkeypatch, moment) -> None:
    history = History(store)
    monkeypatch.setattr(recode, "_PUT", 1)
    monkeypatch.setattr("casckpt.history.gc._STRIDE", 1)
    made = dense(history, 5)  # 0 1 2 0 1
    kept = [made[0], made[2], made[4]]
    release(history, [made[1][0], made[3][0]])
    other = History(store)
    with (
        saving(other, {"model": {"w": made[3][1]["model"]["w"], "v": made[2][1]["model"]["w"]}}) as publish,
        before_write(monkeypatch, store, moment, lambda: saved.append(publish())),
    ):
        saved: list[Commit] = []
        history.gc()
    state = {"model": {"w": made[3][1]["model"]["w"], "v": made[2][1]["model"]["w"]}}
    check(history, [*kept, (saved[0], state)])
    history.gc()
    check(history, [*kept, (saved[0], state)])


@pytest.mark.parametrize("moment", range(1, 9))
def test_published_between_any_two_steps_of_a_gc_a_save_has_all_it_needs(store, monkeypatch, moment) -> None:
    history = History(store)
    monkeypatch.setattr(recode, "_PUT", 1)
    monkeypatch.setattr("casckpt.history.gc._STRIDE", 1)
    made = dense(history, 5)
    state = {"model": {"w": drifted(made[4][1]["model"]["w"], 99)}}
    other = History(store)
    saved: list[Commit] = []
    with saving(other, state) as publish:
        release(history, [one for one, _ in made[1:]])
        with before_write(monkeypatch, store, moment, lambda: saved.append(publish())):
            history.gc()
    check(history, [made[0], (saved[0], state)])
    history.gc()
    check(history, [made[0], (saved[0], state)])
    with store.read() as reader:
        assert set(reader.keys(Space.CHUNK)) == live_chunks(history, [made[0], (saved[0], state)])


def test_readers_of_an_old_snapshot_see_what_they_saw(history, store) -> None:
    made = dense(history, 6)
    with store.read() as reader:
        before = {oid: bytes(frame) for oid, frame in reader.items(Space.CHUNK)}
        history.prune(Keep(last=1))
        history.gc()
        history.repack(codec="none")
        assert {oid: bytes(frame) for oid, frame in reader.items(Space.CHUNK)} == before
    check(history, made[-1:])


def test_a_save_and_the_upkeep_on_threads_of_their_own_never_lose_a_byte(history, store) -> None:
    other = History(store)
    saves, failures = 25, []
    done = threading.Event()

    def upkeep() -> None:
        try:
            while not done.is_set():
                other.prune(Keep(last=3, every_steps=5))
                other.gc()
                other.repack(codec="small")
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=upkeep)
    worker.start()
    try:
        made = dense(history, saves)
    finally:
        done.set()
        worker.join()
    assert not failures
    kept = {d.id for d in other.prune(Keep(last=3, every_steps=5)).kept}
    other.gc()
    pairs = [pair for pair in made if pair[0].id in kept]
    check(history, pairs)
    with store.read() as reader:
        assert set(reader.keys(Space.CHUNK)) == live_chunks(history, pairs)


SAVE = """
import sys
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from tests.history.test_gc_deltas import states
from tests.history.world import commit
with History(open_store(sys.argv[1])) as history:
    print("open", flush=True)
    for step, state in enumerate(states(int(sys.argv[2]), seed=7)):
        print(commit(history, state, codec="auto", step=step).id, flush=True)
"""


def test_another_process_saves_while_this_one_collects_and_repacks(tmp_path) -> None:
    saves = 30
    with History(open_store(tmp_path / "s", chunk_size=CHUNK)) as history:
        with Program(SAVE, tmp_path / "s", saves) as program:
            assert program.line() == "open"
            ids: list[str] = []
            while len(ids) < saves:
                ids.append(program.line())
                history.prune(Keep(last=2, every_steps=4))
                history.gc()
                history.repack(codec="small" if len(ids) % 2 else "auto")
            program.end(None)
        kept = {d.id for d in history.prune(Keep(last=2, every_steps=4)).kept}
        history.gc()
        made = dict(zip(ids, states(saves, seed=7), strict=True))
        check(history, [(history.resolve(oid), made[oid]) for oid in ids if oid in kept])


def test_an_abandoned_branch_of_deltas_goes_whole(history, store) -> None:
    made = dense(history, 4)
    abandon(history, "HEAD~3")
    report = history.gc()
    assert (report.commits, report.chunks, report.reencoded_chunks, report.kept_bases) == (3, 9, 0, 0)
    check(history, made[:1])


UPKEEP = """
import sys
from casckpt.history import gc, recode
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
recode._PUT = 1
gc._STRIDE = 1
recode.WRITE_BATCH = 1024
told = []
def tell(stage, done, total):
    told.append(stage)
    print(stage, flush=True)
    if len(told) >= int(sys.argv[2]):
        sys.stdin.readline()
with History(open_store(sys.argv[1])) as history:
    history.gc(progress=tell)
    history.repack(codec="small", progress=tell)
    while True:
        tell("done", 0, 0)
"""


@pytest.mark.parametrize("lines", [1, 2, 3, 5, 8, 12, 18, 40])
def test_killed_at_any_moment_it_leaves_a_store_that_is_whole(tmp_path, lines) -> None:
    with History(open_store(tmp_path / "s", chunk_size=CHUNK)) as history:
        kept = left(history)
    with Program(UPKEEP, tmp_path / "s", lines) as program:
        for _ in range(lines):
            program.line()
        program.kill()
    with History(open_store(tmp_path / "s")) as history:
        check(history, kept)
        assert history.fsck(read_data=True).ok
        history.gc()
        check(history, kept)
        with history.store.read() as reader:
            assert set(reader.keys(Space.CHUNK)) == live_chunks(history, kept)


def test_without_another_thread_one_does_it_all(history, store, monkeypatch) -> None:
    kept = left(history)

    def refused(self) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert history.gc().kept_bases == 0
    check(history, kept)
    with store.read() as reader:
        assert set(reader.keys(Space.CHUNK)) == live_chunks(history, kept)
