"""A share of the data is what was asked for; t groups together are all of it, whichever chunks there are."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from casckpt.history.fsck import data
from casckpt.history.fsck.subset import parse_subset
from casckpt.history.repository import History
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.world import commit

IDS = st.sets(st.binary(min_size=16, max_size=16), max_size=200)


@given(ids=IDS, groups=st.integers(1, 40))
def test_each_chunk_is_in_exactly_one_of_the_groups(ids, groups) -> None:
    choosers = [parse_subset(f"{n}/{groups}").chooser(len(ids), 0) for n in range(1, groups + 1)]
    assert all(sum(choose(oid) for choose in choosers) == 1 for oid in ids)


@given(ids=IDS, share=st.floats(0.01, 100))
def test_a_share_is_that_many_chunks_and_never_none(ids, share) -> None:
    text = f"{share:.3f}%"
    choose = parse_subset(text).chooser(len(ids), 0)
    taken = sum(choose(oid) for oid in sorted(ids))
    exact = len(ids) * float(text[:-1]) / 100
    assert exact <= taken < exact + 1 or taken == min(1, len(ids))
    assert not choose(b"one that others added") or share > 99.9


def test_a_share_is_drawn_anew_each_time_and_misses_no_chunk_for_ever(monkeypatch) -> None:
    source = random.Random(3)
    monkeypatch.setattr(random, "Random", lambda: source)
    ids = [n.to_bytes(16, "big") for n in range(100)]
    seen: set[bytes] = set()
    for _ in range(200):
        choose = parse_subset("5%").chooser(len(ids), 0)
        taken = [oid for oid in ids if choose(oid)]
        assert len(taken) == 5
        seen.update(taken)
    assert seen == set(ids)


@pytest.mark.parametrize(
    ("text", "part"), [("100%", 1.0), ("0.5%", 0.005), ("1/1", 1.0), ("2/8", 0.125), ("1000", 0.1), ("1M", 1.0)]
)
def test_what_part_of_all_bytes_a_subset_is(text, part) -> None:
    assert parse_subset(text).part(10_000) == pytest.approx(part)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0%",
        "101%",
        "-5%",
        "5 %",
        "%",
        "0/3",
        "4/3",
        "1/0",
        "1/",
        "/2",
        "1/2/3",
        "0",
        "0K",
        "5X",
        "ten",
        "1e3",
        "²%",
    ],
)
def test_what_is_no_share_is_refused(text) -> None:
    with pytest.raises(ValueError, match="5%"):
        parse_subset(text)


@pytest.mark.parametrize(("keys", "size"), [(1 << 16, 1 << 28), (7, 1 << 28), (1 << 16, 1000)])
def test_t_nights_read_every_chunk_once_in_one_transaction_or_many(monkeypatch, keys, size) -> None:
    history = History(MemoryStore(chunk_size=256))
    for step in range(5):
        commit(history, {"model": {str(n): bytes([step, n]) * 350 for n in range(20)}})
    with history.store.read() as reader:
        chunks = list(reader.keys(Space.CHUNK))
    read: list[bytes] = []
    real = data.verified

    def verified(scheme, chain):
        read.append(chain.id)
        return real(scheme, chain)

    monkeypatch.setattr(data, "verified", verified)
    monkeypatch.setattr(data, "CHECK_KEYS", keys)
    monkeypatch.setattr(data, "CHECK_BATCH", size)
    monkeypatch.setattr(data, "_TASK", 700)
    for night in range(1, 8):
        report = history.fsck(subset=f"{night}/7")
        assert report.ok and report.subset == f"{night}/7"
    assert sorted(read) == chunks
    read.clear()
    assert history.fsck(subset="100%").looked.chunks_read == len(chunks)
    assert sorted(read) == chunks
    assert 0 < history.fsck(subset="2K").looked.chunks_read < len(chunks)


def test_a_wrong_share_is_refused_before_anything_is_read(monkeypatch) -> None:
    history = History(MemoryStore(chunk_size=256))
    with pytest.raises(ValueError, match="most"):
        history.fsck(subset="most")
