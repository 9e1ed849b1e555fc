"""fsck names the commits and the paths that damage hurts: exactly those that do not load."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from casckpt.errors import CasckptError, CorruptObjectError, MissingObjectError
from casckpt.history.ingest import Ingest
from casckpt.history.records import Mark, add_mark
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.objects.codec import encode
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode
from casckpt.objects.tree import LIST, MAP, PAGE, PAGED, expand, write_tree
from casckpt.objects.values import Map, Typed, Value
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.damage import (
    NOWHERE,
    A,
    B,
    C,
    errors,
    flip,
    keys,
    put,
    put_tree,
    record,
    tip,
)
from tests.history.world import commit, describe, load

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
    with Ingest(store, history.scheme) as ingest:
        described = describe(history, root, history._tip, "", None)
        history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)
    with store.write(durable=True, room=None) as writer:
        add_mark(writer, tip(history), Mark(False, ("other",)))
    (found,) = history.fsck().findings
    assert found.id == "impossible-state" and "same key twice" in found.what


def test_a_state_that_is_no_mapping_is_whole_whatever_was_released(history, store) -> None:
    with Ingest(store, history.scheme) as ingest:
        described = describe(history, put_tree(history, [LIST, 1, 2]), history._tip, "", None)
        history._tip, _ = ingest.publish(described, expected=history._tip, logical=0)
    with store.write(durable=True, room=None) as writer:
        add_mark(writer, tip(history), Mark(False, ("model",)))
    assert not history.fsck().findings
    flip(store, Space.TREE, keys(store, Space.TREE)[0])
    assert history.fsck().findings[0].hurt.paths == ("",)


def test_items_of_lists_and_of_typed_values_have_paths_across_pages(history, store) -> None:
    with Ingest(store, history.scheme) as ingest:
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


def test_a_state_that_holds_the_same_too_often_to_be_loaded_is_found(history, store, monkeypatch) -> None:
    page = put_tree(history, [1, *range(2000)])
    root = put_tree(history, [MAP, "same", [1, *[[8, page]] * 20]])
    with Ingest(store, history.scheme) as ingest:
        ingest.publish(describe(history, root, None, "", 1), expected=None, logical=0)
    assert history.fsck().ok
    for module in ("casckpt.objects.bounded", "casckpt.history.fsck.structure"):
        monkeypatch.setattr(f"{module}.MAX_REPEATED", 30_000)
    (found,) = history.fsck().findings
    assert found.id == "impossible-state" and "over and over" in found.what
    for module in ("casckpt.objects.bounded", "casckpt.history.fsck.structure"):
        monkeypatch.setattr(f"{module}.MAX_REPEATED", 100_000)
    assert history.fsck().ok
