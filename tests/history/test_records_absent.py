"""A record that is absent only since a bit of its key flipped is not taken for one that never was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest

from casckpt.errors import CorruptObjectError
from casckpt.history.records import all_refs, expire_moves, gc_epoch, get_head, get_ref, move_gc_epoch, reflog_next
from casckpt.history.repository import History
from casckpt.store.format import FORMAT_VERSION
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.damage import errors
from tests.history.world import commit, load


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(chunk_size=256)


@pytest.fixture
def history(store: MemoryStore) -> Iterator[History]:
    """HEAD is at the branch `exp`, and a commit is there that only the reflog leads to."""
    with History(store) as history:
        commit(history, {"model": {"w": b"1" * 900}})
        history.switch("exp", create=True)
        commit(history, {"model": {"w": b"2" * 900}})
        commit(history, {"model": {"w": b"3" * 900}})
        history.rollback("HEAD~1")
        history.tag("t")
        history.gc()
        yield history


def hit(store: MemoryStore, space: Space, key: bytes, bit: int) -> None:
    """Flip a bit of a key."""
    damaged = bytearray(key)
    damaged[bit // 8] ^= 1 << bit % 8
    with store.write(durable=True, room=None) as writer:
        value = writer.get(space, key)
        assert value is not None and writer.get(space, bytes(damaged)) is None
        writer.put(space, bytes(damaged), bytes(value))
        writer.delete(space, key)


def contents(store: MemoryStore) -> dict[tuple[Space, bytes], bytes]:
    with store.read() as reader:
        return {(space, key): bytes(value) for space in Space for key, value in reader.items(space)}


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
@pytest.mark.parametrize("bit", [0, 43, 87])
def test_moves_are_not_written_over_those_that_are_there_where_their_counter_is_lost(version: int, bit: int) -> None:
    """It was taken for 0: the next commits took the numbers of moves that alone kept others, and gc took those."""
    store = MemoryStore(chunk_size=256)
    store.format = replace(store.format, version=version)
    with History(store) as history:
        for step in range(3):
            made = commit(history, {"model": {"w": b"%d" % step * 900}})
        history.rollback("HEAD~1")
        hit(store, Space.META, b"reflog_next", bit)
        before = contents(store)
        for work in (lambda: commit(history, {"model": {}}), lambda: history.tag("t"), history.gc):
            with pytest.raises(CorruptObjectError):
                work()
        moves = [key for space, key in before if space is Space.REFLOG]
        assert {at: contents(store)[at] for at in before} == before and len(moves) == 4
        assert load(history, made.id) == {"model": {"w": b"2" * 900}}
        assert "damaged-counter" in history.fsck().counts


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_a_counter_that_moves_have_passed_is_never_counted_on_from(version: int) -> None:
    store = MemoryStore(chunk_size=256)
    store.format = replace(store.format, version=version)
    with History(store) as history:
        commit(history, {"model": {}})
        early = dict(store._contents[Space.META])
        commit(history, {"model": {"w": b"x"}})
        store._contents[Space.META][b"reflog_next"] = early[b"reflog_next"]
        with (
            store.read() as reader,
            pytest.raises(CorruptObjectError, match="entry 1 of the reflog, which goes on to 1"),
        ):
            reflog_next(reader)
        with pytest.raises(CorruptObjectError):
            commit(history, {"model": {"w": b"y"}})


def test_a_counter_under_another_key_is_told_as_such(history: History, store: MemoryStore) -> None:
    """Also the one of gc, by which a save knows that what it wants to share may be gone; nothing else told of it."""
    with store.write(durable=True, room=None) as writer:
        move_gc_epoch(writer)
        expire_moves(writer, [int.from_bytes(key, "big") for key in writer.keys(Space.REFLOG)])
    for key, read in ((b"gc_epoch", gc_epoch), (b"reflog_next", reflog_next)):
        before = contents(store)
        hit(store, Space.META, key, 8 * len(key) - 8)
        with (
            store.read() as reader,
            pytest.raises(CorruptObjectError, match=f"the counter '{key.decode()}' stands under"),
        ):
            read(reader)
        assert errors(history.fsck()) == {"damaged-counter", "stray-key"}
        store._contents = {space: {} for space in Space}
        for (space, one), value in before.items():
            store._contents[space][one] = value


@pytest.mark.parametrize("bit", range(0, 80, 3))
def test_no_branch_begins_anew_where_the_key_of_its_record_was_hit(
    history: History, store: MemoryStore, bit: int
) -> None:
    """The branch seemed to be empty: a run of training would have begun from nothing, and nobody told."""
    hit(store, Space.REF, b"branch/exp", bit)
    before = contents(store)
    for work in (lambda: History(store), lambda: History(store, "exp"), lambda: history.branch("exp")):
        with pytest.raises(CorruptObjectError, match="the ref"):
            work()
    with pytest.raises(CorruptObjectError, match="the ref"):
        commit(history, {"model": {}})
    assert {at: contents(store)[at] for at in before} == before
    assert history.fsck().counts["damaged-ref"] == 1
    assert History(store, "main").resolve("HEAD").step is None  # whose record is whole


def test_no_tag_is_made_anew_where_the_key_of_its_record_was_hit(history: History, store: MemoryStore) -> None:
    hit(store, Space.REF, b"tag/t", 39)
    made = history.resolve("HEAD").id  # whatever is hit
    for work in (lambda: history.tag("t"), lambda: history.resolve("t")):
        with pytest.raises(CorruptObjectError, match="the ref"):
            work()
    assert history.resolve(made).id == made


def test_a_commit_whose_refs_are_there_looks_at_no_other_refs(history: History, store: MemoryStore) -> None:
    """Else each would cost time for every tag."""
    with patch("casckpt.history.records._check_not_elsewhere") as looked:
        made = commit(history, {"model": {"w": b"more"}})
        assert history.resolve(made.id).id == made.id
        history.rollback("HEAD~1")
        History(store).gc()
    assert not any(call.args[1] is Space.REF for call in looked.call_args_list)


@pytest.mark.parametrize("bit", range(32))
def test_no_handle_is_bound_to_main_where_the_key_of_head_was_hit(
    history: History, store: MemoryStore, bit: int
) -> None:
    hit(store, Space.REF, b"HEAD", bit)
    with pytest.raises(CorruptObjectError, match="the ref"):
        History(store)
    with store.read() as reader, pytest.raises(CorruptObjectError, match="the ref"):
        get_head(reader)
    assert history.fsck().counts["damaged-ref"] == 1


def test_refs_are_listed_whole_or_not_at_all(history: History, store: MemoryStore) -> None:
    """The list of branches ended where a key was hit that does not begin as theirs do."""
    hit(store, Space.REF, b"branch/exp", 3)
    with pytest.raises(CorruptObjectError, match="neither a branch nor a tag"):
        history.refs()


@pytest.mark.parametrize("key", [b"tag/t", b"branch/main"])
def test_a_ref_that_was_hit_keeps_nobody_from_the_others(store: MemoryStore, key: bytes) -> None:
    """A store that was never switched has no HEAD, so to look for it among all refs is what each opening does."""
    history = History(store)
    commit(history, {"model": {"w": b"1" * 900}})
    history.branch("exp")
    history.tag("t")
    history.tag("v1")
    value = bytearray(store._contents[Space.REF][key])
    value[0] ^= 1
    store._contents[Space.REF][key] = bytes(value)
    history = History(store, "exp")
    assert history.resolve("v1").id == history.resolve("exp").id == history.resolve(history.resolve("v1").id[:8]).id
    commit(history, {"model": {"w": b"2" * 900}})
    history.tag("v2")
    history.branch("new")
    with store.read() as reader, pytest.raises(CorruptObjectError):
        get_ref(reader, key.decode())
    assert History(store, "exp").resolve("HEAD").id == History(store, "new").resolve("HEAD").id


@pytest.mark.parametrize("bit", [7, 23, 62])
def test_an_entry_of_the_reflog_whose_key_was_hit_ends_no_writing(
    history: History, store: MemoryStore, bit: int
) -> None:
    """It may stand at the end now, with a number to which nobody has counted."""
    hit(store, Space.REFLOG, (1).to_bytes(8, "big"), bit)
    commit(history, {"model": {"w": b"more"}})
    history.tag("new")
    assert "damaged-reflog-entry" in history.fsck().counts
    with store.read() as reader:
        assert reflog_next(reader) < 20


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_what_is_absent_in_a_sound_store_is_just_that(version: int) -> None:
    store = MemoryStore(chunk_size=256)
    store.format = replace(store.format, version=version)
    with History(store) as history:
        with store.read() as reader:
            assert (get_head(reader), get_ref(reader, "branch/main")) == ("main", None)
            assert (gc_epoch(reader), reflog_next(reader), list(all_refs(reader))) == (0, 0, [])
        commit(history, {"model": {}})
        history.tag("t")
        history.branch("b")
        history.delete_tag("t")
        history.expire_reflog()
        with store.read() as reader:
            assert get_ref(reader, "tag/t") is None and [ref for ref, _ in all_refs(reader)] == [
                "branch/b",
                "branch/main",
            ]
        assert history.fsck(read_data=True).findings == ()
