"""What salvage makes of bits that flipped in records beside the objects: it never brings back what was before."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import casckpt
from casckpt.errors import NewerFormatError
from casckpt.history.repository import History
from casckpt.store.layout import LEAF, PAGE
from casckpt.store.lmdb_store import open_store
from casckpt.store.nodes import read_nodes
from tests.history.damage import as_format
from tests.history.pages import SIZE, File
from tests.history.world import commit, noise


def state(number: int) -> dict[str, dict[str, bytes]]:
    return {"model": {"w": noise(number, 900)}}


def records(path: Path, tree: str) -> Iterator[tuple[int, bytes, bytes]]:
    """Every record that a tree has today: where its key begins in the file, the key and the value behind it."""
    data = (path / "data.mdb").read_bytes()
    for number, name in File(path).pages().items():
        if name == tree and PAGE.unpack_from(data, number * SIZE)[2] == LEAF:
            page = data[number * SIZE : (number + 1) * SIZE]
            for entry in read_nodes(page)[1]:
                yield number * SIZE + page.index(entry.key + entry.value), entry.key, entry.value


def record(path: Path, tree: str, wanted: bytes) -> tuple[int, bytes]:
    return next((at, value) for at, key, value in records(path, tree) if key == wanted)


def hit(path: Path, at: int, mask: int = 1) -> None:
    data = bytearray((path / "data.mdb").read_bytes())
    data[at] ^= mask
    (path / "data.mdb").write_bytes(data)


def hit_version(path: Path, mask: int) -> None:
    at, value = record(path, "meta", b"format")
    hit(path, at + len(b"format") + value.index(b"version") + len(b"version"), mask)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two commits, made through two handles, so that pages of the first are left."""
    path = tmp_path / "store"
    for number in range(2):
        with History(open_store(path, chunk_size=256)) as history:
            commit(history, state(number), step=number)
    return path


def test_a_ref_and_its_last_move_being_hit_no_older_commit_is_taken_for_its_last(path: Path, tmp_path: Path) -> None:
    """A page of before, which shows the ref at one commit only, was taken for all that there is to know of it."""
    at, _ = record(path, "ref", b"branch/main")
    hit(path, at + len(b"branch/main"))
    at, key, _ = list(records(path, "reflog"))[-1]
    hit(path, at + len(key) + 40)
    report = casckpt.salvage(path, tmp_path / "new")
    assert not report.complete
    assert "main" not in {ref.name for ref in report.refs}
    (main,) = [ref for ref in report.refs if ref.was == "branch/main"]
    assert main.doubt


def test_no_ref_is_elsewhere_under_its_own_name_whatever_two_records_are_hit(tmp_path: Path) -> None:
    chance = random.Random(5)
    looked = 0
    for trial in range(3):
        path = tmp_path / f"store {trial}"
        with History(open_store(path, chunk_size=256)) as history:
            commit(history, state(0))
            history.branch("b")
            for step in range(1, 3 + trial):
                if chance.randrange(3) == 0:
                    history.switch(chance.choice(["main", "b"]))
                commit(history, state(step))
            truth = {f"{ref.kind}/{ref.name}": ref.commit for ref in history.refs()}
        whole = (path / "data.mdb").read_bytes()
        spots = [(at, len(key) + len(value)) for tree in ("ref", "reflog") for at, key, value in records(path, tree)]
        spots += [(at, len(key) + len(value)) for at, key, value in records(path, "meta") if key == b"reflog_next"]
        for _ in range(25):
            bits = [
                8 * at + chance.randrange(8 * length) for at, length in (chance.choice(spots), chance.choice(spots))
            ]
            (path / "data.mdb").write_bytes(whole)
            for bit in bits:
                hit(path, bit // 8, 1 << bit % 8)
            report = casckpt.salvage(path, tmp_path / "nowhere", dry_run=True)
            sure = {ref.was: ref.commit for ref in report.refs if not ref.doubt}
            assert sure.items() <= truth.items(), bits
            assert truth.items() <= sure.items() or not report.complete, bits
            looked += bool(sure)
    assert looked > 10


def test_moves_are_not_forgotten_where_their_counter_is_lost(path: Path, tmp_path: Path) -> None:
    """Taken for 0, it said that there have been no moves: all of them were left out, and nothing was in doubt."""
    at, _ = record(path, "meta", b"reflog_next")
    hit(path, at + len(b"reflog_next") - 1)
    pages = [number for number, name in File(path).pages().items() if name == "ref"]
    for number in pages:
        File(path).write(number * SIZE, bytes(SIZE))
    report = casckpt.salvage(path, tmp_path / "new")
    assert not report.complete
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert [move.action for move in history.reflog()][-2:] == ["commit", "commit"]
        (main,) = [ref for ref in history.refs() if ref.name.endswith("main")]
        assert history.resolve(main.commit).step == 1


@pytest.mark.parametrize("where", ["name", "check", "key"])
def test_a_damaged_head_is_told_and_none_of_before_is_taken(tmp_path: Path, where: str) -> None:
    path = tmp_path / "store"
    with History(open_store(path, chunk_size=256)) as history:
        commit(history, state(0))
        history.branch("exp")
        history.switch("old", create=True)
        history.switch("exp")
    at, value = record(path, "ref", b"HEAD")
    hit(path, at + {"name": len(b"HEAD") + 1, "check": len(b"HEAD" + value) - 1, "key": 3}[where])
    report = casckpt.salvage(path, tmp_path / "new")
    assert not report.complete and report.lost_refs == ("HEAD",)
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.current_branch == "main"


@pytest.mark.parametrize("mask", [4, 8, 16, 32, 64])
def test_a_version_that_a_bit_made_a_later_one_is_outvoted(path: Path, tmp_path: Path, mask: int) -> None:
    hit_version(path, mask)
    with pytest.raises(NewerFormatError, match="casckpt salvage"):
        open_store(path)
    report = casckpt.salvage(path, tmp_path / "new")
    assert report.complete and report.format_found
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.resolve("main").step == 1


def as_later(path: Path) -> None:
    """Make it a store of a format that is to come, for which it takes a record of that in its place."""
    with History(open_store(path)) as history:
        as_format(history.store, 4)
        with history.store.write(durable=True, room=None):  # the next change
            pass


def test_what_a_later_casckpt_wrote_is_left_to_that_whatever_pages_of_before_say(path: Path, tmp_path: Path) -> None:
    as_later(path)
    with pytest.raises(NewerFormatError, match="later casckpt"):
        casckpt.salvage(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("has_records", [True, False], ids=["outvoted", "alone"])
def test_where_no_head_can_be_read_pages_decide_what_version_it_is(
    path: Path, tmp_path: Path, has_records: bool
) -> None:
    if not has_records:  # nothing of before is left
        with History(open_store(path)) as history:
            history.store.backup(str(tmp_path / "backup"))
        shutil.rmtree(path)
        (tmp_path / "backup").rename(path)
    hit_version(path, 4)
    for number in (0, 1):
        File(path).write(number * SIZE, bytes(SIZE))
    if has_records:
        assert casckpt.salvage(path, tmp_path / "new").commits == 2
    else:
        with pytest.raises(NewerFormatError, match="that number is damaged: restore it from a backup"):
            casckpt.salvage(path, tmp_path / "new")


def test_a_record_of_the_format_that_is_no_record_does_no_harm(path: Path, tmp_path: Path) -> None:
    at, value = record(path, "meta", b"format")
    assert msgspec.msgpack.decode(value)["version"] == 3
    hit(path, at + len(b"format"), 0x40)
    assert casckpt.salvage(path, tmp_path / "new").commits == 2
