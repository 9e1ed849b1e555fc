"""fsck finds what is wrong with deltas, by its name, and whom it hurts; deltas that are sound are no finding."""

from __future__ import annotations

import threading
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from casckpt.errors import CasckptError
from casckpt.history.bases import base_of, put_chunk, replace_chunk
from casckpt.history.fsck import check
from casckpt.history.fsck.findings import SORTS
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.limits import MAX_CHAIN
from casckpt.objects.codec import encode
from casckpt.objects.ids import Kind
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space, Store
from tests.history.damage import (
    NOWHERE,
    A,
    abandon,
    chained,
    delta_of,
    errors,
    flip,
    keys,
    make_delta,
    put,
    steps,
)
from tests.history.world import commit, load

# -- one kind of damage after the other: five states over each other, "model.w" of steps 0 to 4


def lose_base(history: History) -> None:
    """The chunk of step 1 that all later ones lie over, of which the state itself is no longer kept."""
    chunk = first_chunks(history)[1]
    history.prune(Keep(last=3))
    put(history.store, Space.CHUNK, chunk, None)


def lose_chunk(history: History) -> None:
    put(history.store, Space.CHUNK, first_chunks(history)[1], None)


def circle(history: History) -> None:
    """The first chunk becomes a delta of the last, which lies over it."""
    runs, chunks = steps(5), first_chunks(history)
    frame = delta_of(history, runs[0][:256], runs[4][:256])
    put(history.store, Space.CHUNK, chunks[0], frame)
    put(history.store, Space.BASE, chunks[0], chunks[4])
    put(history.store, Space.DEPENDANT, chunks[4] + chunks[0], b"")


def unrecorded_base(history: History) -> None:
    put(history.store, Space.BASE, first_chunks(history)[2], None)


def unrecorded_dependant(history: History) -> None:
    chunks = first_chunks(history)
    put(history.store, Space.DEPENDANT, chunks[1] + chunks[2], None)


def unrecorded(history: History) -> None:
    """Neither record, so that only the frame says it."""
    unrecorded_base(history)
    unrecorded_dependant(history)


def recorded_with_another(history: History) -> None:
    put(history.store, Space.BASE, first_chunks(history)[2], first_chunks(history)[0])


def recorded_as_nothing(history: History) -> None:
    put(history.store, Space.BASE, first_chunks(history)[2], b"")


def stray_base(history: History) -> None:
    chunks = first_chunks(history)
    put(history.store, Space.BASE, chunks[0], chunks[1])


def stray_dependant(history: History) -> None:
    chunks = first_chunks(history)
    put(history.store, Space.DEPENDANT, chunks[1] + chunks[0], b"")


def stray_pair(history: History) -> None:
    """Both records of a chunk that stands by itself, so that only the frame says so."""
    commit(history, {"other": {"w": A}}, step=5)
    other = history.scheme.digest(Kind.CHUNK, A[:256])
    put(history.store, Space.BASE, other, first_chunks(history)[4])
    put(history.store, Space.DEPENDANT, first_chunks(history)[4] + other, b"")


def stray_circle(history: History) -> None:
    """What is recorded of the first chunk would make a circle; its frame stands by itself."""
    chunks = first_chunks(history)
    put(history.store, Space.BASE, chunks[0], chunks[4])
    put(history.store, Space.DEPENDANT, chunks[4] + chunks[0], b"")


def of_nothing(history: History) -> None:
    """Records of a chunk that is not there, with a base that is."""
    put(history.store, Space.BASE, NOWHERE, first_chunks(history)[0])
    put(history.store, Space.DEPENDANT, first_chunks(history)[0] + NOWHERE, b"")


def stray_keys(history: History) -> None:
    put(history.store, Space.BASE, b"short", NOWHERE)
    put(history.store, Space.DEPENDANT, b"short", b"")


def first_chunks(history: History) -> list[bytes]:
    return [history.scheme.digest(Kind.CHUNK, run[:256]) for run in steps(5)]


