"""What many commits, refs or moves share is looked at once by salvage: counted in calls, never in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from casckpt.history.records import WHOLE, Mark
from casckpt.history.salvage import evidence, plan, remains, states, tops
from casckpt.history.salvage.evidence import Evidence
from casckpt.history.salvage.remains import Remains, look_through
from casckpt.history.salvage.states import Hurt, States
from casckpt.objects.codec import encode
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import canonical, write_tree
from casckpt.objects.values import Map, Paged, TensorRecord, Value
from casckpt.store.protocol import no_progress
from casckpt.store.scan import Scanned
from tests.history.test_salvage_chains import written

MANY = 300
NAMES = [f"part {number}" for number in range(MANY)]
ID = bytes(16)


class Calls:
    """Counts calls, or what was sorted, in the place of a function."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real = real
        self.count = 0

    def __call__(self, *args: Any, **more: Any) -> Any:
        self.count += 1
        return self.real(*args, **more)


class Sorting(Calls):
    def __call__(self, items: Iterable[Any], **more: Any) -> Any:
        there = list(items)
        self.count += len(there)
        return sorted(there, **more)


class Asked(dict[int, Any]):
    """A dictionary that counts who asks it."""

    count = 0

    def get(self, key: int, default: Any = None) -> Any:
        self.count += 1
        return super().get(key, default)


def move(seq: int, ref: str, new: bytes) -> tuple[bytes, bytes]:
    return seq.to_bytes(8, "big"), msgspec.msgpack.encode((seq, ref, None, new, "commit"))


# -- what is no object -------------------------------------------------------------------------------------------------


def test_marks_of_one_commit_are_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sorting = Sorting(sorted)
    monkeypatch.setattr(evidence, "sorted", sorting, raising=False)
    found = Evidence(16)
    for number, name in enumerate(NAMES):
        found.entry(ID, msgspec.msgpack.encode((number == 7, [name])))
    assert dict(found.known_marks()) == {ID: Mark(True, tuple(sorted(NAMES)))}
    assert sorting.count <= MANY


def test_moves_are_looked_through_once_however_many_refs_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    sorting = Sorting(sorted)
    monkeypatch.setattr(evidence, "sorted", sorting, raising=False)
    found = Evidence(16)
    for number in range(MANY):
        found.entry(*move(number, f"branch/{number}", bytes([number % 256]) * 16))
    positions = list(found.positions())
    histories = found.histories()
    assert [plan._place(one, histories, {})[0] for one in positions] == [None] * MANY
    assert histories["branch/7"] == [bytes([7]) * 16]
    assert sorting.count <= 3 * MANY


