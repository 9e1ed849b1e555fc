"""How chunks are stored is counted: each once, where it first appears, and all of them in every table."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from casckpt.errors import CorruptObjectError
from casckpt.history.codec_stats import GROUPS, Amount, CodecStats
from casckpt.history.ingest import Ingest
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.objects.codec import encode
from casckpt.objects.ids import Kind
from casckpt.objects.node import StorageNode, chunk_bounds
from casckpt.objects.tree import write_tree
from casckpt.objects.values import ITEM_SIZE, ArrayRecord, BlobRecord, Map, TensorRecord, Typed, Value
from casckpt.store.protocol import Space
from tests.history.damage import chained, flip, keys
from tests.history.world import commit, describe


def mapping(**items: Value) -> Map:
    return Map(tuple(items.items()))


class States:
    """Commits of states by hand: a run of bytes is a storage of its own."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._storages: list[Any] = []
        self._random = random.Random(0)

    def bytes(self, chunks: int) -> bytes:
        return self._random.randbytes(256 * chunks)

    def tensor(self, run: bytes, dtype: str = "float32") -> TensorRecord:
        self._storages.append(run)
        return TensorRecord(dtype, (len(run) // ITEM_SIZE[dtype],), None, 0, len(self._storages) - 1, None, 0)

    def array(self, run: bytes, dtype: str) -> ArrayRecord:
        self._storages.append(run)
        return ArrayRecord(dtype, (len(run) // 4,), False, False, len(self._storages) - 1)

    def blob(self, run: bytes) -> BlobRecord:
        self._storages.append(run)
        return BlobRecord(False, len(self._storages) - 1)

    def commit(self, state: Value, step: int) -> None:
        history, scheme = self.history, self.history.scheme
        with Ingest(history.store, scheme) as ingest:
            nodes = []
            for run in self._storages:
                ids = []
                for start, end in chunk_bounds(len(run), 256):
                    oid = scheme.digest(Kind.CHUNK, run[start:end])
                    if ingest.claim_chunk(oid):
                        ingest.add_chunk(oid, encode(Kind.CHUNK, oid, run[start:end], "none"), end - start)
                    ids.append(oid)
                nodes.append(ingest.add_node(StorageNode(len(run), 256, b"".join(ids))))
            ingest.flush()
            tree = write_tree(state, nodes, ingest.add_tree)
            described = describe(history, tree, history._tip, f"at {step}", step, time=step)
            history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)
        self._storages = []


def together(amounts: Iterable[Amount]) -> Amount:
    found = list(amounts)
    return Amount(*[sum(getattr(one, name) for one in found) for name in ("chunks", "raw", "stored")])


def check_sums(found: CodecStats) -> None:
    """Every table is of all chunks."""
    assert together(found.by_codec.values()) == together(found.by_depth.values()) == found.total
    kept = together([*found.by_group.values(), found.unreferenced])
    assert kept == together([*(one.added for one in found.by_commit), found.unreferenced]) == found.total


def chunks(found: CodecStats) -> dict[str, int]:
    return {name: amount.chunks for name, amount in found.by_group.items() if amount.chunks}


def test_an_empty_store_has_nothing_of_anything(history) -> None:
    found = history.codec_stats()
    check_sums(found)
    assert (found.total, found.by_codec, found.by_depth, found.by_commit) == (Amount(), {}, {}, ())
    assert tuple(found.by_group) == GROUPS and found.total.ratio == 1.0


def test_groups_are_told_by_keys_and_dtypes(history) -> None:
    states = States(history)
    tensor, run = states.tensor, states.bytes
    moments = mapping(exp_avg=tensor(run(2)), exp_avg_sq=tensor(run(3)), momentum_buffer=tensor(run(4)), step=3)
    optimizer = mapping(state=Map(((0, moments),)), param_groups=[mapping(lr=tensor(run(5)))])
    states.commit(
        mapping(
            model=Typed("ordered_dict", mapping(w=tensor(run(6)), half=tensor(run(7), "bfloat16"))),
            optimizer=mapping(buffer=tensor(run(8))),
            anything=mapping(deeper=[optimizer]),
            counters=tensor(run(9), "int64"),
            arrays=mapping(f=states.array(run(10), "<f4"), i=states.array(run(11), "<i4")),
            text=states.blob(run(12)),
            exp_avg=[tensor(run(13))],
        ),
        step=1,
    )
    found = history.codec_stats()
    check_sums(found)
    assert chunks(found) == {
        "weights": 6 + 7 + 10,
        "exp_avg": 2 + 13,
        "exp_avg_sq": 3,
        "other": 4 + 5 + 8 + 9 + 11 + 12,
    }


def test_a_state_that_is_an_optimizer_or_a_tensor_itself_has_groups_too(history) -> None:
    states = States(history)
    moments = mapping(exp_avg=states.tensor(states.bytes(2)), master=states.tensor(states.bytes(3)))
    states.commit(mapping(state=Map(((0, moments),)), param_groups=[]), step=1)
    states.commit(states.tensor(states.bytes(4)), step=2)
    states.commit([states.tensor(states.bytes(5))], step=3)
    found = history.codec_stats()
    check_sums(found)
    assert chunks(found) == {"weights": 9, "exp_avg": 2, "other": 3}
    assert [one.added.chunks for one in found.by_commit] == [5, 4, 5]


def test_a_chunk_counts_where_it_first_appears_and_nowhere_else(history) -> None:
    states = States(history)
    shared, own = states.bytes(3), states.bytes(2)
    states.commit(mapping(model=mapping(w=states.tensor(shared))), step=1)
    again = mapping(exp_avg=states.tensor(shared), exp_avg_sq=states.tensor(own + shared))
    states.commit(mapping(model=mapping(w=states.tensor(own)), optimizer=again), step=2)
    states.commit(mapping(model=mapping(w=states.tensor(own)), optimizer=mapping(m=states.tensor(shared))), step=3)
    found = history.codec_stats()
    check_sums(found)
    assert chunks(found) == {"weights": 5}
    assert [(one.step, one.message, one.added.chunks) for one in found.by_commit] == [
        (3, "at 3", 0),
        (2, "at 2", 2),
        (1, "at 1", 3),
    ]
    assert found.by_commit[0].id == history.resolve("HEAD").id
    assert found.by_commit[2].added == Amount(3, 768, sum(len(frame) for frame in frames(history)[:3]))


def frames(history: History) -> list[bytes]:
    with history.store.read() as reader:
        return [bytes(frame) for _, frame in reader.items(Space.CHUNK)]


def test_codecs_and_depths_are_what_the_frames_say(history) -> None:
    chained(history, 4)
    found = history.codec_stats()
    check_sums(found)
    assert {depth: amount.chunks for depth, amount in found.by_depth.items()} == {0: 3, 1: 3, 2: 3, 3: 3}
    assert {name: amount.chunks for name, amount in found.by_codec.items()} == {"raw": 3, "sparse_delta": 9}
    assert found.total == Amount(12, 12 * 256, sum(map(len, frames(history))))
    assert found.by_codec["sparse_delta"].ratio > 1.5 > 1 > found.by_codec["raw"].ratio
    assert [one.added.chunks for one in found.by_commit] == [3, 3, 3, 3]


def test_what_was_pruned_or_released_is_of_no_commit_and_bases_that_it_leaves_are_unreferenced(history) -> None:
    chained(history, 4)
    history.prune(Keep(last=1))
    found = history.codec_stats()
    check_sums(found)
    assert (found.unreferenced.chunks, len(found.by_commit)) == (9, 1)
    commit(history, {"model": {"w": b"m" * 600}, "ema": {"w": b"e" * 600}}, step=7)
    commit(history, {"model": {"w": b"n" * 600}}, step=8)
    history.prune(Keep(last=2, parts={"ema": Keep(last=1)}))
    found = history.codec_stats()
    check_sums(found)
    assert [(one.step, one.added.chunks) for one in found.by_commit] == [(8, 2), (7, 2)]


def test_a_part_that_an_earlier_commit_of_the_same_state_released_is_of_the_later_one(history) -> None:
    for step in (1, 2):
        commit(history, {"model": {"w": b"m" * 600}, "ema": {"w": b"e" * 600}}, step=step)
    history.prune(Keep(last=2, parts={"ema": Keep(last=1)}))
    found = history.codec_stats()
    check_sums(found)
    assert [(one.step, one.added.chunks) for one in found.by_commit] == [(2, 2), (1, 2)]


def test_what_comes_meanwhile_is_counted_as_unreferenced(history, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.codec_stats.CHECK_KEYS", 5)
    chained(history, 3)
    told: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        if done == 5:
            commit(History(history.store), {"model": {"w": b"late" * 200}}, step=9)
        told.append((stage, done, total))

    found = history.codec_stats(progress=progress)
    check_sums(found)
    assert 9 <= found.total.chunks <= 13 and found.unreferenced.chunks == found.total.chunks - 9
    assert told[:2] == [("looking at states", 0, 0), ("counting chunks", 5, 9)] and told[-1][1:] == (9, 9)


def test_a_damaged_head_is_named(history, store) -> None:
    (oid, *_) = chained(history, 2)
    frame = frames(history)[keys(store, Space.CHUNK).index(oid)]
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, oid, bytes([frame[0] ^ 1]) + frame[1:])
        writer.put(Space.CHUNK, b"short", b"x")  # none of ours
    with pytest.raises(CorruptObjectError, match=f"{oid.hex()}.*fsck --read-data"):
        history.codec_stats()
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, oid, frame)
    flip(store, Space.CHUNK, oid)  # its payload, which nobody looks at here
    assert history.codec_stats().total.chunks == 6
