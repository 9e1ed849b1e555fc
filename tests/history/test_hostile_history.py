"""History that is made to harm ends in a typed error, in bounded time and memory: trees and commits that lead to
themselves, on and on, or stand for more than there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from casckpt.errors import CorruptObjectError, UnknownRevisionError
from casckpt.history.lineage import Lineage
from casckpt.history.records import Mark, add_mark
from casckpt.history.repository import History
from casckpt.objects.codec import encode
from casckpt.objects.commit import CommitObject, pack_commit
from casckpt.objects.ids import Kind
from casckpt.objects.tree import canonical
from casckpt.objects.values import Map, TreeRef, Typed
from casckpt.store.protocol import Space
from tests.history.damage import put
from tests.history.world import commit


def planted(history: History, kind: Kind, raw: bytes) -> bytes:
    """Store an object as it is; returns its id."""
    oid = history.scheme.digest(kind, raw)
    put(history.store, Space[kind.name], oid, encode(kind, oid, raw))
    return oid


def publish(history: History, tree: bytes, parents: tuple[bytes, ...] = ()) -> bytes:
    """A commit of any tree, to which the branch moves."""
    raw = pack_commit(CommitObject(tree, parents, "main", 1, (), "", 5, "h", Map(())))
    oid = planted(history, Kind.COMMIT, raw)
    put(history.store, Space.REF, b"branch/main", oid)
    history._tip = oid
    return oid


def chain_of_trees(history: History, levels: int, times: int, leaf: int) -> bytes:
    """Trees each of which refers to the next, so many times."""
    oid = planted(history, Kind.TREE, canonical(["leaf", leaf]))
    for _ in range(levels):
        oid = planted(history, Kind.TREE, canonical([TreeRef(oid)] * times))
    return oid


LOOKS: dict[str, Callable[[History], object]] = {
    "diff": lambda history: history.diff("main^", "main"),
    "diff of paths": lambda history: history.diff("main^", "main", paths="*x"),
    "ls": lambda history: history.ls("main"),
    "ls of paths": lambda history: history.ls("main", "*x"),
    "parts": lambda history: history.parts("main"),
    "repack": lambda history: history.repack(),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(("levels", "times"), [(60, 2), (130, 1)])
def test_states_without_end_are_told_by_whoever_follows_them(
    history: History, look: str, levels: int, times: int
) -> None:
    first = publish(history, chain_of_trees(history, levels, times, 1))
    publish(history, chain_of_trees(history, levels, times, 2), (first,))
    with pytest.raises(CorruptObjectError, match="over and over|deeper than"):  # noqa: RUF043
        LOOKS[look](history)


def test_what_takes_each_tree_once_takes_such_states_as_they_come(history: History) -> None:
    publish(history, chain_of_trees(history, 60, 2, 1))
    history.stats()
    history.gc()
    assert history.codec_stats().total.chunks == 0
    assert list(history.log())
    assert "impossible-state" in {found.id for found in history.fsck().findings}


def believing(history: History) -> dict[bytes, bytes]:
    """Have the history take planted objects for those of any id: what an attacker makes of a hash that keeps out
    accidents only. Gives the ids by contents."""
    ids: dict[bytes, bytes] = {}
    scheme = history.scheme
    history.scheme = dataclasses.replace(
        scheme, digest=lambda kind, data: ids.get(bytes(data)) or scheme.digest(kind, data)
    )
    return ids


@pytest.mark.parametrize("look", ["diff of paths", "ls", "ls of paths", "parts"])
def test_a_tree_that_leads_to_itself_is_told(history: History, look: str) -> None:
    ids = believing(history)
    for name in (b"1" * 16, b"2" * 16):
        raw = canonical([TreeRef(name), name[0]])
        ids[raw] = name
        planted(history, Kind.TREE, raw)
    first = publish(history, b"1" * 16)
    publish(history, b"2" * 16, (first,))
    with pytest.raises(CorruptObjectError, match="over and over|deeper than"):  # noqa: RUF043
        LOOKS[look](history)


def test_a_commit_that_is_its_own_ancestor_is_told(history: History) -> None:
    tree = planted(history, Kind.TREE, canonical(Map(())))
    ids = believing(history)
    for name, parent in ((b"1" * 16, b"2" * 16), (b"2" * 16, b"1" * 16)):
        raw = pack_commit(CommitObject(tree, (parent,), "main", 1, (), "", 5, "h", Map(())))
        ids[raw] = name
        planted(history, Kind.COMMIT, raw)
    put(history.store, Space.REF, b"branch/main", b"1" * 16)
    assert len(list(history.log())) == 2
    with pytest.raises(CorruptObjectError, match="its own ancestors"):
        history.resolve("main~999999999")
    with pytest.raises(CorruptObjectError, match="its own ancestors"):
        history.codec_stats()
    with pytest.raises(CorruptObjectError, match="its own ancestors"):
        history.repack()

    with history.store.write(durable=True, room=None) as writer:
        for name in (b"1" * 16, b"2" * 16):
            add_mark(writer, name, Mark(True, ()))

    def holder(commits) -> None:  # type: ignore[no-untyped-def]
        Lineage(commits.objects)._holder(b"1" * 16, "part")

    with pytest.raises(CorruptObjectError, match="its own ancestors"):
        history.reading(holder)


def test_a_revision_takes_time_in_proportion_to_its_length(history: History) -> None:
    commit(history, {"model": {}})
    for revision in ("~1" * 100_000 + "x", "^~" * 100_000 + "}", "main" + "^~0" * 50_000):
        with pytest.raises(UnknownRevisionError):
            history.resolve(revision)


def test_metadata_that_is_not_plain_is_damage(history: History) -> None:
    tree = planted(history, Kind.TREE, canonical(Map(())))
    for meta in (Map((("a", Typed("set", [])),)), Map(((1, 2),)), Map((("a", TreeRef(tree)),))):
        raw = pack_commit(CommitObject(tree, (), "main", 1, (), "", 5, "h", meta))
        oid = planted(history, Kind.COMMIT, raw)
        with pytest.raises(CorruptObjectError, match="no mapping of plain values"):
            history.resolve(oid.hex())
