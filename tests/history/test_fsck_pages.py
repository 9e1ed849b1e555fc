"""fsck finds damage to the pages of the database, by name and before LMDB is asked."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from casckpt.errors import CorruptObjectError, TruncatedStoreError
from casckpt.history.fsck.findings import SORTS
from casckpt.history.fsck.report import unopened
from casckpt.history.repository import History
from casckpt.store.layout import BRANCH, HEAD_SIZE, LEAF, META, NODE, PAGE, TREE, read_head
from casckpt.store.lmdb_store import open_store
from casckpt.store.lmdb_transactions import LmdbReader
from casckpt.store.protocol import Space
from tests.history.pages import SIZE, File, fill, pick, put
from tests.history.world import commit


@pytest.fixture
def history(tmp_path) -> Iterator[History]:
    with History(open_store(tmp_path / "s", chunk_size=256)) as made:
        fill(made)
        yield made


@pytest.fixture
def file(history) -> File:
    return File(Path(history.path))


# -- one kind of damage after the other


def other_number(file: File) -> None:
    put(file, pick(file, "chunk", LEAF), 0, "Q", 3)


def other_flags(file: File) -> None:
    put(file, pick(file, "node", LEAF), 10, "H", 0x12)


def zeroed(file: File) -> None:
    file.write(pick(file, "chunk", BRANCH) * SIZE, bytes(SIZE))


def no_nodes(file: File) -> None:
    put(file, pick(file, "ref", LEAF), 12, "H", PAGE.size)


def node_outside(file: File) -> None:
    put(file, pick(file, "ref", LEAF), PAGE.size, "H", SIZE - 4)


def nodes_overlap(file: File) -> None:
    number = pick(file, "chunk", LEAF)
    put(file, number, PAGE.size, "H", file.nodes(number)[1])


def hole(file: File) -> None:
    number = pick(file, "figures", LEAF)
    at = sorted(file.nodes(number))[1]
    (size,) = struct.unpack("=H", file.read(number * SIZE + at, 2))
    put(file, number, at, "H", size - 2)


def no_kind(file: File) -> None:
    number = pick(file, "tree", LEAF)
    put(file, number, file.nodes(number)[0] + 4, "H", 0x40)


def swapped(file: File) -> None:
    a, b = file.children(pick(file, "chunk", BRANCH))[:2]
    first, second = file.page(a), file.page(b)
    file.write(a * SIZE, second)
    file.write(b * SIZE, first)


def beyond(file: File) -> None:
    number = pick(file, "chunk", BRANCH)
    put(file, number, file.nodes(number)[1], "H", 0xFFFF)


def cut(file: File) -> None:
    with file.path.open("rb+") as opened:
        opened.truncate(max(n for n, what in file.pages().items() if "value" not in what) * SIZE)


def value_head(file: File) -> None:
    first = next(n for n, what in file.pages().items() if what == "node value")
    put(file, first, 10, "H", LEAF)


def wrong_depth(file: File) -> None:
    file.write(file.record(b"chunk") + 6, struct.pack("=H", 1))


def empty_depth(file: File) -> None:
    """LMDB would count the levels of what is put into it from there on."""
    file.write(file.record(b"pin") + 6, struct.pack("=H", 4))


def no_tree(file: File) -> None:
    file.write(file.record(b"chunk") + 4, struct.pack("=H", 4))


def other_kind(file: File) -> None:
    """The flags of a node: its value is no tree, they say."""
    file.write(file.record(b"ref") - len(b"ref") - 4, b"\0\0")


def other_root(file: File) -> None:
    file.write(file.record(b"figures") + TREE.size - 8, struct.pack("=Q", 1 << 40))


def shared(file: File) -> None:
    number = pick(file, "chunk", BRANCH)
    put(file, number, file.nodes(number)[2], "H", file.children(number)[1])


def disordered(file: File) -> None:
    number = pick(file, "chunk", LEAF)
    a, b = file.nodes(number)[:2]
    put(file, number, PAGE.size, "HH", b, a)


def exchanged(file: File) -> None:
    number = pick(file, "chunk", BRANCH)
    a, b = file.nodes(number)[1:3]
    put(file, number, PAGE.size + 2, "HH", b, a)


def elsewhere(file: File) -> None:
    """Each child is in order, but the keys are in the other child."""
    number = pick(file, "chunk", BRANCH)
    a, b = file.nodes(number)[1:3]
    first, second = (file.read(number * SIZE + at, 6) for at in (a, b))
    file.write(number * SIZE + a, second)
    file.write(number * SIZE + b, first)


def above(file: File) -> None:
    """A branch that gives a key for its second child which is in the first."""
    number = pick(file, "chunk", BRANCH)
    first, _ = file.children(number)[:2]
    at = file.nodes(first)[-1] + NODE.size
    put(file, number, file.nodes(number)[1] + NODE.size, "16s", file.page(first)[at : at + 16])


def figures(at: int) -> Callable[[File], None]:
    def act(file: File) -> None:
        start = file.record(b"node") + at
        (said,) = struct.unpack("=Q", file.read(start, 8))
        file.write(start, struct.pack("=Q", said + 1))

    return act


def renamed(file: File) -> None:
    file.write(file.record(b"pin") - 3, b"pim")


def too_many_free(file: File) -> None:
    file.write(file.free_lists()[0][0], struct.pack("=Q", 1000))


def too_few_free(file: File) -> None:
    """py-lmdb's LMDB takes only lists of exactly their length, and could not write any more."""
    at, free = next(one for one in file.free_lists() if one[1])
    file.write(at, struct.pack("=Q", len(free) - 1))


