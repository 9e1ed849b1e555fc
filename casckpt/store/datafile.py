"""Reads an LMDB data file from outside LMDB, by plain reads, before it is mapped.

A map of a file that ends too early kills the process (SIGBUS); a plain read just comes back short. So a store is looked
at here first: is it LMDB's at all, what is its format record, does the file hold all that its trees reach. It must
never write.

Other processes may commit meanwhile. LMDB writes a commit beside what it replaces, and a page that the commit after N
frees is used again by the third after N at the earliest. So what was read counts if at most one commit came between.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from casckpt.errors import CorruptObjectError, NotAStoreError, StoreBusyError, TruncatedStoreError
from casckpt.store.format import COUNTER_KEY, FORMAT_KEY
from casckpt.store.layout import (
    BIG,
    EMPTY,
    HEAD_SIZE,
    MAX_DEPTH,
    PAGE,
    SUBTREE,
    Head,
    Tree,
    UnreadableError,
    read_head,
    read_subtree,
    run_of,
)
from casckpt.store.nodes import Node, read_nodes
from casckpt.store.protocol import Space

# Commits that may overtake one look at the file before it is given up; each is a try of microseconds.
_TRIES: Final = 100
# Pages of a file that was made, and to which the first transaction was never committed.
_BLANK: Final = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a look at the file tells: whether nothing can be in it, and the format record, if there is one."""

    blank: bool
    format: bytes | None


def look_into(path: Path) -> Contents:
    """Whether `path` is LMDB's, whole, and what its format record is.

    Raises:
        NotAStoreError: it is not an LMDB file.
        TruncatedStoreError: it ends before its contents do.
        CorruptObjectError: its head or a page leads nowhere.
        StoreBusyError: others change it faster than it can be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = _DataFile(descriptor)
        file.steady(file.check_whole)
        found = file.steady(file.contents)
        if found.format is None and not found.blank:
            file.check_other()
        return found
    except UnreadableError as error:
        store = str(path.parent)
        if error.truncated:
            raise TruncatedStoreError(
                f"{path.name} is cut short: {error}", store=store, remedy=way_out(path.parent)
            ) from error
        raise CorruptObjectError(f"{store}: {path.name} is damaged: {error}", remedy=way_out(path.parent)) from error
    except NotAStoreError as error:
        raise NotAStoreError(
            f"{path.name} {error.problem}", store=str(path.parent), remedy="give the path of a store, or a new one"
        ) from None
    finally:
        os.close(descriptor)


def transactions(path: Path) -> tuple[int, int]:
    """LMDB's numbers of the transactions that the two heads are of; in a file that `look_into` has seen to be LMDB's.

    That of transaction n is in page n % 2, so one of two that do not follow each other was damaged.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        first, second = (head.transaction for head in _DataFile(descriptor).heads())
        return first, second
    finally:
        os.close(descriptor)


def do_follow(even: int, odd: int) -> bool:
    """Whether heads of these transactions can both be whole."""
    return even % 2 == 0 and abs(even - odd) == 1


def is_last(path: Path) -> bool:
    """Whether the state that LMDB would show is the last one, and not the one before it, by the changes that the states
    of both heads count: each transaction counts one. For heads whose numbers do not tell."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = _DataFile(descriptor)
        heads = file.heads()
        shown = max(head.transaction for head in heads) % 2  # mdb.c: the page of the later number, whichever has it
        counters = [file.counter(head) for head in heads]
        return counters[shown] == counters[1 - shown] + 1
    except UnreadableError:
        return False
    finally:
        os.close(descriptor)


def free_records(path: Path, transaction: int) -> tuple[int, list[tuple[int, int]]]:
    """The page size, and of each record of the free list, as a transaction left it, by which transaction its pages were
    freed and how many are not in use again. Nothing where neither head is of that transaction.

    Raises:
        UnreadableError, NotAStoreError: the file is damaged, or two commits came while it was read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = _DataFile(descriptor)
        for head in file.heads():
            if head.transaction == transaction:
                return head.page_size, [*file.free_records(head)]
        return 0, []
    finally:
        os.close(descriptor)


def way_out(store: Path) -> str:
    """What to do about a data file that is damaged."""
    return (
        "look with `casckpt fsck`, restore the store from a backup, or get out what is whole with "
        f"`casckpt salvage {shlex.quote(str(store))} NEW`"
    )


def damaged(store: Path, problem: object) -> CorruptObjectError:
    """What to raise where the data file of a store shows that it is damaged."""
    return CorruptObjectError(f"{store}: its database is damaged: {problem}", remedy=way_out(store))


