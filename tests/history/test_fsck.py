"""fsck finds every damage to what is stored, by name, says whom it hurts, and finds nothing in what is sound."""

from __future__ import annotations

import threading
from collections.abc import Callable

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from casckpt.errors import CasckptError, CorruptObjectError, MissingObjectError, StoreClosedError
from casckpt.history.fetch import Objects
from casckpt.history.fsck import check
from casckpt.history.fsck.findings import SORTS
from casckpt.history.fsck.report import FsckReport
from casckpt.history.ingest import Ingest
from casckpt.history.records import Mark, add_mark
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.objects.codec import decode, encode
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode
from casckpt.objects.tree import LIST, MAP, PAGE, PAGED, TREE, expand, write_tree
from casckpt.objects.values import Map, TensorRecord, TreeRef, Typed, Value
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space, Store
from tests.history.world import commit, describe, load, put_state

A, B, C = b"a" * 700, b"b" * 700, b"c" * 700
KINDS = {Space.COMMIT: Kind.COMMIT, Space.TREE: Kind.TREE, Space.NODE: Kind.NODE, Space.CHUNK: Kind.CHUNK}
NOWHERE = b"\7" * 16


def errors(report: FsckReport) -> set[str]:
    """Ids of what is wrong: errors and warnings."""
    return {found.id for found in report.findings if found.severity != "info"}


def put(store: Store, space: Space, key: bytes, value: bytes | None) -> None:
    """Put a value under a key, or with None take it away, behind the history's back."""
    with store.write(durable=True, room=None) as writer:
        if value is None:
            writer.delete(space, key)
        else:
            writer.put(space, key, value)


def flip(store: Store, space: Space, key: bytes) -> None:
    """Flip a bit of the last byte of a stored value."""
    with store.read() as reader:
        value = bytearray(reader.get(space, key) or b"")
    value[-1] ^= 1
    put(store, space, key, bytes(value))


def keys(store: Store, space: Space) -> list[bytes]:
    with store.read() as reader:
        return list(reader.keys(space))


def tip(history: History) -> bytes:
    return bytes.fromhex(history.resolve("main").id)


def publish(history: History, root: Map, nodes: list[StorageNode] = []) -> None:  # noqa: B006
    """Commit a tree as it is, right or wrong, and nodes with it."""
    with Ingest(history.store, history.scheme, "none") as ingest:
        for node in nodes:
            ingest.add_node(node)
        tree = write_tree(root, (), ingest.add_tree)
        described = describe(history, tree, history._tip, "by hand", None)
        history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)


def record(length: int, storage: bytes | NodeRef, alias: int | None = None) -> TensorRecord:
    return TensorRecord("uint8", (length,), None, 0, storage, alias, 0)


def put_tree(history: History, item: object) -> bytes:
    """Store a tree object of these very bytes, right or wrong."""
    raw = msgspec.msgpack.encode(item)
    oid = history.scheme.digest(Kind.TREE, raw)
    put(history.store, Space.TREE, oid, encode(Kind.TREE, oid, raw, "none"))
    return oid


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


def abandon(history: History) -> None:
    history.rollback("HEAD~1")
    history.expire_reflog()


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
    assert errors(report) == {"damaged-counter", "damaged-ref", "stray-key"}
    assert (report.counts["damaged-ref"], report.counts["stray-key"]) == (2, 2)
    put(store, Space.META, b"reflog_next", b"\xff" * 8)
    assert history.fsck().counts["damaged-counter"] == 1


def test_a_chunk_that_is_not_as_long_as_its_place_is_found_where_it_is_read(history, store) -> None:
    commit(history, {"model": {"w": A}})
    (short,) = [oid for oid in keys(store, Space.CHUNK) if len(bytes_of(store, history, Space.CHUNK, oid)) == 700 % 256]
    node = StorageNode(512, 256, short * 2)
    ref = NodeRef(history.scheme.digest(Kind.NODE, msgspec.msgpack.encode([512, 256, short * 2])), 512)
    publish(history, Map((("w", record(512, ref)),)), [node])
    assert errors(history.fsck()) == {"wrong-length"}  # the other node gives it another length
    history.rollback("HEAD~1")
    abandoned = history.fsck(read_data=True)
    assert errors(abandoned) == {"wrong-length"}  # the reflog still leads there
    history.expire_reflog()
    assert history.fsck(read_data=True).ok


