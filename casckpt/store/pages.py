"""Checks the pages of the database file by plain reads: what LMDB would follow blindly, into a crash or a lie.

Every page of every B-tree is read, and of a value with pages of its own at most their head. Nothing is mapped, and
nothing is written. All of it is seen as one transaction left it: its reader must live until the check is over, because
then no page that it shows is used again. A file that nobody has open needs no reader.
"""

from __future__ import annotations

import contextlib
import os
import struct
from array import array
from collections.abc import Iterator
from itertools import pairwise
from operator import ge
from pathlib import Path
from typing import Final

from casckpt.errors import NotAStoreError, StoreBusyError
from casckpt.limits import MAX_FINDINGS
from casckpt.store.layout import (
    BIG,
    EMPTY,
    HEAD_SIZE,
    OVERFLOW,
    PAGE,
    SUBTREE,
    Head,
    Tree,
    UnreadableError,
    read_head,
    read_subtree,
    run_of,
)
from casckpt.store.nodes import Node, read_alike, read_nodes
from casckpt.store.page_map import FIRST, FREE, USED, PageMap
from casckpt.store.protocol import PageFault, Pages, Space, TreePages

MAIN, FREE_LIST, HEADS = "main", "free list", "heads"
# A commit may be writing a head while it is read; that takes microseconds.
_TRIES: Final = 10


def check_pages(data: Path, transaction: int, *, values: bool) -> Pages | None:
    """Check the file as `transaction` left it; None where two commits have come since its reader began.

    values: check the head of every value that has pages of its own, also of chunks (a read of 16 bytes for each).
    """
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = _head_of(descriptor, transaction)
        return None if head is None else _Check(descriptor, head, values).run()
    finally:
        os.close(descriptor)


def examine(data: Path, *, values: bool = False) -> Pages:
    """Check a file that nobody of ours has open, as LMDB would take it; what others change meanwhile is looked at anew.

    Raises:
        StoreBusyError: it changes faster than it can be looked at.
    """
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            try:
                before = _raw_heads(descriptor)
            except OSError as error:
                return _nothing_but(PageFault("damaged-page", HEADS, 0, f"it cannot be read: {error}"))
            found = _examine(descriptor, before, values)
            with contextlib.suppress(OSError):
                if not found.found or _raw_heads(descriptor) == before:
                    return found
    finally:
        os.close(descriptor)
    raise StoreBusyError("other processes change it faster than it can be looked at", remedy="try again")


def _raw_heads(descriptor: int) -> tuple[bytes, ...]:
    first = os.pread(descriptor, HEAD_SIZE, 0)
    sizes = {4096}
    with contextlib.suppress(UnreadableError, NotAStoreError):
        sizes = {read_head(first).page_size}
    return (first, *[os.pread(descriptor, HEAD_SIZE, size) for size in sizes])


def _examine(descriptor: int, raw: tuple[bytes, ...], values: bool) -> Pages:
    heads: list[Head] = []
    for number, data in enumerate(raw):
        try:
            heads.append(read_head(data))
        except (UnreadableError, NotAStoreError) as error:
            problem = error.problem if isinstance(error, NotAStoreError) else str(error)
            return _nothing_but(PageFault("damaged-page", HEADS, number, f"it {problem}"))
    first, second = heads
    if first.page_size != second.page_size:
        return _nothing_but(PageFault("damaged-page", HEADS, 1, "it has another page size than the first"))
    # the later one tells the number of the last transaction, and LMDB takes the head in the page of that number
    return _Check(descriptor, heads[max(first.transaction, second.transaction) % 2], values).run()


def _nothing_but(fault: PageFault) -> Pages:
    return Pages(0, 0, 0, 0, 0, 0, {}, (fault,), 1)


def lost_head(transaction: int) -> Pages:
    """What is to be said where neither head is that of a transaction that LMDB shows: one was damaged under it."""
    problem = f"neither head of the file is that of transaction {transaction}"
    return _nothing_but(PageFault("damaged-page", HEADS, 0, problem))


def _head_of(descriptor: int, transaction: int) -> Head | None:
    for _ in range(_TRIES):
        for head in _heads(descriptor):
            if head.transaction == transaction:
                return head
    return None


def _heads(descriptor: int) -> Iterator[Head]:
    try:
        first = read_head(os.pread(descriptor, HEAD_SIZE, 0))
        yield first
        yield read_head(os.pread(descriptor, HEAD_SIZE, first.page_size))
    except (UnreadableError, NotAStoreError, OSError):
        return  # torn by a commit; or damaged, and then the next try fails as well