BREAKS: list[tuple[str, Callable[[History], None]]] = [
    ("missing-base", lose_base),
    ("missing-chunk", lose_chunk),
    ("endless-chain", circle),
    ("missing-base-record", unrecorded_base),
    ("missing-base-record", unrecorded_dependant),
    ("missing-base-record", unrecorded),
    ("missing-base-record", recorded_with_another),
    ("missing-base-record", recorded_as_nothing),
    ("stray-base-record", stray_base),
    ("stray-base-record", stray_dependant),
    ("stray-base-record", stray_pair),
    ("stray-base-record", stray_circle),
    ("stray-base-record", of_nothing),
    ("stray-key", stray_keys),
]


@pytest.mark.parametrize(("id", "act"), BREAKS, ids=lambda one: getattr(one, "__name__", one))
def test_each_damage_to_deltas_is_found_by_its_name_and_nothing_else_is(history, id, act) -> None:
    chained(history, 5)
    assert not history.fsck(read_data=True).findings
    act(history)
    report = history.fsck(read_data=True)
    assert errors(report) == {id}, report.findings
    assert report.ok is (SORTS[id].severity != "error")
    assert report.counts[id] == (2 if act is stray_keys else 1), report.findings
    (found, *_) = [one for one in report.findings if one.id == id]
    assert (found.severity, found.meaning, found.remedy) == (SORTS[id].severity, SORTS[id].meaning, SORTS[id].remedy)
    if act not in (unrecorded, stray_pair):  # the records agree: the frame is not looked at
        assert errors(history.fsck()) == {id}


# -- whom it hurts


def test_a_base_that_is_lost_or_damaged_hurts_all_that_lies_over_it(history, store) -> None:
    chunks = chained(history, 5, part="m")
    for how in ("flip", "lose"):
        before = bytes(held(store, chunks[2]))
        flip(store, Space.CHUNK, chunks[2]) if how == "flip" else put(store, Space.CHUNK, chunks[2], None)
        (found,) = history.fsck(read_data=True).findings
        assert (found.id, found.object) == ("damaged-chunk" if how == "flip" else "missing-chunk", chunks[2].hex())
        assert [one.step for one in found.hurt.commits] == [4, 3, 2]
        assert found.hurt.paths == ("m.w",)
        put(store, Space.CHUNK, chunks[2], before)
    history.prune(Keep(last=2))
    history.expire_reflog()
    flip(store, Space.CHUNK, chunks[2])  # no state is kept that has this chunk itself
    (found,) = [one for one in history.fsck(read_data=True).findings if one.severity == "error"]
    assert (found.id, found.object) == ("damaged-chunk", chunks[2].hex())
    assert [one.step for one in found.hurt.commits] == [4, 3]
    put(store, Space.CHUNK, chunks[2], None)
    for read_data in (False, True):
        (found,) = [one for one in history.fsck(read_data=read_data).findings if one.severity == "error"]
        assert (found.id, found.object) == ("missing-base", chunks[2].hex())
        assert chunks[3].hex() in found.what
        assert [one.step for one in found.hurt.commits] == [4, 3]
    put(store, Space.BASE, chunks[3], None)  # nor is it recorded
    put(store, Space.DEPENDANT, chunks[2] + chunks[3], None)
    assert errors(history.fsck()) == {"stray-base-record"}  # its own, which is left
    report = history.fsck(read_data=True)
    assert errors(report) == {"missing-base", "missing-base-record", "stray-base-record"}
    assert {tuple(one.step for one in found.hurt.commits) for found in report.findings if found.object} == {(4, 3)}


def test_a_damaged_delta_is_the_cause_and_not_what_lies_under_or_over_it(history, store) -> None:
    chunks = chained(history, 6)
    flip(store, Space.CHUNK, chunks[3])
    report = history.fsck(read_data=True)
    (found,) = report.findings
    assert (found.id, found.object, report.counts) == ("damaged-chunk", chunks[3].hex(), {"damaged-chunk": 1})
    assert [one.step for one in found.hurt.commits] == [5, 4, 3]
    flip(store, Space.CHUNK, chunks[3])
    head = bytearray(held(store, chunks[3]))
    head[5] ^= 1
    put(store, Space.CHUNK, chunks[3], bytes(head))
    (found,) = history.fsck(read_data=True).findings
    assert (found.id, found.object) == ("damaged-chunk", chunks[3].hex())
    assert [one.step for one in found.hurt.commits] == [5, 4, 3]