def bytes_of(store: Store, history: History, space: Space, oid: bytes) -> bytes:
    with store.read() as reader:
        frame = reader.get(space, oid)
        assert frame is not None
        return decode(history.scheme, KINDS[space], oid, frame)


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
        with Ingest(history.store, history.scheme, "none") as ingest:
            described = describe(history, root, history._tip, "", None)
            history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)
        assert says in history.fsck().findings[0].what
        with pytest.raises(CorruptObjectError):
            load(history, "HEAD")
        abandon(history)
        history.gc()


# -- whom it hurts


def test_a_finding_names_the_commits_and_the_paths_that_it_hurts(history, store) -> None:
    first = commit(history, {"model": {"w": A, "same": A, "v": B}, "optimizer": {"m": C}}, step=1)
    second = commit(history, {"model": {"w": A, "v": C}, "optimizer": {"m": B}}, step=2)
    commit(history, {"model": {"w": B}}, step=3)
    whole = history.scheme.digest(Kind.CHUNK, A[:256])
    put(store, Space.CHUNK, whole, None)
    (found,) = history.fsck().findings
    assert (found.id, found.object) == ("missing-chunk", whole.hex())
    assert [(one.id, one.step) for one in found.hurt.commits] == [(second.id, 2), (first.id, 1)]
    assert set(found.hurt.paths) == {"model.w", "model.same"}
    history.prune(Keep(last=2))
    assert [one.step for one in history.fsck().findings[0].hurt.commits] == [2]
    history.prune(Keep(last=2, parts={"model": Keep(last=1)}))
    assert history.fsck().ok


def test_of_a_state_of_which_parts_were_released_only_the_others_are_looked_at(history, store) -> None:
    wide = {f"part{n:04}": {"w": bytes([n % 250, 250]) * 350} for n in range(900)}  # a top level in pages
    commit(history, {**wide, "optimizer": {"m": C}}, step=1)
    commit(history, {"model": {"w": A}, "optimizer": {"m": B}}, step=2)
    commit(history, {"model": {"w": B}}, step=3)
    history.prune(Keep(last=3, parts={"optimizer": Keep(last=1)}))
    history.expire_reflog()
    assert history.gc().chunks
    assert not history.fsck(read_data=True).findings
    lost = history.scheme.digest(Kind.CHUNK, A[:256])
    put(store, Space.CHUNK, lost, None)
    (found,) = history.fsck().findings
    assert [one.step for one in found.hurt.commits] == [2] and found.hurt.paths == ("model.w",)
    put(store, Space.CHUNK, lost, encode(Kind.CHUNK, lost, A[:256]))
    for oid in keys(store, Space.TREE):
        flip(store, Space.TREE, oid)
        (found,) = history.fsck().findings
        assert (found.id, found.object) == ("damaged-tree", oid.hex())
        assert len(found.hurt.commits) == 1 and found.hurt.paths == ("",)
        flip(store, Space.TREE, oid)


def test_a_top_level_that_contradicts_itself_is_found_with_parts_released_too(history, store) -> None:
    commit(history, {"model": {}})
    page = put_tree(history, [PAGE, "key", None])
    root = put_tree(history, [PAGED, MAP, [page, page]])
    with Ingest(store, history.scheme, "none") as ingest:
        described = describe(history, root, history._tip, "", None)
        history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)
    with store.write(durable=True, room=None) as writer:
        add_mark(writer, tip(history), Mark(False, ("other",)))
    (found,) = history.fsck().findings
    assert found.id == "impossible-state" and "same key twice" in found.what


def test_a_state_that_is_no_mapping_is_whole_whatever_was_released(history, store) -> None:
    with Ingest(store, history.scheme, "none") as ingest:
        described = describe(history, put_tree(history, [LIST, 1, 2]), history._tip, "", None)
        history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)
    with store.write(durable=True, room=None) as writer:
        add_mark(writer, tip(history), Mark(False, ("model",)))
    assert not history.fsck().findings
    flip(store, Space.TREE, keys(store, Space.TREE)[0])
    assert history.fsck().findings[0].hurt.paths == ("",)