class _DataFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def steady(self, look: Callable[[Head], T]) -> T:
        """What `look` sees, looked at again for as long as others' commits may have disturbed it."""
        for _ in range(_TRIES):
            head = self.head()
            try:
                seen = look(head)
            except UnreadableError:
                if self.head() == head:
                    raise
                continue
            if self.head().transaction <= head.transaction + 1:
                return seen
        raise StoreBusyError("other processes change it faster than it can be looked at", remedy="try again")

    def head(self) -> Head:
        """The head that LMDB would take: of the two, the one with the later transaction."""
        first, second = self.heads()
        return first if first.transaction >= second.transaction else second

    def heads(self) -> tuple[Head, Head]:
        before, heads = None, self._heads()
        while heads != before:  # a commit may be writing one of them just now
            before, heads = heads, self._heads()
        return read_head(heads[0]), read_head(heads[1])

    def _heads(self) -> tuple[bytes, bytes]:
        first = os.pread(self._descriptor, HEAD_SIZE, 0)
        return first, os.pread(self._descriptor, HEAD_SIZE, read_head(first).page_size)

    def check_whole(self, head: Head) -> None:
        """Check that the file holds all that can be reached: only if it is short, which a healthy one can be too."""
        size = os.fstat(self._descriptor).st_size
        if size >= (head.last_page + 1) * head.page_size:
            return
        seen: set[int] = set()
        for _, tree in self._subtrees(head, size, seen):
            for _ in self._entries(head, tree, size, seen):
                pass
        for _ in self._entries(head, head.free, size, seen):  # a write transaction reads it through the map too
            pass

    def contents(self, head: Head) -> Contents:
        """The format record, by a walk down to it."""
        record = self._meta(head, FORMAT_KEY)
        return Contents(blank=record is None and self._is_blank(), format=record)

    def counter(self, head: Head) -> int:
        """How many changes the state counts that a head leads to; raises UnreadableError where it does not."""
        value = self._meta(head, COUNTER_KEY)
        if value is None:
            raise UnreadableError("a state without its counter")
        return int.from_bytes(value, "big")

    def _meta(self, head: Head, key: bytes) -> bytes | None:
        size = os.fstat(self._descriptor).st_size
        seen: set[int] = set()
        for name, tree in [*self._subtrees(head, size, seen)]:  # all of them, so that each is looked at
            if name == Space.META.value:
                for record in self._entries(head, tree, size, seen):
                    if record.key == key:
                        return None if record.flags else record.value
        return None

    def _is_blank(self) -> bool:
        """Whether nothing was ever committed to the file. Never by the word of one head: of a store that had a single
        transaction, as each backup has, the other is of an empty database, and a flipped bit makes it the later one."""
        size = os.fstat(self._descriptor).st_size
        return all(
            head.transaction == 0
            and head.main == head.free == Tree(EMPTY, 0)
            and head.last_page < 2
            and size <= _BLANK * head.page_size
            for head in self.heads()
        )

    def check_other(self) -> None:
        """Raise if the head that does not count leads to a format record; call where the one that counts does not."""
        later = self.head()
        for head in self.heads():
            if head != later:
                try:
                    record = self.contents(head).format
                except UnreadableError:  # it may be of any earlier state
                    continue
                if record is not None:
                    raise UnreadableError("its later head is of no store, and the earlier one is")

    def free_records(self, head: Head) -> Iterator[tuple[int, int]]:
        """The records of the free list: a transaction, and how many of the pages that it freed are not in use again."""
        size = os.fstat(self._descriptor).st_size
        for node in self._entries(head, head.free, size, set()):
            value = node.value
            if node.flags == BIG:
                value = os.pread(self._descriptor, 8, node.page * head.page_size + PAGE.size)
            if node.flags == SUBTREE or len(value) < 8:
                raise UnreadableError("an entry of the free list that is no list of pages")
            yield int.from_bytes(node.key, "little"), int.from_bytes(value[:8], "little")

    def _subtrees(self, head: Head, size: int, seen: set[int]) -> Iterator[tuple[bytes, Tree]]:
        """The roots that the main tree holds, under their names."""
        for node in self._entries(head, head.main, size, seen):
            if node.flags == SUBTREE:
                yield node.key, read_subtree(node.value, head.last_page)

    def _entries(self, head: Head, tree: Tree, size: int, seen: set[int]) -> Iterator[Node]:
        """The leaf entries of a tree, each page checked to be in the file and to be what it should.

        seen: the pages of this look so far. None is reached twice, or a few that lead to each other would be read
            for ever.
        """
        waiting = [] if tree.root == EMPTY else [(tree.root, 1)]
        while waiting:
            number, depth = waiting.pop()
            if number in seen:
                raise UnreadableError(f"page {number} is reached in two ways")
            seen.add(number)
            page = self._page(head, number, size)
            try:
                is_leaf, nodes = read_nodes(page)
            except UnreadableError as error:
                raise UnreadableError(f"page {number}: {error}") from error
            if not is_leaf:
                if depth == MAX_DEPTH:
                    raise UnreadableError(f"page {number} is deeper than a tree can be")
                waiting += [(node.child, depth + 1) for node in nodes]
                continue
            for node in nodes:
                if node.flags == BIG:
                    self._check_run(head, node.page, run_of(node.length, head.page_size), size)
                yield node

    def _page(self, head: Head, number: int, size: int) -> bytes:
        self._check_run(head, number, 1, size)
        try:
            page = os.pread(self._descriptor, head.page_size, number * head.page_size)
        except OSError as error:
            raise UnreadableError(f"page {number} cannot be read: {error}") from error
        if len(page) < head.page_size or PAGE.unpack_from(page)[0] != number:
            raise UnreadableError(f"page {number} says that it is another")
        return page

    @staticmethod
    def _check_run(head: Head, first: int, pages: int, size: int) -> None:
        if not 2 <= first <= head.last_page + 1 - pages:
            raise UnreadableError(f"a reference to page {first}, of {head.last_page + 1}")
        if (first + pages) * head.page_size > size:
            raise UnreadableError(f"it ends at byte {size}, and page {first + pages - 1} is beyond", truncated=True)
