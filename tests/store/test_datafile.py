"""A data file that is cut short or damaged is told as such; it never kills the process that opens it."""

from __future__ import annotations

import struct

import lmdb
import pytest

from casckpt.errors import CorruptObjectError, NotAStoreError, StoreBusyError, StoreError, TruncatedStoreError
from casckpt.store import datafile, layout
from casckpt.store.datafile import Contents, look_into
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.processes import run

PAGE = 4096


def fill(path, *, values=30):
    """A store with trees of several levels, values with pages of their own, and a free list."""
    store = open_store(path)
    with store.write(durable=True, room=None) as writer:
        for number in range(values):
            writer.put(Space.CHUNK, b"%d" % number, b"%d" % (number % 10) * 9_000)
        for number in range(600):
            writer.put(Space.NODE, b"%d" % number, b"small" * 20)
    with store.write(durable=True, room=None) as writer:
        for number in range(0, values, 3):
            writer.delete(Space.CHUNK, b"%d" % number)
        for number in range(0, 600, 7):
            writer.delete(Space.NODE, b"%d" % number)
    store.close()


def shorten(path):
    """Make a healthy file shorter than its head says: pages taken and given back in one commit are never written."""
    store = open_store(path)
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, b"passing", b"v" * 400_000)
        writer.delete(Space.CHUNK, b"passing")
        writer.put(Space.REF, b"kept", b"value")
    store.close()
    data = path / "data.mdb"
    with lmdb.open(str(path), readonly=True, lock=False) as env:
        assert data.stat().st_size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]


TRY_EVERY_LENGTH = """
import shutil, sys
from pathlib import Path
from casckpt.errors import CasckptError
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space

path, page = Path(sys.argv[1]), int(sys.argv[2])
whole = (path / "data.mdb").read_bytes()
mark = (path / "mark").read_bytes()
seen = {}
for length in range(len(whole) - page, -1, -page):
    for cut in (length, length + 17):
        (path / "data.mdb").write_bytes(whole[:cut])
        (path / "mark").write_bytes(mark)
        try:
            store = open_store(path)
        except CasckptError as error:
            seen[type(error).__name__] = seen.get(type(error).__name__, 0) + 1
            assert (path / "data.mdb").read_bytes() == whole[:cut]
            continue
        for _ in range(3):  # writing reads the free list
            with store.write(durable=True, room=None) as writer:
                total = sum(len(value) for space in Space for _, value in writer.items(space))
                writer.put(Space.CHUNK, b"new", b"n" * 50_000)
        with store.read() as reader:
            assert reader.count(Space.CHUNK) == int(sys.argv[3]) + 1
            assert all(set(bytes(value)) == {value[0]} for _, value in reader.items(Space.CHUNK))
        store.close()
        seen["whole"] = seen.get("whole", 0) + 1
print(seen)
"""


@pytest.mark.parametrize("short", [False, True])
def test_a_file_cut_at_any_page_works_whole_or_is_refused_and_never_kills(tmp_path, short):
    path = tmp_path / "store"
    fill(path)
    if short:
        shorten(path)
    seen = eval(run(TRY_EVERY_LENGTH, path, PAGE, 20))
    assert seen.pop("TruncatedStoreError") > 50
    assert seen.pop("whole", 1)
    assert set(seen) == {"CorruptObjectError", "HistoryLostError"}  # cut within the heads, or to nothing


def test_a_short_but_healthy_file_opens_with_everything_in_it(tmp_path):
    path = tmp_path / "store"
    fill(path)
    shorten(path)
    store = open_store(path)
    with store.read() as reader:
        assert reader.count(Space.CHUNK) == 20 and reader.count(Space.NODE) == 514
        assert reader.get(Space.REF, b"kept") == b"value"
    store.close()


def test_a_cut_file_says_where_and_what_to_do_and_stays_as_it_is(tmp_path):
    path = tmp_path / "store"
    fill(path)
    data = path / "data.mdb"
    cut = data.read_bytes()[: 10 * PAGE]
    data.write_bytes(cut)
    with pytest.raises(TruncatedStoreError, match=f"{path}: data.mdb is cut short.*40960.*backup"):
        open_store(path)
    assert data.read_bytes() == cut