def test_items_of_lists_and_of_typed_values_have_paths_across_pages(history, store) -> None:
    with Ingest(store, history.scheme, "none") as ingest:
        records: list[Value] = []
        for n in range(1200):
            run = bytes([n % 256, n // 256]) * 300
            ids = [history.scheme.digest(Kind.CHUNK, run[at : at + 256]) for at in (0, 256, 512)]
            for at, oid in zip((0, 256, 512), ids, strict=True):
                ingest.add_chunk(oid, encode(Kind.CHUNK, oid, run[at : at + 256], "none"), 256)
            records.append(record(600, ingest.add_node(StorageNode(600, 256, b"".join(ids)))))
        ingest.flush()
        value = Map((("items", records), ("state", Typed("ordered_dict", Map((("m", records[3]),))))))
        tree = write_tree(value, (), ingest.add_tree)
        described = describe(history, tree, None, "", None)
        history._tip, _ = ingest.publish(described, expected=None, logical=0)
    assert not history.fsck(read_data=True).findings
    for n, paths in ((3, {"items.3", "state.m"}), (1100, {"items.1100"})):
        put(store, Space.CHUNK, history.scheme.digest(Kind.CHUNK, bytes([n % 256, n // 256]) * 128), None)
        assert paths in [set(found.hurt.paths) for found in history.fsck().findings]


def test_a_commit_that_is_missing_names_those_that_follow_it(history, store) -> None:
    lost = commit(history, {"model": {"w": A}}, step=1)
    follows = commit(history, {"model": {"w": B}}, step=2)
    history.expire_reflog()
    put(store, Space.COMMIT, bytes.fromhex(lost.id), None)
    found = history.fsck().findings[0]
    assert (found.id, found.object) == ("missing-commit", lost.id)
    assert [(one.id, one.step) for one in found.hurt.commits] == [(follows.id, 2)]


def test_a_tree_in_pages_names_the_path_of_the_page_that_is_lost(history, store) -> None:
    many = {f"layer.{n}": bytes([n % 256]) * 700 + n.to_bytes(2, "big") for n in range(900)}
    commit(history, {"model": many, "optimizer": {"m": A}})
    trees = keys(store, Space.TREE)
    assert len(trees) > 2
    seen = set()
    for oid in trees:
        flip(store, Space.TREE, oid)
        (found,) = history.fsck().findings
        assert (found.id, found.object) == ("damaged-tree", oid.hex())
        seen.add(found.hurt.paths)
        flip(store, Space.TREE, oid)
    assert seen == {("",), ("model",)}
    node = history.scheme.digest(Kind.CHUNK, bytes([77]) * 256)
    flip(store, Space.CHUNK, node)
    (found,) = history.fsck(read_data=True).findings
    assert sorted(found.hurt.paths) == sorted(f"model.layer\\.{n}" for n in range(900) if n % 256 == 77)


def test_what_may_stand_behind_damage_is_not_taken_for_unreferenced(history, store) -> None:
    commit(history, {"model": {"w": A}})
    for space in (Space.TREE, Space.CHUNK):
        flip(store, space, keys(store, space)[0])
    report = history.fsck(read_data=True)
    assert set(report.counts) == {"damaged-tree", "damaged-chunk"}
    flip(store, Space.TREE, keys(store, Space.TREE)[0])
    flip(store, Space.NODE, keys(store, Space.NODE)[0])
    put(store, Space.REF, b"branch/main", NOWHERE)
    put(store, Space.REFLOG, bytes(8), None)
    report = history.fsck(read_data=True)
    assert set(report.counts) == {"dangling-ref", "damaged-node", "damaged-chunk"}


def test_of_too_many_findings_the_first_are_kept_and_all_are_counted(history, store, monkeypatch) -> None:
    for module in ("findings", "structure", "data"):
        monkeypatch.setattr(f"casckpt.history.fsck.{module}.MAX_FINDINGS", 3)
    monkeypatch.setattr("casckpt.history.fsck.hurt.MAX_HURT", 2)
    for step in range(5):
        runs = {f"r{n}": bytes([n, step]) * 350 for n in range(4)} | {f"s{n}": A for n in range(4)}
        commit(history, {"model": runs})
    chunks = keys(store, Space.CHUNK)
    for oid in chunks:
        flip(store, Space.CHUNK, oid)
    report = history.fsck(read_data=True)
    assert report.counts == {"damaged-chunk": len(chunks)}
    assert len(report.findings) == 3
    for oid in chunks:
        put(store, Space.CHUNK, oid, None)
    report = history.fsck()
    assert report.counts == {"missing-chunk": len(chunks)} and len(report.findings) == 3
    monkeypatch.setattr("casckpt.history.fsck.structure.MAX_FINDINGS", 1000)
    monkeypatch.setattr("casckpt.history.fsck.findings.MAX_FINDINGS", 1000)
    shared = next(
        one for one in history.fsck().findings if one.object == history.scheme.digest(Kind.CHUNK, A[:256]).hex()
    )
    assert (len(shared.hurt.commits), shared.hurt.more_commits) == (2, 3)
    assert (len(shared.hurt.paths), shared.hurt.more_paths) == (2, 2)


# -- any damage to any object, against what loading says

STATES = st.lists(
    st.dictionaries(
        st.sampled_from(["model", "optimizer", "ema"]),
        st.dictionaries(
            st.sampled_from(["w", "b", "x.y"]), st.sampled_from([A, B, A + B, B + A, b"tiny", C * 9]), max_size=3
        ),
        max_size=3,
    ),
    min_size=1,
    max_size=4,
)


def reachable(history: History) -> list[tuple[Space, bytes]]:
    """Every object that a state of the log needs, and the commits."""
    found: set[tuple[Space, bytes]] = set()

    def work(commits):
        objects = commits.objects
        for one in history.log():
            oid = bytes.fromhex(one.id)
            found.add((Space.COMMIT, oid))

            def fetch(tree):
                found.add((Space.TREE, tree))
                return objects.tree(tree)

            for _, part in expand(fetch(commits.stored(oid).tree), fetch).entries:
                for _, run in part.entries:
                    if isinstance(run.storage, NodeRef):
                        found.add((Space.NODE, run.storage.id))
                        found.update((Space.CHUNK, chunk) for chunk in objects.node(run.storage.id).ids())

    history.reading(work)
    return sorted(found, key=lambda one: (one[0].value, one[1]))


@settings(max_examples=150, deadline=None)
@given(states=STATES, data=st.data())
def test_any_damage_to_any_object_is_found_and_hurts_exactly_the_commits_that_do_not_load(states, data) -> None:
    store = MemoryStore(chunk_size=256)
    history = History(store)
    made = [commit(history, state, step=step, time=step) for step, state in enumerate(states)]
    assert not history.fsck(read_data=True).findings
    objects = reachable(history)
    space, key = data.draw(st.sampled_from(objects))
    frame = bytearray(store._contents[space][key])
    how = data.draw(st.sampled_from(["flip", "cut", "grow", "exchange", "remove"]))
    if how == "flip":
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del frame[data.draw(st.integers(0, len(frame) - 1)) :]
    elif how == "grow":
        frame += b"\0"
    elif how == "exchange":
        others = [one for one in objects if one != (space, key)]
        other = data.draw(st.sampled_from(others)) if others else (space, key)
        frame = bytearray(store._contents[other[0]][other[1]]) if others else bytearray(b"nothing")
    put(store, space, key, None if how == "remove" else bytes(frame))
    kind = space.name.lower()
    without = history.fsck()
    report = history.fsck(read_data=True)
    assert not report.ok
    names = {"missing-commit", "dangling-ref", "dangling-reflog-entry"} if kind == "commit" else {f"missing-{kind}"}
    names = names if how == "remove" else {f"damaged-{kind}"}
    assert errors(report) <= names
    assert all(found.object == key.hex() for found in report.findings if found.severity == "error")
    if space is Space.CHUNK and how != "remove":
        assert without.ok
    else:
        assert errors(without) == errors(report)
    if kind != "commit":
        history._known.clear()
        assert {one.id for one in report.findings[0].hurt.commits} == {
            one.id for one in made if not loads(history, one.id)
        }


def loads(history: History, revision: str) -> bool:
    try:
        load(history, revision)
    except (CorruptObjectError, MissingObjectError, CasckptError):
        return False
    return True


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
    with Ingest(store, history.scheme, "none") as ingest:  # a save that never ends
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
