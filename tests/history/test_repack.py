"""repack: ids and contents stay, frames become what the mode makes of them; it may end anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from casckpt.errors import StoreBusyError, StoreFullError, StoreSettingsError, UnknownRevisionError
from casckpt.history.bases import all_bases, dependants, depth_of
from casckpt.history.repository import History
from casckpt.limits import CODECS, DEPTHS
from casckpt.objects.frame import Codec, read_frame
from casckpt.store.lmdb_store import open_store
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space, Store
from tests.history.test_bases import check_invariant
from tests.history.test_gc import before_write
from tests.history.test_gc_deltas import CHUNK, SIZE, chunk_ids, damage, dense, interrupt_write, saving, shape, states
from tests.history.world import State, commit, drifted, load, release

COUNT = 7


@pytest.fixture(params=["memory", "lmdb"])
def store(request, tmp_path) -> Iterator[Store]:
    made = MemoryStore(chunk_size=CHUNK) if request.param == "memory" else open_store(tmp_path / "s", chunk_size=CHUNK)
    yield made
    made.close()


def written(history: History, codec: str, count: int = COUNT) -> list[State]:
    made = states(count)
    for step, state in enumerate(made):
        commit(history, state, codec=codec, step=step)
    return made


def frames(store: Store) -> dict[bytes, tuple[Codec, int, int]]:
    """Of each chunk its codec, how deep it lies, and the bytes of its frame."""
    with store.read() as reader:
        check_invariant(reader)
        return {
            oid: (read_frame(frame)[0].codec, depth_of(reader, oid), len(frame))
            for oid, frame in reader.items(Space.CHUNK)
        }


def check(history: History, made: list[State]) -> None:
    log = list(history.log())[::-1]
    assert [load(history, one.id) for one in log] == made


@pytest.mark.parametrize("before", CODECS)
@pytest.mark.parametrize("after", CODECS)
def test_from_any_mode_to_any_other_it_is_as_if_written_so(history, store, before, after) -> None:
    made = written(history, before)
    fresh = History(MemoryStore(chunk_size=CHUNK))
    written(fresh, after)
    held = frames(store)
    dry = history.repack(codec=after, dry_run=True)
    assert frames(store) == held
    report = history.repack(codec=after)
    now, expected = frames(store), frames(fresh.store)
    check(history, made)
    assert now.keys() == expected.keys()
    assert max(depth for _, depth, _ in now.values()) <= DEPTHS[after]
    size, wanted = (sum(size for _, _, size in found.values()) for found in (now, expected))
    assert size <= 1.05 * wanted
    if after in ("none", "fast"):
        assert now == expected
    assert (report.chunks, report.commits, report.damaged) == (len(now), COUNT, 0)
    assert (report.before, report.after) == (sum(size for _, _, size in held.values()), size)
    changed = [oid for oid in now if now[oid][::2] != held[oid][::2]]  # more may be over what changed
    assert report.reencoded_chunks >= len(changed)
    assert (dry.reencoded_chunks, dry.after) == (report.reencoded_chunks, report.after)
    for codecs, found in ((report.codecs_before, held), (report.codecs_after, now)):
        for name, (chunks, total) in codecs.items():
            there = [size for codec, _, size in found.values() if codec.name.lower() == name]
            assert (chunks, total) == (len(there), sum(there))
    assert history.repack(codec=after).reencoded_chunks == 0


def test_only_the_commits_of_a_range_are_looked_at(history, store) -> None:
    made = written(history, "none", 4)
    log = list(history.log())[::-1]
    assert history.repack("HEAD~2..HEAD", codec="auto").commits == 2
    with store.read() as reader:
        deltas = {oid for oid, _ in all_bases(reader)}
    assert deltas == chunk_ids(history, log[2]) | chunk_ids(history, log[3])
    assert history.repack([log[0].id, "HEAD~2"], codec="fast").chunks == 6
    assert history.repack("HEAD~3..", codec="auto").commits == 3
    assert history.repack([], codec="none").chunks == 0
    with pytest.raises(UnknownRevisionError):
        history.repack("nowhere..HEAD")
    check(history, made)


def test_what_comes_back_in_a_range_closes_no_circle(history, store) -> None:
    a, b = states(2)
    for state in (a, b, a, b):
        commit(history, state)
    history.repack("HEAD~3..HEAD", codec="small")
    history.repack(["HEAD~1", "HEAD"], codec="small")
    check(history, [a, b, a, b])
    frames(store)


def test_pruned_commits_are_passed_over_and_what_they_leave_is_repacked_as_one_line(history, store) -> None:
    made = dense(history, 9)
    release(history, [one for number, (one, _) in enumerate(made) if number % 3])
    history.gc()
    assert shape(store) == [0] * 9  # every third commit stood by itself
    report = history.repack()
    assert (report.commits, report.reencoded_chunks) == (3, 6)
    assert shape(store) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_an_unknown_codec_is_refused(history) -> None:
    with pytest.raises(StoreSettingsError, match="'best'"):
        history.repack(codec="best")


def test_only_one_maintenance_at_a_time(history, store) -> None:
    with store.maintenance(), pytest.raises(StoreBusyError):
        history.repack()


def test_a_damaged_chunk_stays_as_it_is_and_the_rest_is_repacked(history, store) -> None:
    written(history, "auto", 3)
    log = list(history.log())[::-1]
    victim = min(chunk_ids(history, log[1]))
    damage(store, victim)
    held = frames(store)
    with store.read() as reader:
        deltas = set(dependants(reader, victim))
    report = history.repack(codec="none")
    assert report.damaged == 2  # the delta over it as well
    now = frames(store)
    assert {oid: found for oid, found in now.items() if found[0] is not Codec.RAW} == {
        oid: held[oid] for oid in now if oid == victim or oid in deltas
    }
    assert load(history, log[0].id) == states(1)[0]


def test_on_a_full_disk_what_was_done_is_done(history, store, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.recode._PUT", 1)
    made = written(history, "none")
    real, writes = store.write, 0

    def write(*, durable, room):
        nonlocal writes
        writes += 1
        if room is not None and writes > 3:
            raise StoreFullError("no room", needed=room)
        return real(durable=durable, room=room)

    monkeypatch.setattr(store, "write", write)
    with pytest.raises(StoreFullError):
        history.repack(codec="auto")
    check(history, made)
    assert 0 < sum(codec is not Codec.RAW for codec, _, _ in frames(store).values()) < 3 * COUNT


@pytest.mark.parametrize("after", [False, True])
def test_interrupted_between_any_two_transactions_it_goes_on_where_it_was(history, store, monkeypatch, after) -> None:
    monkeypatch.setattr("casckpt.history.recode._PUT", 1)
    made = written(history, "none", 5)
    number, interrupted = 0, True
    while interrupted:
        number += 3
        with interrupt_write(store, number, after=after):
            try:
                history.repack(codec="small")
                interrupted = False
            except KeyboardInterrupt:
                pass
        check(history, made)
    assert number > 6
    fresh = History(MemoryStore(chunk_size=CHUNK))
    written(fresh, "small", 5)
    assert sum(size for *_, size in frames(store).values()) <= 1.1 * sum(
        size for *_, size in frames(fresh.store).values()
    )


def test_a_save_in_flight_over_what_is_repacked_loses_nothing(history, store, monkeypatch) -> None:
    made = written(history, "auto", 3)
    other = History(store)
    state = {"model": {"w": drifted(made[-1]["model"]["w"], 50)}}
    with saving(other, state) as publish, before_write(monkeypatch, store, 2, publish):
        history.repack(codec="none")
    check(history, [*made, state])
    assert max(depth for _, depth, _ in frames(store).values()) <= DEPTHS["auto"]


def test_progress_is_told(history) -> None:
    written(history, "none")
    told = []
    history.repack(codec="auto", progress=lambda *stage: told.append(stage))
    assert told[0] == ("looking at history", 0, 0)
    assert told[-1] == ("re-encoding chunks", COUNT * SIZE, COUNT * SIZE)


def test_batches_keep_memory_bounded_and_change_nothing(history, store, monkeypatch) -> None:
    made = written(history, "none")
    monkeypatch.setattr("casckpt.history.recode.WRITE_BATCH", 2 * CHUNK)
    history.repack(codec="auto")
    check(history, made)
    fresh = History(MemoryStore(chunk_size=CHUNK))
    written(fresh, "auto")
    assert frames(store) == frames(fresh.store)