def test_a_file_whose_free_list_alone_is_cut_off_is_refused(tmp_path):
    """A walk through LMDB's own reading interface never touches the free list; the first write would be SIGBUS."""
    path = tmp_path / "store"
    fill(path)
    data = path / "data.mdb"
    whole = bytearray(data.read_bytes())
    heads = [whole[at : at + layout.HEAD_SIZE] for at in (0, PAGE)]
    newest = max((0, 1), key=lambda one: layout.read_head(bytes(heads[one])).transaction)
    head = layout.read_head(bytes(heads[newest]))
    # The free list's only page, moved to the end of the file, and then cut off.
    root = head.free.root
    moved = head.last_page + 1
    page = bytearray(whole[root * PAGE : (root + 1) * PAGE])
    struct.pack_into("=Q", page, 0, moved)
    at = newest * PAGE + layout.PAGE.size + 24
    struct.pack_into("=Q", whole, at + layout.TREE.size - 8, moved)
    struct.pack_into("=Q", whole, at + 2 * layout.TREE.size, moved)
    data.write_bytes(bytes(whole) + bytes(page))
    open_store(path).close()
    data.write_bytes(bytes(whole))
    assert (path / "data.mdb").stat().st_size == moved * PAGE
    with pytest.raises(TruncatedStoreError):
        open_store(path)


TRY_EVERY_BIT = """
import sys
from pathlib import Path
from casckpt.errors import CasckptError
from casckpt.store.lmdb_store import open_store

path = Path(sys.argv[1])
whole = (path / "data.mdb").read_bytes()
mark = (path / "mark").read_bytes()
seen = {}
for page in (0, 4096):
    for bit in [*range(0, 32 * 8, 3), *range(40 * 8, 152 * 8, 3)]:
        torn = bytearray(whole)
        torn[page + bit // 8] ^= 1 << bit % 8
        (path / "data.mdb").write_bytes(torn)
        (path / "mark").write_bytes(mark)
        try:
            open_store(path).close()
            name = "opened"
        except CasckptError as error:
            name = type(error).__name__
        seen[name] = seen.get(name, 0) + 1
print(seen)
"""


def test_flipped_bits_in_the_heads_never_roll_history_back_in_silence(tmp_path):
    path = tmp_path / "store"
    store = open_store(path)
    for number in range(4):
        with store.write(durable=True, room=None) as writer:
            writer.put(Space.REF, b"%d" % number, b"value")
    store.close()
    seen = eval(run(TRY_EVERY_BIT, path))
    assert seen["HistoryLostError"] > 5
    assert set(seen) <= {"opened", "HistoryLostError", "NotAStoreError", "CorruptObjectError", "TruncatedStoreError"}


def test_a_head_that_a_failed_write_left_half_changed_keeps_nobody_from_opening(tmp_path):
    """LMDB puts the former number and last page back over a head that it could not write, and leaves its trees."""
    path = tmp_path / "store"
    fill(path)
    data = path / "data.mdb"
    whole = bytearray(data.read_bytes())
    numbers = [layout.read_head(bytes(whole[at : at + layout.HEAD_SIZE])).transaction for at in (0, PAGE)]
    earlier = numbers.index(min(numbers)) * PAGE + layout.PAGE.size + 24
    for tree in (0, layout.TREE.size):
        struct.pack_into("=Q", whole, earlier + tree + layout.TREE.size - 8, len(whole) // PAGE + 7)
    data.write_bytes(bytes(whole))
    assert look_into(data).format is not None
    store = open_store(path)
    assert not store.check_pages(values=True).faults
    with store.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"value")
    store.close()
    open_store(path).close()


def head_of(path):
    data = (path / "data.mdb").read_bytes()
    return max((layout.read_head(data[at : at + layout.HEAD_SIZE]) for at in (0, PAGE)), key=lambda h: h.transaction)


def page_of(data, number):
    return data[number * PAGE : (number + 1) * PAGE]


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, struct.pack("=Q", 77777), "says that it is another"),
        (10, struct.pack("=H", 0x40), "is no part of a tree"),
        (12, struct.pack("=H", 9999), "has no list of nodes"),
        (16, struct.pack("=H", 4095), "lies outside it"),
    ],
)
def test_a_page_that_cannot_be_one_is_told_as_damage(tmp_path, at, value, says):
    path = tmp_path / "store"
    open_store(path).close()
    data = bytearray((path / "data.mdb").read_bytes())
    start = head_of(path).main.root * PAGE + at
    data[start : start + len(value)] = value
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(CorruptObjectError, match=f"{path}.*{says}.*backup"):
        open_store(path)