def disordered_free(file: File) -> None:
    at, free = next(one for one in file.free_lists() if len(one[1]) > 1)
    file.write(at + 8, struct.pack("=QQ", free[1], free[0]))


def free_twice(file: File) -> None:
    lists = [one for one in file.free_lists() if one[1]]
    at = lists[0][0]
    file.write(at, struct.pack("=QQ", 1, lists[1][1][0]))


def free_beyond(file: File) -> None:
    at, _ = next(one for one in file.free_lists() if one[1])
    file.write(at + 8, struct.pack("=Q", file.head.last_page + 1))


def free_later(file: File) -> None:
    root = file.head.free.root
    put(file, root, file.nodes(root)[-1] + NODE.size, "Q", file.head.transaction + 1)


def free_in_use(file: File) -> None:
    used = file.pages().keys()
    for at, free in file.free_lists():
        for place, (above, below) in enumerate(pairwise([file.head.last_page + 1, *free[1:], 1])):
            fitting = [number for number in used if below < number < above]
            if free and fitting:
                file.write(at + 8 + 8 * place, struct.pack("=Q", fitting[0]))
                return


def leaked(file: File) -> None:
    head = file.head
    file.write((head.last_page + 1) * SIZE, bytes(SIZE))
    put(file, head.transaction % 2, PAGE.size + META.size - 16, "Q", head.last_page + 1)


BREAKS: list[tuple[Callable[[File], None], str]] = [
    *(
        (act, "damaged-page")
        for act in (other_number, other_flags, zeroed, no_nodes, node_outside, nodes_overlap, hole)
    ),
    *((act, "damaged-page") for act in (no_kind, swapped, beyond, cut, value_head, wrong_depth, no_tree, other_root)),
    (shared, "shared-page"),
    *((act, "disordered-keys") for act in (disordered, exchanged, elsewhere, above)),
    *((figures(at), "wrong-tree-figures") for at in (8, 16, 24, 32)),
    (empty_depth, "wrong-tree-figures"),
    *((renamed, id) for id in ("missing-database", "unknown-database")),
    *(
        (act, "damaged-free-list")
        for act in (too_many_free, too_few_free, disordered_free, free_twice, free_beyond, free_later)
    ),
    (free_in_use, "free-page-in-use"),
    (leaked, "leaked-pages"),
]


@pytest.mark.parametrize(("act", "id"), BREAKS, ids=[f"{act.__name__}-{id}" for act, id in BREAKS])
def test_each_damage_to_a_page_is_found_by_its_name_and_lmdb_is_asked_nothing(
    history, file, monkeypatch, act, id
) -> None:
    assert not history.fsck(read_data=True).findings
    whole = file.path.read_bytes()
    act(file)
    begun = []
    real = LmdbReader.keys
    monkeypatch.setattr(LmdbReader, "keys", lambda *arguments, **how: begun.append(1) or real(*arguments, **how))
    report = history.fsck(read_data=True)
    monkeypatch.undo()
    assert id in report.counts
    if SORTS[id].severity == "error":
        assert not report.ok and report.stopped and not begun
    else:
        assert set(report.counts) == {id} and not report.stopped
    file.path.write_bytes(whole)
    assert not history.fsck(read_data=True).findings


