"""diff names every leaf that differs and no other; stats add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import PrunedCommitError
from casckpt.history.diff import describe, diff_roots
from casckpt.history.fetch import Objects
from casckpt.history.retention import Keep
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.tree import decode_tree, write_tree
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, TensorRecord, Typed
from casckpt.store.memory import MemoryStore
from tests.history.world import commit


def changes(old, new):
    """The diff of two values, through a store of their own."""
    store = MemoryStore()
    roots = []
    with store.write(durable=True, room=0) as writer:
        from casckpt.objects.codec import encode
        from casckpt.store.protocol import Space

        def emit(raw: bytes) -> bytes:
            oid = XXH3_128.digest(Kind.TREE, raw)
            writer.put(Space.TREE, oid, encode(Kind.TREE, oid, raw))
            return oid

        roots = [decode_tree(raw, 16) for raw in _raws(emit, old, new)]
    with store.read() as reader:
        objects = Objects(reader, XXH3_128)
        return list(diff_roots(objects, roots[0], objects, roots[1]))


def _raws(emit, *values):
    for value in values:
        kept: dict[bytes, bytes] = {}

        def keep(raw: bytes, kept=kept) -> bytes:
            oid = emit(raw)
            kept[oid] = raw
            return oid

        yield kept[write_tree(value, (), keep)]


def record(run: bytes, dtype: str = "uint8") -> TensorRecord:
    return TensorRecord(dtype, (len(run),), None, 0, run, None, 0)


def test_each_kind_of_change_is_told_once() -> None:
    old = Map((("same", 1), ("lr", 0.1), ("gone", "x"), ("w", record(b"abc")), ("l", [1, 2]), ("t", (1, 2)), ("n", {})))
    old = Map(tuple((k, Map(()) if v == {} else v) for k, v in old.entries))
    new = Map(
        (
            ("same", 1),
            ("lr", 0.2),
            ("w", record(b"abd")),
            ("l", [1, 3, 4]),
            ("t", (1,)),
            ("new", True),
            ("n", Map((("k", None),))),
        )
    )
    told = {(c.path, c.change): (c.old, c.new, c.nbytes) for c in changes(old, new)}
    assert told == {
        ("lr", "changed"): ("0.1", "0.2", 0),
        ("w", "changed"): ("uint8 [3]", "uint8 [3]", 3),
        ("l.1", "changed"): ("2", "3", 0),
        ("l.2", "added"): ("", "4", 0),
        ("t.1", "removed"): ("2", "", 0),
        ("new", "added"): ("", "True", 0),
        ("n.k", "added"): ("", "None", 0),
        ("gone", "removed"): ("'x'", "", 0),
    }


def test_types_that_python_takes_for_equal_differ() -> None:
    assert [c.new for c in changes(Map((("a", 1), ("b", 0.0))), Map((("a", True), ("b", -0.0))))] == ["True", "-0.0"]
    assert changes(float("nan"), float("nan")) == []
    assert [c.change for c in changes([1], (1,))] == ["removed", "added"]
    assert [c.path for c in changes(Typed("path", "/a"), Typed("path", "/b"))] == [""]
    assert [c.change for c in changes(Typed("path", "/a"), Typed("decimal", "/a"))] == ["removed", "added"]


@given(st.recursive(st.integers() | st.text(max_size=5), lambda s: st.lists(s, max_size=3), max_leaves=10))
def test_a_value_does_not_differ_from_itself(value) -> None:
    assert changes(value, value) == []


def test_leaves_are_described_in_words() -> None:
    assert describe(record(b"abc")) == "uint8 [3]"
    assert describe(ArrayRecord("<f4", (2,), False, False, b"x" * 8)) == "numpy '<f4' [2]"
    assert describe(BlobRecord(True, b"abc")) == "str of 3 bytes"
    assert describe(Typed("path", "/a")) == "path '/a'"
    assert len(describe("x" * 100)) == 60


def test_chunks_and_bytes_that_changed(history) -> None:
    run = bytearray(b"a" * 256 + b"b" * 256 + b"c" * 44)
    commit(history, {"model": {"w": bytes(run), "same": b"s" * 600}})
    run[300] = 0
    commit(history, {"model": {"w": bytes(run), "same": b"s" * 600}})
    (change,) = history.diff("HEAD~1", "HEAD")
    assert (change.path, change.kind, change.change) == ("model.w", "tensor", "changed")
    assert (change.chunks, change.nbytes, change.total_chunks, change.total_nbytes) == (1, 256, 3, 556)
    commit(history, {"model": {"w": bytes(run[:-44]) + b"d" * 44, "more": b"m" * 600}})
    told = {c.path: (c.change, c.chunks, c.nbytes) for c in history.diff("HEAD~1", "HEAD")}
    assert told == {"model.w": ("changed", 1, 44), "model.more": ("added", 3, 600), "model.same": ("removed", 3, 600)}


def test_a_leaf_that_moves_into_its_record_or_out_of_it(history) -> None:
    commit(history, {"model": {"w": b"a" * 10}})
    commit(history, {"model": {"w": b"a" * 600}})
    assert [(c.chunks, c.nbytes) for c in history.diff("HEAD~1", "HEAD")] == [(3, 600)]
    assert [(c.chunks, c.nbytes) for c in history.diff("HEAD", "HEAD~1")] == [(1, 10)]


def test_an_alias_that_is_only_numbered_anew_is_no_change() -> None:
    def tied(alias):
        return TensorRecord("uint8", (3,), None, 0, b"abc", alias, 0)

    assert changes(Map((("a", tied(0)),)), Map((("a", tied(1)),))) == []
    (change,) = changes(Map((("a", tied(None)),)), Map((("a", tied(0)),)))
    assert (change.old, change.new, change.nbytes) == ("uint8 [3] on its own", "uint8 [3] sharing its storage", 0)


def test_a_long_list_is_one_change() -> None:
    (change,) = changes([0] * 100, [0] * 99 + [1])
    assert change.path == ""
    assert change.new.startswith("100 values: [0, 0")


def test_released_parts_are_left_out_and_pruned_commits_refused(history) -> None:
    for n in range(3):
        commit(history, {"model": {"w": bytes([n])}, "optimizer": {"m": bytes([n]) * 600}})
    history.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    assert [c.path for c in history.diff("HEAD~1", "HEAD")] == ["model.w"]
    with pytest.raises(PrunedCommitError):
        history.diff("HEAD~2", "HEAD")


def test_stats_add_up(history) -> None:
    empty = history.stats()
    assert (empty.commits, empty.chunks, empty.logical, empty.saved) == (0, 0, 0, 1.0)
    for n in range(3):
        commit(history, {"model": {"w": bytes([n]) * 600, "same": b"s" * 600}})
    history.branch("b")
    history.tag("t")
    history.prune(Keep(last=2))
    told = history.stats()
    assert (told.commits, told.pruned, told.branches, told.tags) == (3, 1, 2, 1)
    assert (told.chunks, told.logical) == (8, 2400)
    assert told.stored > 8 * 200 and told.saved == 2400 / told.stored