def test_entries_that_cannot_be_are_told_as_damage(tmp_path):
    path = tmp_path / "store"
    open_store(path).close()
    whole = (path / "data.mdb").read_bytes()
    root = head_of(path).main.root * PAGE
    node = root + struct.unpack_from("=H", whole, root + 16)[0]
    size, high, flags, key = layout.NODE.unpack_from(whole, node)
    for fields, says in (
        ((60000, high, flags, key), "a node reaches out of it"),
        ((size, high, 0x04, key), "is of no kind"),
        ((size - 2, high, flags, key), "overlap, or leave holes"),
        ((8, high, flags, key + size - 8), "has no root"),
        ((size, high, 0x01, key + size - 8), "a reference to page"),
    ):
        data = bytearray(whole)
        layout.NODE.pack_into(data, node, *fields)
        (path / "data.mdb").write_bytes(data)
        with pytest.raises(CorruptObjectError, match=says):
            open_store(path)


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize("flag", [0x02, 0x04, 0x08, 0x10, 0x80])  # MDB_REVERSEKEY, MDB_DUPSORT and the like
def test_a_sub_database_that_lmdb_would_take_for_one_of_another_kind_is_refused(tmp_path, space, flag):
    path = tmp_path / "store"
    open_store(path).close()
    data = bytearray((path / "data.mdb").read_bytes())
    root = head_of(path).main.root * PAGE
    record = data.index(bytes([len(space.value), 0]) + space.value, root) + 2 + len(space.value)
    data[record + 4] |= flag
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(CorruptObjectError, match="a tree of another kind"):
        open_store(path)


def test_a_tree_that_leads_into_itself_is_told_as_damage(tmp_path):
    path = tmp_path / "store"
    fill(path)
    data = bytearray((path / "data.mdb").read_bytes())
    with lmdb.open(str(path), readonly=True, lock=False, max_dbs=32) as env, env.begin() as transaction:
        record = bytes(transaction.get(Space.NODE.value))
    root = struct.unpack("=IHHQQQQQ", record)[-1]
    first = root * PAGE + struct.unpack_from("=H", data, root * PAGE + 16)[0]
    struct.pack_into("=HHH", data, first, root & 0xFFFF, root >> 16, 0)
    file = datafile._DataFile
    head = head_of(path)
    (path / "loop").write_bytes(data)
    with (path / "loop").open("rb") as opened, pytest.raises(layout.UnreadableError, match="two ways"):
        list(file(opened.fileno())._entries(head, layout.Tree(root, 1), len(data), set()))


def graft(path, levels, children):
    """Exchange the main tree for branch pages, each of which refers `children` times to the one after it."""
    data = bytearray((path / "data.mdb").read_bytes())
    first = len(data) // PAGE
    for number in range(first, first + levels):
        page = bytearray(PAGE)
        is_leaf = number == first + levels - 1
        nodes, flags = (1, layout.LEAF) if is_leaf else (children, layout.BRANCH)
        layout.PAGE.pack_into(page, 0, number, 0, flags, 16 + 2 * nodes, PAGE - 8 * nodes)
        for node in range(nodes):
            at = PAGE - 8 * (node + 1)
            struct.pack_into("=H", page, 16 + 2 * node, at)
            layout.NODE.pack_into(page, at, 0 if is_leaf else number + 1, 0, 0, 0)
        data += page
    for start in (16, PAGE + 16):
        meta = list(layout.META.unpack_from(data, start))
        meta[5] = meta[5][:-8] + struct.pack("=Q", first)
        meta[6] = first + levels - 1
        layout.META.pack_into(data, start, *meta)
    (path / "data.mdb").write_bytes(data)


def test_pages_that_lead_to_each_other_in_many_ways_are_told_as_damage_at_once(tmp_path):
    """Eight pages of 200 references each to the next are 200^7 ways."""
    open_store(tmp_path / "store").close()
    graft(tmp_path / "store", 8, 200)
    with pytest.raises(CorruptObjectError, match=r"page \d+ is reached in two ways.*backup"):
        open_store(tmp_path / "store")