def test_of_a_share_of_the_chunks_the_cause_is_named_too_where_it_is_not_among_them(history, store) -> None:
    chunks = chained(history, 6)
    flip(store, Space.CHUNK, chunks[0])
    named: set[str] = set()
    for group in range(1, 6):
        report = history.fsck(subset=f"{group}/5")
        assert report.counts in ({}, {"damaged-chunk": 1})
        named.update(found.object for found in report.findings)
    assert named == {chunks[0].hex()}


def test_what_nothing_leads_to_hurts_nobody_whatever_it_is_based_on(history, store) -> None:
    chunks = chained(history, 4)
    for _ in range(2):
        abandon(history)
    runs = steps(4)
    put(store, Space.CHUNK, chunks[2], None)
    assert errors(history.fsck(read_data=True)) == {"damaged-unreferenced"}
    put(store, Space.CHUNK, chunks[2], delta_of(history, runs[2][:256], runs[3][:256]))
    put(store, Space.BASE, chunks[2], chunks[3])
    put(store, Space.DEPENDANT, chunks[3] + chunks[2], b"")
    put(store, Space.DEPENDANT, chunks[1] + chunks[2], None)
    assert errors(history.fsck(read_data=True)) == {"damaged-unreferenced"}


def test_a_base_of_another_length_is_found(history, store) -> None:
    runs = steps(2)
    commit(history, {"model": {"w": runs[0]}}, step=0)
    commit(history, {"model": {"w": runs[1]}}, step=1)
    oid, base = make_delta(history, runs[1][:256], runs[0][:256])
    put(store, Space.CHUNK, base, encode(Kind.CHUNK, base, A[:200], "none"))
    report = history.fsck(read_data=True)
    assert report.counts == {"damaged-chunk": 2}
    told = {found.object: found.what for found in report.findings}
    assert "does not hash" in told[base.hex()]
    assert told[oid.hex()].endswith("has 256 bytes, and is a delta of one that has 200")


def test_a_chain_that_no_reader_follows_to_its_end_is_found_once(store, history) -> None:
    runs = steps(MAX_CHAIN + 12)
    for step, run in enumerate(runs):
        commit(history, {"model": {"w": run}}, step=step)
    chunks = [history.scheme.digest(Kind.CHUNK, run[:256]) for run in runs]
    for at in range(1, MAX_CHAIN + 1):
        make_delta(history, runs[at][:256], runs[at - 1][:256])
    assert not history.fsck(read_data=True).findings
    for at in range(MAX_CHAIN + 1, len(runs)):
        put(store, Space.CHUNK, chunks[at], delta_of(history, runs[at][:256], runs[at - 1][:256]))
        put(store, Space.BASE, chunks[at], chunks[at - 1])
        put(store, Space.DEPENDANT, chunks[at - 1] + chunks[at], b"")
    (found,) = history.fsck(read_data=True).findings
    assert (found.id, found.object) == ("endless-chain", chunks[MAX_CHAIN + 1].hex())
    assert [one.step for one in found.hurt.commits] == [*reversed(range(MAX_CHAIN + 1, len(runs)))]


