"""fsck finds damage to the pages of the database, by name and before LMDB is asked, and no fault in pages of LMDB's."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from casckpt.errors import CasckptError, CorruptObjectError
from casckpt.history.fsck.findings import SORTS
from casckpt.history.fsck.report import FsckReport
from casckpt.history.records import reflog_next
from casckpt.history.repository import History
from casckpt.store.layout import BIG, BRANCH, EMPTY, HEAD_SIZE, LEAF, META, NODE, PAGE, TREE, Head, Tree, read_head
from casckpt.store.layout import read_tree as tree_of
from casckpt.store.lmdb_store import LmdbReader, LmdbStore, open_store
from casckpt.store.protocol import Space
from tests.history.world import commit, load
from tests.processes import Program, run

SIZE = 4096


class File:
    """A store's data file, read and damaged from outside LMDB."""

    def __init__(self, path: Path) -> None:
        self.path = path / "data.mdb"

    @property
    def head(self) -> Head:
        return max((read_head(self.read(at * SIZE, HEAD_SIZE)) for at in (0, 1)), key=lambda head: head.transaction)

    def read(self, at: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(at)
            return file.read(size)

    def write(self, at: int, data: bytes) -> None:
        with self.path.open("rb+") as file:
            file.seek(at)
            file.write(data)

    def page(self, number: int) -> bytes:
        return self.read(number * SIZE, SIZE)

    def nodes(self, number: int) -> list[int]:
        """Where the nodes of a page are, in bytes of the page, in the order of their keys."""
        page = self.page(number)
        count = (PAGE.unpack_from(page)[3] - PAGE.size) // 2
        return list(struct.unpack_from(f"={count}H", page, PAGE.size))

    def record(self, name: bytes) -> int:
        """Where in the file the record of a sub-database's root is."""
        root = self.head.main.root
        for at in self.nodes(root):
            size = NODE.unpack_from(self.page(root), at)[3]
            start = at + NODE.size
            if self.page(root)[start : start + size] == name:
                return root * SIZE + start + size
        raise AssertionError(f"there is no {name!r}")

    def tree(self, name: bytes) -> Tree:
        return tree_of(self.read(self.record(name), TREE.size), self.head.last_page)

    def children(self, number: int) -> list[int]:
        return [low | high << 16 | flags << 32 for low, high, flags, _ in self._heads(number)]

    def _heads(self, number: int) -> Iterator[tuple[int, ...]]:
        page = self.page(number)
        return (NODE.unpack_from(page, at) for at in self.nodes(number))

    def pages(self) -> dict[int, str]:
        """Every page in use: "main", "free", the name of a sub-database; with "value" behind it where it is of one."""
        head = self.head
        found: dict[int, str] = {}
        trees = {"main": head.main, "free": head.free}
        trees |= {space.value.decode(): self.tree(space.value) for space in Space}
        for name, tree in trees.items():
            stack = [] if tree.root == EMPTY else [tree.root]
            while stack:
                number = stack.pop()
                found[number] = name
                flags = PAGE.unpack_from(self.page(number))[2]
                if flags == BRANCH:
                    stack += self.children(number)
                    continue
                for at in self.nodes(number):
                    low, high, kind, size = NODE.unpack_from(self.page(number), at)
                    if kind == BIG:
                        first = int.from_bytes(self.page(number)[at + NODE.size + size :][:8], "little")
                        pages = (PAGE.size - 1 + (low | high << 16)) // SIZE + 1
                        found |= dict.fromkeys(range(first, first + pages), f"{name} value")
        return found

    def used(self, number: int, is_value: bool) -> list[int]:
        """Bytes of a page that say anything, so far as that is simple to tell."""
        _, _, _, lower, upper = PAGE.unpack_from(self.page(number))
        return list(range(SIZE)) if is_value else [*range(lower), *range(upper, SIZE)]

    def free_lists(self) -> list[tuple[int, list[int]]]:
        """Where in the file each list of free pages begins, and its pages."""
        root = self.head.free.root
        found = []
        for at in self.nodes(root):
            size = NODE.unpack_from(self.page(root), at)[3]
            start = at + NODE.size + size
            (count,) = struct.unpack_from("=Q", self.page(root), start)
            found.append((root * SIZE + start, list(struct.unpack_from(f"={count}Q", self.page(root), start + 8))))
        return found


def fill(history: History) -> None:
    """Trees of several levels, values with pages of their own, and a free list."""
    chance = random.Random(1)
    for _ in range(6):
        runs = {f"r{n}": chance.randbytes(300) for n in range(30)}
        commit(history, {"model": {"w": chance.randbytes(40_000)}, "optimizer": runs})
    history.rollback("HEAD~2")
    history.expire_reflog()
    history.gc()
    commit(history, {"model": {"w": chance.randbytes(20_000)}})
    history.gc()
    history.tag("v1", at="HEAD~3")
    history.tag("v2")


@pytest.fixture
def history(tmp_path) -> Iterator[History]:
    with History(open_store(tmp_path / "s", chunk_size=256)) as made:
        fill(made)
        yield made


@pytest.fixture
def file(history) -> File:
    return File(Path(history.path))


def found_in(history: History, monkeypatch: pytest.MonkeyPatch | None = None) -> FsckReport:
    return history.fsck(read_data=True)


# -- one kind of damage after the other


def pick(file: File, name: str, flags: int) -> int:
    """A page of a tree that is a branch or a leaf."""
    return next(n for n, what in file.pages().items() if what == name and PAGE.unpack_from(file.page(n))[2] == flags)


def put(file: File, number: int, at: int, shape: str, *values: int | bytes) -> None:
    file.write(number * SIZE + at, struct.pack(f"={shape}", *values))


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
    at, _ = next(one for one in file.free_lists() if one[1])
    file.write(at, struct.pack("=QQ", 1, max(file.pages())))


def leaked(file: File) -> None:
    at, free = next(one for one in file.free_lists() if one[1])
    file.write(at, struct.pack("=Q", len(free) - 1))


BREAKS: list[tuple[Callable[[File], None], str]] = [
    *(
        (act, "damaged-page")
        for act in (other_number, other_flags, zeroed, no_nodes, node_outside, nodes_overlap, hole)
    ),
    *((act, "damaged-page") for act in (no_kind, swapped, beyond, cut, value_head, wrong_depth, no_tree, other_root)),
    (shared, "shared-page"),
    *((act, "disordered-keys") for act in (disordered, exchanged, elsewhere, above)),
    *((figures(at), "wrong-tree-figures") for at in (8, 16, 24, 32)),
    *((renamed, id) for id in ("missing-database", "unknown-database")),
    *((act, "damaged-free-list") for act in (too_many_free, disordered_free, free_twice, free_beyond, free_later)),
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


def test_a_check_counts_the_pages_that_lmdb_counts(history, file) -> None:
    pages = history.store.check_pages(values=True)
    size = history.store.size()
    assert pages.page_size == SIZE and pages.found == 0 and pages.leaked == 0
    assert (pages.used * SIZE, pages.pages - pages.used) == (
        size.used + treepages(pages, "free list") * SIZE,
        pages.free,
    )
    with history.store.read() as reader:
        for space in Space:
            assert pages.trees[space.value.decode()].entries == reader.count(space)


def treepages(pages, name: str) -> int:
    tree = pages.trees[name]
    return tree.branches + tree.leaves + tree.overflow


def test_pages_that_lmdb_writes_have_no_fault_whatever_is_done_to_a_store(tmp_path) -> None:
    chance = random.Random(7)
    store = open_store(tmp_path / "s")
    held: list[tuple[Space, bytes]] = []
    for number in range(300):
        with store.write(durable=False, room=None) as writer:
            for _ in range(chance.choice([1, 5, 100, 400])):
                if held and chance.random() < (0.3 if number % 100 < 60 else 0.7):
                    at = chance.randrange(len(held))
                    held[at], held[-1] = held[-1], held[at]
                    writer.delete(*held.pop())
                elif held and chance.random() < 0.1:
                    writer.put(*chance.choice(held), bytes(chance.choice([0, 5, 100, 1001, 5000])))
                else:
                    one = (
                        chance.choice([Space.CHUNK, Space.NODE, Space.REF]),
                        chance.randbytes(chance.choice([3, 16, 500])),
                    )
                    held.append(one)
                    writer.put(*one, bytes(chance.choice([0, 1, 100, 2000, 2100, 5000, 50000])))
        if number % 10 == 0:
            for values in (True, False):
                pages = store.check_pages(values=values)
                assert pages.found == 0, pages.faults
                assert pages.leaked == 0
                assert pages.used + pages.free <= pages.pages
    store.close()


def test_the_pages_are_those_of_one_transaction_whatever_is_committed_meanwhile(history, monkeypatch) -> None:
    from casckpt.store import pages

    real = pages._Check._page
    looked = [0]

    def page(self, *arguments):
        looked[0] += 1
        if looked[0] % 20 == 0:
            commit(history, {"model": {"w": looked[0].to_bytes(4, "big") * 3000}})
            history.gc()
        return real(self, *arguments)

    monkeypatch.setattr(pages._Check, "_page", page)
    report = history.fsck()
    monkeypatch.undo()
    assert looked[0] > 100 and report.ok and not report.stopped


def test_a_look_that_is_overtaken_before_it_begins_is_taken_again(history, monkeypatch) -> None:
    from casckpt.store import pages

    real = pages._head_of
    overtaken = []

    def head_of(*arguments):
        if len(overtaken) < 2:
            overtaken.append(1)
            for n in range(2):
                commit(history, {"model": {"w": bytes([n]) * 300}})
        return real(*arguments)

    monkeypatch.setattr(pages, "_head_of", head_of)
    assert history.fsck().ok
    assert len(overtaken) == 2


FLIPS = """
import random, sys
from pathlib import Path
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.history.test_fsck_pages import File, fill, SIZE

path, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
loose = {Space.META, Space.FIGURES, Space.MARK, Space.REFLOG}  # records of which nothing tells what they were
with History(open_store(path, chunk_size=256)) as history:
    fill(history)
    file = File(path)

    def contents():
        with history.store.read() as reader:
            return {
                space: {key: bytes(value) for key, value in reader.items(space)}
                for space in Space
                if space not in loose
            }

    before = contents()
    sorts = {}
    for number, what in file.pages().items():
        sorts.setdefault(what, []).append(number)
    seen = {}
    for turn in range(count):
        what = chance.choice(sorted(sorts))
        number = chance.choice(sorts[what])
        at = number * SIZE + chance.choice(file.used(number, "value" in what))
        old = file.read(at, 1)
        file.write(at, bytes([old[0] ^ 1 << chance.randrange(8)]))
        report = history.fsck(read_data=True)
        if report.ok and not report.number("warning"):
            assert contents() == before, (turn, what, at)
            seen["harmless"] = seen.get("harmless", 0) + 1
        for id in report.counts:
            seen[id] = seen.get(id, 0) + 1
        file.write(at, old)
    assert not history.fsck(read_data=True).findings
print(seen)
"""


def test_after_any_bit_is_flipped_a_clean_check_means_that_everything_is_there(tmp_path) -> None:
    """In a process of its own: a page that passed the check and made LMDB crash would be the worst of all."""
    seen = eval(run(FLIPS, tmp_path / "s", 300, 11))
    assert {"damaged-page", "disordered-keys", "damaged-free-list"} <= seen.keys()
    assert seen["harmless"] < 150
    assert seen.keys() <= {"harmless", *SORTS}


def test_a_damaged_store_is_told_also_where_opening_finds_it(tmp_path) -> None:
    with History(open_store(tmp_path / "s", chunk_size=256)) as history:
        fill(history)
    file = File(tmp_path / "s")
    put(file, pick(file, "chunk", LEAF), 10, "H", 0)
    with History(open_store(tmp_path / "s")) as history:
        assert not history.fsck().ok
        with pytest.raises(CasckptError):
            for one in history.log(None):
                load(history, one.id)
    assert isinstance(history.store, LmdbStore)


@pytest.mark.parametrize(
    ("key", "value", "id"),
    [
        (b"format", None, "damaged-format"),
        (b"format", b"\xc1", "damaged-format"),
        (b"counter", None, "damaged-counter"),
        (b"counter", b"odd", "damaged-counter"),
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


def test_a_compacted_store_and_a_backup_have_no_fault(history, tmp_path) -> None:
    history.backup(str(tmp_path / "copy"))
    history.compact()
    assert not history.fsck(read_data=True).findings
    commit(history, {"model": {"w": b"after" * 3000}})
    history.gc()
    assert not history.fsck(read_data=True).findings
    with History(open_store(tmp_path / "copy", create=False)) as copy:
        assert not copy.fsck(read_data=True).findings
        commit(copy, {"model": {"w": b"after" * 3000}})
        assert not copy.fsck(read_data=True).findings


def test_a_file_that_is_short_and_healthy_has_no_fault(history, file) -> None:
    with history.store.write(durable=True, room=None) as writer:  # pages that are taken and given back are not written
        writer.put(Space.PIN, b"passing", b"v" * 4_000_000)
        writer.delete(Space.PIN, b"passing")
    assert file.path.stat().st_size < (file.head.last_page + 1) * SIZE
    report = history.fsck(read_data=True)
    assert not report.findings and report.looked.pages == file.head.last_page + 1


BESIDE = """
import sys
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit

with History(open_store(sys.argv[1])) as history:
    print("began", flush=True)
    number = 0
    while True:
        number += 1
        commit(history, {"model": {"w": bytes([number % 7]) * 20_000, "v": number.to_bytes(4, "big") * 3000}})
        if number % 3 == 0:
            history.prune(Keep(last=2))
        if number % 4 == 0:
            history.rollback("HEAD~1")
            history.expire_reflog()
        if number % 5 == 0:
            history.tag(f"t{number}")
            history.delete_tag(f"t{number}")
        history.gc()
"""


def test_a_check_beside_a_process_that_writes_and_collects_finds_nothing_wrong(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.fsck.data.CHECK_KEYS", 20)
    with History(open_store(tmp_path / "s", chunk_size=256)) as history:
        commit(history, {"model": {"w": b"begin" * 100}})
        with Program(BESIDE, tmp_path / "s") as writer:
            assert writer.line() == "began"
            checks = moves = 0
            while checks < 40 or moves < 60:
                report = history.fsck(read_data=True)
                assert not report.number("error") + report.number("warning"), report
                assert not report.stopped and report.looked.commits
                checks += 1
                with history.store.read() as reader:
                    moves = reflog_next(reader)
        assert not history.fsck(read_data=True).number("error")  # the writer was killed


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