def test_a_tree_deeper_than_lmdb_could_walk_is_told_as_damage(tmp_path):
    open_store(tmp_path / "store").close()
    graft(tmp_path / "store", 40, 1)
    with pytest.raises(CorruptObjectError, match="deeper"):
        open_store(tmp_path / "store")


def test_a_head_with_an_impossible_page_size_is_told_as_damage(tmp_path):
    path = tmp_path / "store"
    open_store(path).close()
    data = bytearray((path / "data.mdb").read_bytes())
    struct.pack_into("=I", data, 16 + 24, 5000)
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(CorruptObjectError, match="page size of 5000"):
        open_store(path)


def test_a_look_is_taken_again_when_a_commit_disturbed_it(tmp_path, monkeypatch):
    path = tmp_path / "store"
    open_store(path).close()
    real = datafile._DataFile.contents
    disturbed = []

    def contents(self, head):
        if len(disturbed) < 3:
            disturbed.append(head)
            with lmdb.open(str(path), lock=False) as env:
                for number in range(2):
                    with env.begin(write=True) as transaction:
                        transaction.put(b"key", b"%d" % number)
            if len(disturbed) == 2:
                raise layout.UnreadableError("a page that was used again")
        return real(self, head)

    monkeypatch.setattr(datafile._DataFile, "contents", contents)
    assert isinstance(look_into(path / "data.mdb"), Contents)
    assert len(disturbed) == 3


def test_a_file_that_changes_faster_than_it_can_be_read_is_busy(tmp_path, monkeypatch):
    path = tmp_path / "store"
    open_store(path).close()
    real, turns = datafile._DataFile.head, iter(range(0, 1000, 2))

    def head(self):
        held = real(self)
        return layout.Head(held.page_size, held.last_page, next(turns), held.free, held.main)

    monkeypatch.setattr(datafile._DataFile, "head", head)
    with pytest.raises(StoreBusyError, match="try again"):
        look_into(path / "data.mdb")


@pytest.mark.parametrize(
    "garbage", [b"x", b"\0" * 10_000, b"model weights" * 1000, b"\0" * 10 + b"\x08\0" + b"\0" * 9000]
)
def test_a_data_file_that_is_not_lmdb_s_is_left_alone(tmp_path, garbage):
    (tmp_path / "data.mdb").write_bytes(garbage)
    for create in (True, False):
        with pytest.raises(NotAStoreError, match=str(tmp_path)):
            open_store(tmp_path, create=create)
    assert [path.name for path in tmp_path.iterdir()] == ["data.mdb"]
    assert (tmp_path / "data.mdb").read_bytes() == garbage


def test_an_lmdb_file_of_another_version_is_left_alone(tmp_path):
    open_store(tmp_path / "store").close()
    data = bytearray((tmp_path / "store/data.mdb").read_bytes())
    struct.pack_into("=I", data, 16 + 4, 999)
    (tmp_path / "store/data.mdb").write_bytes(data)
    with pytest.raises(CorruptObjectError, match="version 999"):  # by its mark it was a store
        open_store(tmp_path / "store")
    (tmp_path / "store/mark").unlink()
    with pytest.raises(NotAStoreError, match="version 999"):
        open_store(tmp_path / "store")
    assert (tmp_path / "store/data.mdb").read_bytes() == data
    assert issubclass(NotAStoreError, StoreError)


def test_a_page_that_goes_bad_under_an_open_store_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "store"
    fill(path)
    store = open_store(path)
    with store.read() as reader:
        record = bytes(reader._raw().get(Space.NODE.value))
        root = struct.unpack("=IHHQQQQQ", record)[-1]
        with (path / "data.mdb").open("rb+") as file:
            file.seek(root * PAGE + 10)
            file.write(struct.pack("=H", 0x40))
        for use in (
            lambda: reader.get(Space.NODE, b"1"),
            lambda: reader.has(Space.NODE, b"1"),
            lambda: list(reader.keys(Space.NODE)),
        ):
            with pytest.raises(CorruptObjectError, match=f"{path}.*damaged.*backup"):
                use()
    store.close()