def held(store: Store, oid: bytes) -> bytes:
    with store.read() as reader:
        return bytes(reader.get(Space.CHUNK, oid) or b"")


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_damage_to_any_chunk_of_any_chains_hurts_exactly_the_commits_that_do_not_load(data) -> None:
    store = MemoryStore(chunk_size=256)
    history = History(store)
    count = data.draw(st.integers(2, 6))
    runs = steps(count)
    made = [commit(history, {"model": {"w": run}}, step=step, time=step) for step, run in enumerate(runs)]
    for at in (0, 256, 512):
        for step in range(1, count):
            base = data.draw(st.integers(-1, step - 1))
            if base >= 0:
                make_delta(history, runs[step][at : at + 256], runs[base][at : at + 256])
    assert not history.fsck(read_data=True).findings
    key = data.draw(st.sampled_from(keys(store, Space.CHUNK)))
    frame = bytearray(store._contents[Space.CHUNK][key])
    how = data.draw(st.sampled_from(["flip", "cut", "remove"]))
    if how == "flip":
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del frame[data.draw(st.integers(0, len(frame) - 1)) :]
    put(store, Space.CHUNK, key, None if how == "remove" else bytes(frame))
    (found,) = history.fsck(read_data=True).findings
    assert (found.id, found.object) == ("missing-chunk" if how == "remove" else "damaged-chunk", key.hex())
    assert {one.id for one in found.hurt.commits} == {one.id for one in made if not loads(history, one.id)}


def loads(history: History, revision: str) -> bool:
    try:
        load(history, revision)
    except CasckptError:
        return False
    return True


# -- what is sound


def test_bases_of_what_is_live_are_not_unreferenced(history) -> None:
    chained(history, 4)
    history.prune(Keep(last=1))
    report = history.fsck(read_data=True)
    assert set(report.counts) == {"unreferenced-objects"}  # of the trees and nodes of what was pruned
    assert "chunks" not in report.findings[0].what
    assert (report.looked.chunks, report.looked.deltas) == (12, 9)


def test_what_becomes_a_delta_or_is_collected_between_two_steps_of_a_check_is_no_finding(
    history, store, monkeypatch
) -> None:
    runs = steps(4)
    for step, run in enumerate(runs):
        commit(history, {"model": {"w": run}}, step=step)
    real = check.check_data

    def changed(*arguments):
        for step in (1, 2, 3):
            make_delta(history, runs[step][:256], runs[step - 1][:256])
        return real(*arguments)

    monkeypatch.setattr(check, "check_data", changed)
    assert not history.fsck(read_data=True).findings

    def stands(*arguments):
        oid = history.scheme.digest(Kind.CHUNK, runs[2][:256])
        with store.write(durable=True, room=None) as writer:
            frame = encode(Kind.CHUNK, oid, runs[2][:256], "none")
            assert replace_chunk(writer, oid, frame, before=base_of(writer, oid), depth=0)
        return real(*arguments)

    monkeypatch.setattr(check, "check_data", stands)
    assert not history.fsck(read_data=True).findings


def test_a_check_beside_writers_of_deltas_finds_nothing_wrong(history, store, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.fsck.data.CHECK_KEYS", 5)  # many transactions, with others' between them
    failed: list[BaseException] = []
    chained(history, 2)

    def work() -> None:
        try:
            other = History(store)
            for round in range(1, 16):
                runs = steps(5, seed=round)
                for step, run in enumerate(runs):
                    commit(other, {"model": {"w": run}}, step=step)
                    for at in (0, 256, 512) if step else ():
                        make_delta(other, run[at : at + 256], runs[step - 1][at : at + 256])
                lone = steps(2, seed=-round)
                with store.write(durable=False, room=None) as writer:
                    for number, one in enumerate(lone):
                        raw = one[:256]
                        oid = other.scheme.digest(Kind.CHUNK, raw)
                        alone = encode(Kind.CHUNK, oid, raw, "none")
                        frame = delta_of(other, raw, lone[0][:256]) if number else alone
                        put_chunk(writer, oid, frame, lambda alone=alone: alone)
                other.prune(Keep(last=2))
                other.expire_reflog()
                other.gc()
                other.repack(codec="small" if round % 2 else "none")
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        checks = 0
        while writer.is_alive() or not checks:
            report = history.fsck(read_data=True)
            assert not errors(report), report
            checks += 1
    finally:
        writer.join()
    assert not failed
    assert not errors(history.fsck(read_data=True))