def test_whether_moves_are_missing_is_found_out_once() -> None:
    found = Evidence(16)
    for number in range(MANY):
        found.entry(*move(number, f"branch/{number}", ID))
    found.settled = True
    found.moves = asked = Asked(found.moves)
    assert [one.certain for one in found.positions()] == [True] * MANY
    assert asked.count <= 2 * MANY
    del found.moves[MANY // 2]
    assert sum(one.certain for one in found.positions()) == MANY // 2 - 1


def test_many_that_want_one_name_get_numbers_without_asking_for_each() -> None:
    class Taken(set[str]):
        count = 0

        def __contains__(self, name: object) -> bool:
            self.count += 1
            return super().__contains__(name)

    names = plan._Names()
    names.taken = taken = Taken({"salvaged/a-3"})
    given = [names.free("salvaged/a", ID) for _ in range(MANY)]
    assert given[:4] == ["salvaged/a", "salvaged/a-2", "salvaged/a-4", "salvaged/a-5"] and len(set(given)) == MANY
    assert taken.count <= 2 * MANY


# -- states ------------------------------------------------------------------------------------------------------------


class File:
    """Frames of tree objects, to be written into a file."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def tree(self, raw: bytes) -> bytes:
        oid = XXH3_128.digest(Kind.TREE, raw)
        self.frames.append(encode(Kind.TREE, oid, raw))
        return oid

    def state(self, value: Value) -> bytes:
        return write_tree(value, (), self.tree)

    def open(self, path: Path) -> Remains:
        file = Scanned(written(path, self.frames))
        return Remains(file, look_through(file, no_progress)[0], XXH3_128, [])


def lost(number: int) -> TensorRecord:
    """A tensor whose bytes are nowhere."""
    return TensorRecord("uint8", (8,), None, 0, NodeRef(number.to_bytes(16, "big"), 8), None, 0)


def looked(found: Remains, asked: list[tuple[bytes, Mark]]) -> tuple[States, list[Hurt | None]]:
    """What is told of states, in the three rounds."""
    look = States(found)
    for root, mark in asked:
        look.reach(root, mark)
    look.decide(())
    told = [look.hurt(root, mark) for root, mark in asked]
    look.give_anew()
    for (root, mark), hurt in zip(asked, told, strict=True):
        if hurt is None or hurt.parts is not None:
            list(look.objects(root, Mark(False, (*mark.released, *(hurt.parts if hurt else ())))))
    return look, told


def test_the_parts_of_one_state_are_looked_at_once_for_all_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each commit another part was released."""
    file = File()
    root = file.state(Map(tuple((name, lost(7) if name == NAMES[5] else b"x" * 20) for name in NAMES)))
    calls = Calls(states.references)
    monkeypatch.setattr(states, "references", calls)
    asked = [(root, Mark(False, (name,))) for name in NAMES]
    _, told = looked(file.open(tmp_path / "file"), asked)
    expected = Hurt((NAMES[5],), frozenset({(Kind.NODE, (7).to_bytes(16, "big"))}))
    assert told == [None if name == NAMES[5] else expected for name in NAMES]
    assert calls.count <= 5 * MANY


def test_a_state_of_which_nothing_is_lost_is_not_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many states share its pages, each is decoded once in a round."""
    file = File()
    pages = tuple(file.tree(msgspec.msgpack.encode([10, f"{number}", number])) for number in range(20))
    roots = [
        file.tree(canonical(Paged(3, (*pages, file.tree(msgspec.msgpack.encode([10, name, 1])))))) for name in NAMES
    ]
    calls = Calls(remains.decode_tree)
    monkeypatch.setattr(remains, "decode_tree", calls)
    monkeypatch.setattr(tops, "decode_tree", calls)
    _, told = looked(file.open(tmp_path / "file"), [(root, WHOLE) for root in sorted(roots)])
    assert told == [None] * MANY
    assert calls.count <= 3 * (2 * MANY + len(pages))


def test_so_many_top_levels_are_taken_apart_and_then_states_are_lost_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roots that share a page of which something is lost: what is not told in parts is told."""
    file = File()
    big = file.tree(msgspec.msgpack.encode([10, "big", "x" * 30_000]))
    gone = file.tree(b"\x93\x0a\xa1l" + canonical(lost(1)))
    own = [file.tree(msgspec.msgpack.encode([10, name, 1])) for name in NAMES]
    roots = sorted(file.tree(canonical(Paged(3, (big, gone, one)))) for one in own)
    calls = Calls(tops.decode_tree)
    monkeypatch.setattr(tops, "decode_tree", calls)
    monkeypatch.setattr(tops, "_TIMES", 1)
    monkeypatch.setattr(tops, "_LEAST", 0)
    found = file.open(tmp_path / "file")
    _, told = looked(found, [(root, WHOLE) for root in roots])
    assert {one.parts for one in told if one} == {("l",), None} and None not in told
    assert calls.count * 30_000 // 4 <= 3 * found.file.size + 200_000
    monkeypatch.undo()
    _, told = looked(found, [(root, WHOLE) for root in roots[:100]])
    assert {one.parts for one in told if one} == {("l",)}


def test_names_of_lost_parts_are_told_as_long_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = File()
    root = file.state(Map(tuple((name, lost(7) if number else b"x") for number, name in enumerate(NAMES))))
    monkeypatch.setattr(states, "_TIMES", 1)
    monkeypatch.setattr(states, "_LEAST", 0)
    found = file.open(tmp_path / "file")
    look, told = looked(found, [(root, WHOLE)] * MANY)
    names = sum(len(name) for one in told if one and one.parts for name in one.parts)
    assert told[0] and told[0].parts == tuple(sorted(NAMES[1:])) and told[-1] and told[-1].parts is None
    assert names <= found.file.size + sum(map(len, NAMES))
    assert not look.wanted


def test_a_tree_that_leads_to_itself_is_lost_and_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids can be made to collide; here the hash is one that says so."""
    file = File()
    root = file.tree(b"root")
    calls = Calls(lambda raw, size: Map(((b"%d" % size, Paged(3, (root,) * MANY)),)))
    monkeypatch.setattr(remains, "decode_tree", calls)
    _, told = looked(file.open(tmp_path / "file"), [(root, WHOLE)])
    assert told == [Hurt(None, frozenset({(Kind.TREE, root)}))]
    assert calls.count == 2
