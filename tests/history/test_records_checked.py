"""Whatever bit flips in a record beside the objects, and whichever two records change places, somebody is told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest

from casckpt.errors import CorruptObjectError
from casckpt.history.records import Mark, add_mark, all_refs, gc_epoch, get_figures, get_mark, moves_since, reflog_next
from casckpt.history.repository import History
from casckpt.store.checked import CHECKED_SPACES, COUNTERS
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Reader, Space
from tests.history.damage import errors
from tests.history.world import commit

TOLD = {
    Space.REF: "damaged-ref",
    Space.REFLOG: "damaged-reflog-entry",
    Space.MARK: "damaged-mark",
    Space.FIGURES: "damaged-figures",
    Space.META: "damaged-counter",
}
SPACES = (*CHECKED_SPACES, Space.META)


@pytest.fixture
def history() -> Iterator[History]:
    """With several records in every space; one commit was pruned, of one a part was released."""
    with History(MemoryStore(chunk_size=256)) as history:
        made = [commit(history, {"model": {"w": b"%d" % n * 300}, "optimizer": {"m": b"m" * n}}) for n in range(4)]
        history.tag("t", at=made[1].id)
        history.branch("b", at=made[2].id)
        history.switch("b")
        with history.store.write(durable=True, room=None) as writer:
            add_mark(writer, bytes.fromhex(made[0].id), Mark(True, ()))
            add_mark(writer, bytes.fromhex(made[1].id), Mark(False, ("optimizer",)))
        history.gc()
        assert history.fsck(read_data=True).findings == ()
        yield history


def raw(history: History, space: Space) -> dict[bytes, bytes]:
    with history.store.read() as reader:
        found = {key: bytes(value) for key, value in reader.items(space)}
    return {key: found[key] for key in COUNTERS} if space is Space.META else found


def put(history: History, space: Space, key: bytes, value: bytes | None) -> None:
    with history.store.write(durable=True, room=None) as writer:
        if value is None:
            writer.delete(space, key)
        else:
            writer.put(space, key, value)


def read_all(reader: Reader) -> None:
    gc_epoch(reader), reflog_next(reader), list(all_refs(reader)), list(moves_since(reader, 0))
    for oid in reader.keys(Space.COMMIT):
        get_mark(reader, oid), get_figures(reader, oid)


@pytest.mark.parametrize("space", SPACES)
def test_any_bit_that_flips_in_a_value_is_told_by_whoever_reads_it_and_by_fsck(history: History, space: Space) -> None:
    records = raw(history, space)
    assert len(records) >= 2
    for key, value in list(records.items())[:3]:
        for bit in range(8 * len(value)):
            damaged = bytearray(value)
            damaged[bit // 8] ^= 1 << bit % 8
            put(history, space, key, bytes(damaged))
            assert TOLD[space] in history.fsck().counts, (key, bit)
            if key != b"HEAD":
                with history.store.read() as reader, pytest.raises(CorruptObjectError, match="is not what was written"):
                    read_all(reader)
        put(history, space, key, value)
    assert history.fsck().findings == ()


@pytest.mark.parametrize("space", SPACES)
def test_any_bit_that_flips_in_a_key_is_told_by_fsck(history: History, space: Space) -> None:
    records = raw(history, space)
    for key, value in list(records.items())[:3]:
        for bit in range(8 * len(key)):
            damaged = bytearray(key)
            damaged[bit // 8] ^= 1 << bit % 8
            if bytes(damaged) in records:  # two of one key are a page that is damaged
                continue
            put(history, space, key, None)
            put(history, space, bytes(damaged), value)
            assert errors(history.fsck()) & {TOLD[space], "stray-key"}, (key, bit)
            put(history, space, bytes(damaged), None)
            put(history, space, key, value)
    assert history.fsck().findings == ()


@pytest.mark.parametrize("space", SPACES)
def test_two_records_that_changed_places_are_told_by_name(history: History, space: Space) -> None:
    for (one, first), (other, second) in combinations(raw(history, space).items(), 2):
        put(history, space, one, second)
        put(history, space, other, first)
        assert history.fsck().counts[TOLD[space]] >= 2, (one, other)
        put(history, space, one, first)
        put(history, space, other, second)
    assert history.fsck().findings == ()


def test_a_record_of_one_space_is_none_of_another(history: History) -> None:
    key = next(iter(raw(history, Space.MARK)))
    put(history, Space.FIGURES, key, raw(history, Space.MARK)[key])
    assert history.fsck().counts["damaged-figures"] == 1


def test_gc_takes_nothing_where_the_mark_of_a_commit_says_more_than_was_released(history: History) -> None:
    """One bit makes of a commit that was released in part one of which all was; gc took the rest."""
    (key,) = [key for key in raw(history, Space.MARK) if get(history, key).released]
    value = raw(history, Space.MARK)[key]
    assert value[1] == 0xC2  # false
    before = raw(history, Space.CHUNK)
    put(history, Space.MARK, key, value[:1] + b"\xc3" + value[2:])
    for work in (history.gc, lambda: list(history.log(None))):
        with pytest.raises(CorruptObjectError, match=f"the retention mark of commit {key.hex()}"):
            work()
    assert raw(history, Space.CHUNK) == before


def get(history: History, commit: bytes) -> Mark:
    with history.store.read() as reader:
        return get_mark(reader, commit)