def test_the_heads_of_chunks_are_looked_at_where_chunks_are_read(tmp_path) -> None:
    with History(open_store(tmp_path / "s", chunk_size=4096)) as history:
        commit(history, {"model": {"w": b"w" * 9000}})
        file = File(tmp_path / "s")
        value_page = next(n for n, what in file.pages().items() if what == "chunk value")
        put(file, value_page, 12, "I", 1)  # of how many pages it is, which LMDB believes when it frees them
        assert history.fsck().ok
        assert "damaged-page" in history.fsck(read_data=True).counts


def test_a_head_that_is_damaged_under_an_open_store_is_found(history, file) -> None:
    head = file.head
    at = next(at for at in (0, 1) if read_head(file.read(at * SIZE, HEAD_SIZE)).transaction == head.transaction)
    whole = file.page(at)
    for damaged in (bytes(SIZE), whole[: PAGE.size + META.size - 8] + struct.pack("=Q", 1) + whole[HEAD_SIZE:]):
        file.write(at * SIZE, damaged)
        report = history.fsck()
        file.write(at * SIZE, whole)
        assert set(report.counts) == {"damaged-page"}
    assert history.fsck().ok


def test_of_too_many_damaged_pages_the_first_are_kept_and_all_are_counted(history, file, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.store.pages.MAX_FINDINGS", 2)
    leaves = file.children(pick(file, "chunk", BRANCH))
    for number in leaves:
        put(file, number, 10, "H", 0)
    report = history.fsck()
    assert report.counts == {"damaged-page": len(leaves)} and len(report.findings) == 2


@pytest.mark.parametrize(("act", "id"), BREAKS, ids=[f"{act.__name__}-{id}" for act, id in BREAKS])
def test_what_opening_refuses_is_told_by_the_names_of_fsck_and_nothing_is_changed(tmp_path, act, id) -> None:
    with History(open_store(tmp_path / "s", chunk_size=256)) as history:
        fill(history)
    act(File(tmp_path / "s"))
    damaged = (tmp_path / "s/data.mdb").read_bytes()
    if SORTS[id].severity == "error":
        with pytest.raises((CorruptObjectError, TruncatedStoreError), match=r"backup.*casckpt salvage") as refused:
            open_store(tmp_path / "s")
        report = unopened(refused.value, tmp_path / "s")
        assert report is not None and id in report.counts and not report.ok
        assert {found.id for found in report.findings} == report.counts.keys()
    else:
        open_store(tmp_path / "s").close()
    assert (tmp_path / "s/data.mdb").read_bytes() == damaged


@pytest.mark.parametrize(
    ("key", "value", "id"),
    [
        (b"format", None, "damaged-format"),
        (b"format", b"\xc1", "damaged-format"),
        (b"counter", None, "damaged-counter"),
        (b"counter", b"odd", "damaged-counter"),
        (b"counter", b"\1" + bytes(7), "damaged-counter"),
    ],
)
def test_what_the_next_opening_needs_is_checked(history, key, value, id) -> None:
    with history.store._environment._raw.begin(write=True) as transaction:
        databases = history.store._environment.databases
        if value is None:
            transaction.delete(key, db=databases[Space.META])
        else:
            transaction.put(key, value, db=databases[Space.META])
    assert set(history.fsck().counts) == {id}


@pytest.mark.parametrize("act", [renamed, other_kind])
def test_a_damaged_main_tree_is_refused_as_damage_and_nothing_is_made_in_its_place(tmp_path, act) -> None:
    """Opening once made the sub-database that it did not find, and so wrote an empty one over a damaged store."""
    with History(open_store(tmp_path / "s", chunk_size=256)) as history:
        fill(history)
    file = File(tmp_path / "s")
    act(file)
    damaged = file.path.read_bytes()
    with pytest.raises(CorruptObjectError, match=r"damaged.*backup"):
        open_store(tmp_path / "s")
    assert file.path.read_bytes() == damaged
