"""What stood at a chunk's place before: in the nearest ancestor that is kept and still has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from casckpt.history.fetch import Objects
from casckpt.history.ingest import Ingest
from casckpt.history.lineage import Lineage, Placed, words_in
from casckpt.history.records import Mark, add_mark, all_refs
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.objects.codec import encode
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode
from casckpt.objects.tree import canonical
from casckpt.objects.values import ArrayRecord, BlobRecord, TensorRecord
from casckpt.objects.words import BYTES, Words
from casckpt.store.memory import MemoryStore
from tests.history.world import State, commit, describe, noise, release

CHUNK = 256


@pytest.fixture
def history() -> History:
    return History(MemoryStore(chunk_size=CHUNK))


@contextmanager
def lineage(history: History) -> Iterator[Lineage]:
    with history.store.read() as reader:
        yield Lineage(Objects(reader, history.scheme))


def chunk(history: History, raw: bytes) -> bytes:
    return history.scheme.digest(Kind.CHUNK, raw)


def placed(history: History, wanted: list[bytes] | None = None) -> dict[bytes, Placed]:
    """By the bytes that are asked for; all: by id."""
    with lineage(history) as found:
        order = found.ancestors_first([oid for _, oid in all_refs(found._objects.reader)])
        ids = None if wanted is None else {chunk(history, raw) for raw in wanted}
        return {one.id: one for one in found.placed(order, ids)}


def state(*runs: bytes, part: str = "model") -> State:
    return {part: {str(n): run for n, run in enumerate(runs)}}


RUNS = [noise(n, CHUNK) for n in range(6)]


def test_a_chunk_follows_what_stood_at_its_place_in_the_parent(history) -> None:
    tail = b"tail"
    commit(history, state(RUNS[0] + RUNS[1] + tail, RUNS[2] + tail))
    commit(history, state(RUNS[0] + RUNS[3] + tail, RUNS[2] + tail))
    found = placed(history)
    before = {one.id: one.before for one in found.values()}
    ids = [chunk(history, run) for run in (*RUNS[:4], tail)]
    assert before == {ids[0]: None, ids[1]: None, ids[2]: None, ids[3]: ids[1], ids[4]: None}
    assert {one.length for one in found.values()} == {CHUNK, len(tail)}


def test_pruned_commits_are_passed_over(history) -> None:
    made = [commit(history, state(run + b"!")) for run in RUNS[:4]]
    release(history, made[1:3])
    found = placed(history)
    assert len(found) == 3  # and the tail, which is of the first
    assert found[chunk(history, RUNS[3])].before == chunk(history, RUNS[0])


def test_a_part_follows_the_nearest_ancestor_that_has_not_released_it(history) -> None:
    made = []
    for number in range(3):
        made.append(commit(history, {"a": {"x": RUNS[number] + b"!"}, "b": {"y": RUNS[number + 3] + b"?"}}))
    with history.store.write(durable=True, room=None) as writer:
        add_mark(writer, bytes.fromhex(made[1].id), Mark(False, ("b",)))
    found = placed(history)
    assert found[chunk(history, RUNS[2])].before == chunk(history, RUNS[1])
    assert found[chunk(history, RUNS[5])].before == chunk(history, RUNS[3])
    assert chunk(history, RUNS[4]) not in found


def test_what_has_another_length_or_is_new_follows_nothing(history) -> None:
    commit(history, state(RUNS[0] + b"!"))
    commit(history, state(RUNS[1] + RUNS[2], RUNS[3] + b"!"))
    assert {one.before for one in placed(history).values()} == {None}


def test_only_what_is_wanted_is_told_and_no_more_commits_are_read_than_it_takes(history, monkeypatch) -> None:
    for run in RUNS:
        commit(history, state(run + b"!"))
    read = []
    real = Objects.tree
    monkeypatch.setattr(Objects, "tree", lambda self, oid: read.append(oid) or real(self, oid))
    found = placed(history, [RUNS[1]])
    assert [one.before for one in found.values()] == [chunk(history, RUNS[0])]
    assert len(read) <= 4


def test_equal_subtrees_are_passed_over_unread(history, monkeypatch) -> None:
    many = {str(n): noise(n, CHUNK + 1) for n in range(80)}  # long enough to be trees of their own
    commit(history, {"a": many, "b": {"x": RUNS[0] + b"!"}})
    commit(history, {"a": many, "b": {"x": RUNS[1] + b"!"}})
    with lineage(history) as found:
        order = found.ancestors_first([bytes.fromhex(history.resolve().id)])
        assert len(list(found.placed(order[:1]))) > 100
        read = []
        real = Objects.node
        monkeypatch.setattr(Objects, "node", lambda self, oid: read.append(oid) or real(self, oid))
        assert [one.before for one in found.placed(order[1:])] == [chunk(history, RUNS[0])]
        assert len(read) == 2


def test_commits_come_after_all_that_they_lead_to_however_clocks_go(history) -> None:
    times = [5, 1, 9, 3]
    made = [bytes.fromhex(commit(history, state(run), time=when).id) for run, when in zip(RUNS, times, strict=False)]
    history.switch("other", create=True)
    history.rollback("HEAD~2")
    made.append(bytes.fromhex(commit(history, state(RUNS[5]), time=2).id))
    with lineage(history) as found:
        order = found.ancestors_first(reversed(made))
    assert sorted(order) == sorted(made)
    place = {oid: number for number, oid in enumerate(order)}
    assert place[made[0]] < place[made[1]] < place[made[2]] < place[made[3]] and place[made[1]] < place[made[4]]


def test_a_chunk_that_comes_back_is_told_once_and_no_chain_closes(history) -> None:
    for run in (RUNS[0], RUNS[1], RUNS[0], RUNS[1]):
        commit(history, state(run + b"!"))
    found = placed(history)
    assert found[chunk(history, RUNS[0])].before is None
    assert found[chunk(history, RUNS[1])].before == chunk(history, RUNS[0])


def test_a_state_that_is_no_mapping_has_places_too(history) -> None:
    parent = None
    for run in RUNS[:2]:
        with Ingest(history.store, history.scheme) as ingest:
            oid = chunk(history, run)
            ingest.claim_chunk(oid)
            ingest.add_chunk(oid, encode(Kind.CHUNK, oid, run, "none"), len(run))
            node = ingest.add_node(StorageNode(len(run), CHUNK, oid))
            ingest.flush()
            tree = ingest.add_tree(canonical(TensorRecord("float32", (64,), None, 0, node, None, 0)))
            parent, _ = ingest.publish(
                describe(history, tree, parent, "", None), expected=history._tip, logical=len(run)
            )
            history._tip = parent
    one = placed(history, [RUNS[1]])[chunk(history, RUNS[1])]
    assert (one.before, one.words) == (chunk(history, RUNS[0]), Words(4, True))


def test_words_are_those_of_the_record() -> None:
    node = NodeRef(b"n" * 16, 300)
    assert words_in(TensorRecord("bfloat16", (150,), None, 0, node, None, 0)) == Words(2, True)
    assert words_in(ArrayRecord("<i8", (30,), False, False, node)) == Words(8, False)
    assert words_in(ArrayRecord([["a", "<i8"]], (30,), False, False, node)) == BYTES
    assert words_in(BlobRecord(True, node)) == BYTES


def test_keep_and_lineage_agree_on_what_is_kept(history) -> None:
    made = [commit(history, state(run + b"!"), step=step) for step, run in enumerate(RUNS)]
    history.prune(Keep(every_steps=2, branches=False))
    history.gc()
    found = placed(history)
    assert found[chunk(history, RUNS[4])].before == chunk(history, RUNS[2])
    assert len(made) == 6
