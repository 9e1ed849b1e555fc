"""fsck finds every damage to what is stored, by name."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from casckpt.errors import CorruptObjectError
from casckpt.history.fsck.findings import SORTS
from casckpt.history.ingest import Ingest
from casckpt.history.records import Mark, add_mark
from casckpt.history.repository import History
from casckpt.objects.codec import encode
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode
from casckpt.objects.tree import LIST, MAP, PAGE, PAGED, TREE
from casckpt.objects.values import Map, TreeRef
from casckpt.store.protocol import Space
from tests.history.damage import (
    NOWHERE,
    A,
    B,
    C,
    abandon,
    bytes_of,
    errors,
    flip,
    keys,
    publish,
    put,
    put_tree,
    record,
    tip,
)
from tests.history.world import commit, describe, load

# -- one kind of damage after the other, each under the id of what it must be found as


def damage(space: Space, how: str) -> Callable[[History], None]:
    """Take away, or damage, one object of the newest commit that no other commit needs."""

    def act(history: History) -> None:
        before = set(keys(history.store, space))
        commit(history, {"model": {"w": C}})
        if space is Space.COMMIT:
            commit(history, {"model": {"w": A}})
            history.expire_reflog()
            before.add(tip(history))
        (key,) = [key for key in keys(history.store, space) if key not in before][:1]
        if how == "missing":
            put(history.store, space, key, None)
        else:
            flip(history.store, space, key)

    return act


def dangle(history: History) -> None:
    put(history.store, Space.REFLOG, bytes(8), msgspec.msgpack.encode((1, "branch/main", None, NOWHERE, "commit")))


def pruned_ref(history: History) -> None:
    with history.store.write(durable=True, room=None) as writer:
        add_mark(writer, tip(history), Mark(True, ()))


def other_length(history: History) -> None:
    with history.store.read() as reader:
        node = next(iter(reader.keys(Space.NODE)))
    publish(history, Map((("w", record(9, NodeRef(node, 9))),)))


def aliases(history: History) -> None:
    publish(history, Map((("a", record(1, b"x", 0)), ("b", record(1, b"y", 0)))))


def damaged_dead(history: History) -> None:
    before = set(keys(history.store, Space.CHUNK))
    commit(history, {"model": {"w": C}})
    abandon(history)
    flip(history.store, Space.CHUNK, next(key for key in keys(history.store, Space.CHUNK) if key not in before))


BREAKS: dict[str, Callable[[History], None]] = {
    "damaged-ref": lambda history: put(history.store, Space.REF, b"branch/a b", tip(history)),
    "dangling-ref": lambda history: put(history.store, Space.REF, b"tag/lost", NOWHERE),
    "ref-at-pruned-commit": pruned_ref,
    "unborn-head": lambda history: put(history.store, Space.REF, b"HEAD", b"nowhere"),
    "damaged-reflog-entry": lambda history: put(history.store, Space.REFLOG, bytes(8), b"\xc1"),
    "dangling-reflog-entry": dangle,
    "ref-against-reflog": lambda history: put(history.store, Space.REF, b"branch/main", keys_of_log(history)[1]),
    "damaged-mark": lambda history: put(history.store, Space.MARK, tip(history), b"\xc1"),
    "damaged-figures": lambda history: put(history.store, Space.FIGURES, tip(history), b"\xc1"),
    "damaged-counter": lambda history: put(history.store, Space.META, b"gc_epoch", b"\xff" * 8),
    "stray-record": lambda history: put(history.store, Space.MARK, NOWHERE, msgspec.msgpack.encode((True, []))),
    "stray-key": lambda history: put(history.store, Space.CHUNK, b"short", b"x"),
    **{
        f"{how}-{space.name.lower()}": damage(space, how)
        for space in (Space.COMMIT, Space.TREE, Space.NODE, Space.CHUNK)
        for how in ("missing", "damaged")
    },
    "wrong-length": other_length,
    "impossible-state": aliases,
    "damaged-unreferenced": damaged_dead,
    "unreferenced-objects": abandon,
}


def keys_of_log(history: History) -> list[bytes]:
    return [bytes.fromhex(one.id) for one in history.log()]


@pytest.mark.parametrize("id", BREAKS)
def test_each_damage_is_found_by_its_name_and_nothing_else_is(history, id) -> None:
    commit(history, {"model": {"w": A}, "optimizer": {"m": B}}, step=1)
    commit(history, {"model": {"w": A}, "optimizer": {"m": C[:600]}}, step=2)
    assert not history.fsck(read_data=True).findings
    BREAKS[id](history)
    report = history.fsck(read_data=True)
    assert id in report.counts
    assert errors(report) == ({id} if SORTS[id].severity != "info" else set())
    assert report.ok is (SORTS[id].severity != "error")
    found = next(one for one in report.findings if one.id == id)
    assert (found.severity, found.meaning, found.remedy) == (
        SORTS[id].severity,
        SORTS[id].meaning,
        SORTS[id].remedy,
    )


def test_a_damaged_head_and_a_counter_that_is_behind_are_found(history, store) -> None:
    commit(history, {"model": {"w": A}})
    put(store, Space.META, b"reflog_next", bytes(8))
    put(store, Space.REF, b"HEAD", b"\xff")
    put(store, Space.REF, b"branch/\xff", NOWHERE)
    put(store, Space.REFLOG, b"odd", b"x")
    put(store, Space.MARK, b"odd", b"x")
    report = history.fsck()
    assert errors(report) == {"damaged-counter", "damaged-ref", "damaged-reflog-entry", "stray-key"}
    assert (report.counts["damaged-ref"], report.counts["damaged-reflog-entry"], report.counts["stray-key"]) == (
        2,
        1,
        1,
    )
    put(store, Space.META, b"reflog_next", b"\xff" * 8)
    assert history.fsck().counts["damaged-counter"] == 1


def test_a_chunk_that_is_not_as_long_as_its_place_is_found_where_it_is_read(history, store) -> None:
    commit(history, {"model": {"w": A}})
    (short,) = [oid for oid in keys(store, Space.CHUNK) if len(bytes_of(store, history, oid)) == 700 % 256]
    node = StorageNode(512, 256, short * 2)
    ref = NodeRef(history.scheme.digest(Kind.NODE, msgspec.msgpack.encode([512, 256, short * 2])), 512)
    publish(history, Map((("w", record(512, ref)),)), [node])
    assert errors(history.fsck()) == {"wrong-length"}  # the other node gives it another length
    history.rollback("HEAD~1")
    abandoned = history.fsck(read_data=True)
    assert errors(abandoned) == {"wrong-length"}  # the reflog still leads there
    history.expire_reflog()
    assert history.fsck(read_data=True).ok


def test_a_chunk_of_another_length_than_every_node_says_is_found_where_it_is_read(history, store) -> None:
    raw = b"z" * 100
    chunk = history.scheme.digest(Kind.CHUNK, raw)
    node = StorageNode(300, 256, chunk * 2)
    oid = history.scheme.digest(Kind.NODE, msgspec.msgpack.encode([300, 256, chunk * 2]))
    other = StorageNode(512, 256, chunk * 2)
    put(store, Space.CHUNK, chunk, encode(Kind.CHUNK, chunk, raw, "none"))
    other_oid = history.scheme.digest(Kind.NODE, msgspec.msgpack.encode([512, 256, chunk * 2]))
    publish(history, Map((("w", record(512, NodeRef(other_oid, 512))),)), [other])
    assert history.fsck().ok
    report = history.fsck(read_data=True)
    assert errors(report) == {"wrong-length"}
    assert report.findings[0].object == chunk.hex()
    assert report.findings[0].hurt.paths == ("w",)
    publish(history, Map((("w", record(300, NodeRef(oid, 300))),)), [node])
    assert errors(history.fsck()) == {"wrong-length"}  # one node gives it two lengths


def test_a_state_that_is_nested_too_deep_or_of_too_many_trees_is_found(history, monkeypatch) -> None:
    commit(history, {"model": {}})
    inner: list[object] = [LIST, None]
    for _ in range(60):
        inner = [LIST, [TREE, put_tree(history, [LIST, inner])]]
    publish(history, Map((("w", TreeRef(put_tree(history, inner))),)))
    (found,) = history.fsck().findings
    assert found.id == "impossible-state" and "nested deeper" in found.what
    monkeypatch.setattr("casckpt.history.fsck.structure.MAX_DEPTH", 1000)
    assert history.fsck().ok
    monkeypatch.setattr("casckpt.history.fsck.structure.MAX_STATE_TREES", 0)
    assert "tree objects" in history.fsck().findings[0].what


def test_pages_of_a_container_that_are_none_are_found(history) -> None:
    commit(history, {"model": {}})
    for tag, page, says in ((LIST, "text", "is not a page"), (MAP, [PAGE, "key"], "without a value")):
        root = put_tree(history, [MAP, "part", [PAGED, tag, [put_tree(history, page)]]])
        with Ingest(history.store, history.scheme) as ingest:
            described = describe(history, root, history._tip, "", None)
            history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)
        assert says in history.fsck().findings[0].what
        with pytest.raises(CorruptObjectError):
            load(history, "HEAD")
        abandon(history)
        history.gc()