class _Check:
    """One look at the whole file."""

    def __init__(self, descriptor: int, head: Head, values: bool) -> None:
        self._descriptor = descriptor
        self._head = head
        self._values = values
        self._size = os.fstat(descriptor).st_size
        self._map = PageMap(head.last_page + 1, -(-self._size // head.page_size))
        self._faults: list[PageFault] = []
        self._found = 0
        self._read = 0
        self._trees: dict[str, TreePages] = {}
        self._unseen = 0

    def run(self) -> Pages:
        subtrees: dict[str, Tree] = {}
        for key, node in self._entries(MAIN, self._head.main):
            tree = self._subtree(key, node)
            if tree is not None:
                subtrees[key.decode("utf-8", "backslashreplace")] = tree
        ours = {space.value.decode() for space in Space}
        if not self._found:
            for name in sorted(ours - subtrees.keys()):
                self._fault("missing-database", name, self._head.main.root, "the main tree does not lead to it")
        for name, tree in subtrees.items():
            if name not in ours:
                self._fault("unknown-database", name, tree.root, "casckpt has no sub-database of this name")
            for _ in self._entries(name, tree):
                pass
        free = array("Q")
        for key, node in self._entries(FREE_LIST, self._head.free):
            free.extend(self._freed(key, node))
        self._mark_free(free)
        used, unknown = self._map.count()
        if self._map.beyond and not self._found:
            # what one transaction takes and gives back is never written, but then it is free
            problem = f"{self._map.beyond} pages that it counts are beyond the file's end, and not free"
            self._fault("damaged-page", HEADS, self._head.transaction % 2, problem)
        return Pages(
            page_size=self._head.page_size,
            pages=self._head.last_page + 1,
            used=used,
            free=len(free),
            leaked=max(0, unknown - self._unseen),
            read=self._read,
            trees=self._trees,
            faults=tuple(self._faults),
            found=self._found,
        )

    def _fault(self, kind: str, tree: str, page: int, problem: str) -> None:
        self._found += 1
        if len(self._faults) < MAX_FINDINGS:
            self._faults.append(PageFault(kind, tree, page, problem))

    def _entries(self, name: str, tree: Tree) -> Iterator[tuple[bytes, Node]]:
        """The entries of a tree, each page on the way checked; what cannot be followed is a fault, and left out.

        Of a sub-database not all are handed out, as nobody needs them.
        """
        before = self._found
        branches = leaves = overflow = entries = 0
        waiting: list[tuple[int, int, bytes | None, bytes | None]] = []
        if tree.root != EMPTY:
            waiting.append((tree.root, 1, None, None))
        elif tree.depth:
            self._fault(
                "wrong-tree-figures", name, 0, f"it is empty, and its head says that it has {tree.depth} levels"
            )
        while waiting:
            number, level, low, high = waiting.pop()
            page = self._page(name, number)
            if page is None:
                continue
            alike = read_alike(page) if level == tree.depth and name not in (MAIN, FREE_LIST) else None
            if alike is not None:
                self._check_order(name, number, alike.keys, low, high, True)
                leaves += 1
                entries += len(alike.keys)
                for first, length in alike.runs:
                    overflow += self._check_run(name, number, first, length)
                continue
            try:
                is_leaf, nodes = read_nodes(page)
                if is_leaf is not (level == tree.depth):
                    raise UnreadableError(f"it is level {level} of a tree of {tree.depth}")
            except UnreadableError as error:
                self._fault("damaged-page", name, number, str(error))
                continue
            self._check_order(name, number, [node.key for node in nodes], low, high, is_leaf)
            if not is_leaf:
                branches += 1
                keys = [low, *[node.key for node in nodes[1:]], high]
                waiting += [
                    (node.child, level + 1, keys[at], keys[at + 1]) for at, node in reversed([*enumerate(nodes)])
                ]
                continue
            leaves += 1
            for node in nodes:
                entries += 1
                if node.flags & BIG:
                    overflow += self._check_run(name, number, node.page, node.length)
                elif node.flags and name != MAIN:
                    self._fault("damaged-page", name, number, "it holds the root of a tree")
                yield node.key, node
        self._trees[name] = TreePages(branches, leaves, overflow, entries)
        if not self._reads_heads(name) and overflow < tree.overflow:
            # a value that was written twice in one transaction keeps the pages of the longer one: only its head tells
            self._unseen += tree.overflow - overflow
            overflow = tree.overflow
        said = (tree.branches, tree.leaves, tree.overflow, tree.entries)
        found = (branches, leaves, overflow, entries)
        if self._found == before and said != found:
            problem = f"its head says {said} branches, leaves, overflow pages and entries, and it has {found}"
            self._fault("wrong-tree-figures", name, 0 if tree.root == EMPTY else tree.root, problem)

    def _check_order(
        self, name: str, number: int, keys: list[bytes], low: bytes | None, high: bytes | None, is_leaf: bool
    ) -> None:
        # the first key of a branch stands for everything below the second, whatever it says
        order = keys if is_leaf else keys[1:]
        if name == FREE_LIST:
            order = [_comparable(name, key) for key in order]
        if any(map(ge, order, order[1:])):
            self._fault("disordered-keys", name, number, "its keys are not in order")
        elif order and (
            (low is not None and order[0] < _comparable(name, low))
            or (high is not None and order[-1] >= _comparable(name, high))
        ):
            self._fault("disordered-keys", name, number, "it holds keys that belong into another page")

    def _page(self, name: str, number: int) -> bytes | None:
        if not self._take(name, number, number, 1):
            return None
        page = self._bytes(name, number, self._head.page_size, number * self._head.page_size)
        if page is None:
            return None
        says = int.from_bytes(page[:8], "little")
        if says == number and len(page) == self._head.page_size:
            return page
        self._fault("damaged-page", name, number, f"it says that it is page {says}")
        return None

    def _bytes(self, name: str, number: int, length: int, at: int) -> bytes | None:
        """Bytes of the file that belong to a page; None, and a fault, where the disk cannot read them."""
        try:
            data = os.pread(self._descriptor, length, at)
        except OSError as error:
            self._fault("damaged-page", name, number, f"it cannot be read: {error}")
            return None
        self._read += len(data)
        return data

    def _take(self, name: str, holder: int, first: int, pages: int) -> bool:
        """Note that a run of pages is in use; False, and a fault, where it cannot be or is in use already."""
        last = first + pages - 1
        if not FIRST <= first <= last <= self._head.last_page:
            self._fault("damaged-page", name, holder, f"it leads to page {last}, of {self._head.last_page + 1}")
        elif (last + 1) * self._head.page_size > self._size:
            self._fault("damaged-page", name, holder, f"page {last} is beyond the file's end at byte {self._size}")
        elif not self._map.take(first, pages):
            self._fault("shared-page", name, first, "it is reached in two ways")
        else:
            return True
        return False

    def _reads_heads(self, name: str) -> bool:
        return self._values or name != Space.CHUNK.value.decode()

    def _check_run(self, name: str, number: int, first: int, length: int) -> int:
        """Check the pages of a value; returns how many they are."""
        pages = run_of(length, self._head.page_size)
        if self._reads_heads(name) and FIRST <= first <= self._head.last_page:
            head = self._bytes(name, first, PAGE.size, first * self._head.page_size)
            if head is None:
                return pages
            if len(head) == PAGE.size:
                says, _, flags, low, high = PAGE.unpack(head)
                if says != first or flags != OVERFLOW or low | high << 16 < pages:
                    self._fault("damaged-page", name, first, f"it is not the first of a value's {pages} pages")
                    return pages
                pages = low | high << 16
        self._take(name, number, first, pages)
        return pages

    def _subtree(self, key: bytes, node: Node) -> Tree | None:
        name = key.decode("utf-8", "backslashreplace")
        try:
            if node.flags != SUBTREE:
                raise UnreadableError("it is no tree")
            return read_subtree(node.value, self._head.last_page)
        except UnreadableError as error:
            self._fault("damaged-page", MAIN, self._head.main.root, f"its entry {name}: {error}")
            return None

    # -- the free list -------------------------------------------------------------------------------------------------

    def _freed(self, key: bytes, node: Node) -> array[int]:
        """The pages that one entry of the free list names."""
        free = array("Q")
        value = node.value
        if node.flags & BIG and node.length <= 8 * (self._head.last_page + 2):
            first = int.from_bytes(value, "little")
            read = self._bytes(FREE_LIST, first, node.length, first * self._head.page_size + PAGE.size)
            if read is None:
                return free
            value = read
        problem = ""
        if len(key) != 8 or int.from_bytes(key, "little") > self._head.transaction:
            problem = "an entry of a transaction that has not been"
        elif len(value) < 8 or len(value) % 8 or 8 * struct.unpack_from("=Q", value)[0] != len(value) - 8:
            problem = "an entry that is no list of pages"
        else:
            free.frombytes(value[8 : 8 + 8 * struct.unpack_from("=Q", value)[0]])
            if any(a <= b for a, b in pairwise(free)):
                problem = "an entry whose pages are not in order"
            elif free and not (free[-1] >= FIRST and free[0] <= self._head.last_page):
                problem = "an entry with pages that there are not"
        if problem:
            self._fault(
                "damaged-free-list", FREE_LIST, 0 if self._head.free.root == EMPTY else self._head.free.root, problem
            )
            return array("Q")
        return free

    def _mark_free(self, free: array[int]) -> None:
        for number in free:
            held = self._map.mark_free(number)
            if held == USED:
                self._fault("free-page-in-use", FREE_LIST, number, "it is on the free list, and in use")
            elif held == FREE:
                self._fault("damaged-free-list", FREE_LIST, number, "it is on the free list twice")


def _comparable(name: str, key: bytes) -> bytes:
    """What orders a key: those of the free list are numbers, little-endian."""
    return key[::-1] if name == FREE_LIST else key
