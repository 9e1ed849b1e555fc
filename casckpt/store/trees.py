"""Walks the trees of a damaged data file by plain reads, and gives what is in one only if every page of it is sound.

It must never believe a part of a tree: what is left out could be what matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from casckpt.limits import MIB
from casckpt.store import layout
from casckpt.store.layout import (
    BIG,
    EMPTY,
    OVERFLOW,
    PAGE,
    SUBTREE,
    Head,
    Tree,
    UnreadableError,
    read_subtree,
)
from casckpt.store.nodes import Node, read_nodes
from casckpt.store.protocol import Space
from casckpt.store.scan import Scanned

# A record beside the objects is no longer than this.
_MAX_VALUE: Final = MIB
# Times that a file's pages are read.
_WALKS: Final = 16


class Trees:
    """The trees of a file that was looked through.

    However many roots lead to the same pages, so many pages are read in all as the file has 16 times; then no tree is
    whole any more. States that were left behind share most pages, but each asks for a few alone.
    """

    def __init__(self, file: Scanned) -> None:
        self._file = file
        self._left = _WALKS * (file.size // file.page_size + 1)

    def entries(self, head: Head, space: Space) -> list[tuple[bytes, bytes]] | None:
        """All of a sub-database as a head leads to it; None unless every page on the way is as LMDB writes it."""
        walk = _Walk(self._read, head)
        try:
            for entry in list(walk.tree(head.main)):
                if entry.key == space.value:
                    if entry.flags != SUBTREE:
                        return None
                    root = read_subtree(entry.value, head.last_page)
                    return [(found.key, walk.value(found)) for found in walk.tree(root)]
        except UnreadableError:
            return None
        return None

    def _read(self, at: int, length: int) -> bytes:
        self._left -= max(1, length // self._file.page_size)
        if self._left < 0:
            raise UnreadableError("more trees than there are pages for")
        return self._file.read(at, length)


class _Walk:
    """One look at trees, each page of which is used once."""

    def __init__(self, read: Callable[[int, int], bytes], head: Head) -> None:
        self._read = read
        self._head = head
        self._met: set[int] = set()

    def tree(self, tree: Tree) -> Iterator[Node]:
        """The entries of a tree, in order.

        Raises:
            UnreadableError: a page is not as LMDB writes it, or there are not as many entries as the tree says.
        """
        count = 0
        last: bytes | None = None
        waiting = [] if tree.root == EMPTY else [(tree.root, 1)]
        while waiting:
            number, level = waiting.pop()
            page = self._page(number, 1)
            if PAGE.unpack_from(page)[0] != number:
                raise UnreadableError("it says that it is another page")
            is_leaf, nodes = read_nodes(page)
            if is_leaf is not (level == tree.depth):
                raise UnreadableError("it is of another level")
            if not is_leaf:
                waiting += [(child, level + 1) for child in reversed([node.child for node in nodes])]
                continue
            for node in nodes:
                if last is not None and node.key <= last:
                    raise UnreadableError("its keys are not in order")
                last = node.key
                count += 1
                yield node
        if count != tree.entries:
            raise UnreadableError("it has not as many entries as it says")

    def value(self, node: Node) -> bytes:
        """The value of a node, out of its own pages if it has such."""
        if node.flags != BIG:
            return node.value
        if node.length > _MAX_VALUE:
            raise UnreadableError("a record that is too long for one")
        data = self._page(node.page, layout.run_of(node.length, self._head.page_size))
        number, _, flags, *_ = PAGE.unpack_from(data)
        if (number, flags) != (node.page, OVERFLOW):
            raise UnreadableError("it is not the first page of a value")
        return data[PAGE.size : PAGE.size + node.length]

    def _page(self, first: int, pages: int) -> bytes:
        taken = set(range(first, first + pages))
        if not 2 <= first <= self._head.last_page or taken & self._met:
            raise UnreadableError("a page that is there twice, or not at all")
        self._met |= taken
        data = self._read(first * self._head.page_size, pages * self._head.page_size)
        if len(data) != pages * self._head.page_size:
            raise UnreadableError("the file ends before it", truncated=True)
        return data
