"""Looks through a damaged data file by plain reads: for frames anywhere, for leaf pages, and for roots of trees.

It believes no page for what another says of it, maps nothing and writes nothing. What it gives is what stands there:
whether a frame is what it says, and an entry what it looks like, is for those who know what they mean.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

from casckpt.errors import CorruptObjectError, NewerFormatError, NotAStoreError
from casckpt.limits import KIB, MIB
from casckpt.objects.codec import MOST
from casckpt.objects.frame import MAGIC, MAX_HEAD, FrameHead, read_head
from casckpt.store import layout
from casckpt.store.layout import (
    BRANCH,
    EMPTY,
    HEAD_SIZE,
    LEAF,
    NODE,
    OVERFLOW,
    PAGE,
    SUBTREE,
    TREE,
    Head,
    Tree,
    UnreadableError,
)
from casckpt.store.nodes import Node, read_nodes
from casckpt.store.protocol import Progress, Space

# Bytes that are read at once.
_BLOCK: Final = 8 * MIB
# LMDB's pages are those of the machine that made the file.
_PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536, 2048, 1024, 512)
_USUAL: Final = 4096
# Frames lie beside each other, and one within another only where a raw chunk holds bytes of a casckpt file. So much of
# each stretch of a file is read as candidates for frames: so many times what it has.
_STRETCH: Final = MIB
_LAYERS: Final = 8
# Pages that are asked whether they are numbered by a size, until one is found that fits.
_ASKED: Final = 4096


class Scanned:
    """One data file, open for reading. A context manager.

    page_size: bytes, out of its heads, else as most of its pages are numbered. size: bytes of the file. unbroken: after
    `look_through`, whether every page of it is where it should be, and each leaf is sound. It may seem broken where
    values that were freed were overwritten in part.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size
        self._heads = self._read_heads()
        self.page_size = self._heads[0].page_size if self._heads else self._guess_page_size()
        pages = max([2, *(head.last_page + 1 for head in self._heads)])
        self._tried = array("Q", bytes(8 * (self.size // _STRETCH + 1)))  # bytes that candidates had of each stretch
        self._roots: list[tuple[int, int, int]] = []  # entries of all its trees, its page, its own entries
        self.unbroken = self.size % self.page_size == 0 and self.size >= pages * self.page_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def read(self, at: int, length: int) -> bytes:
        """Bytes of the file; fewer where it ends, and none where the disk cannot read them."""
        pieces: list[bytes] = []
        while length > 0:
            try:
                piece = os.pread(self._descriptor, length, at)
            except OSError:  # a bad sector takes what is on it, and nothing else
                break
            if not piece:
                break
            pieces.append(piece)
            at, length = at + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def frame(self, at: int) -> tuple[FrameHead, bytes] | None:
        """The head and the whole frame that begin at a byte; None where none does, or the file ends in it."""
        head = _head(memoryview(self.read(at, MAX_HEAD)))
        if head is None:
            return None
        length = head[1] + head[0].payload_length
        frame = self.read(at, length)
        return (head[0], frame) if len(frame) == length else None

    def candidate(self, at: int) -> bytes | None:
        """A whole frame that is to be tried, which may be nothing of the kind. To be asked for once.

        None also where too many that claim the same bytes were tried before: heads are cheap to make, so that without
        a bound a small file could have itself read for ever.
        """
        head = _head(memoryview(self.read(at, MAX_HEAD)))
        if head is None:
            return None
        end = at + head[1] + head[0].payload_length
        shares = {
            number: min(end, (number + 1) * _STRETCH) - max(at, number * _STRETCH)
            for number in range(at // _STRETCH, (end - 1) // _STRETCH + 1)
        }
        if end > self.size or any(self._tried[n] + share > _LAYERS * _STRETCH for n, share in shares.items()):
            return None
        for number, share in shares.items():
            self._tried[number] += share
        frame = self.read(at, end - at)
        return frame if len(frame) == end - at else None

    def head(self, at: int) -> FrameHead | None:
        """The head of the frame that begins at a byte."""
        head = _head(memoryview(self.read(at, MAX_HEAD)))
        return None if head is None else head[0]

    # -- anywhere ------------------------------------------------------------------------------------------------------

    def look_through(
        self,
        on_frame: Callable[[FrameHead, int], None],
        on_entry: Callable[[bytes, bytes], None],
        on_record: Callable[[bytes], None],
        progress: Progress,
    ) -> None:
        """Read the whole file once.

        on_frame: called with the head of everything that begins as a frame does and is no longer than an object of its
        kind may be, and where; all lie on even bytes, in pages of their own behind a head of 16 bytes, or amid others
        in a leaf. on_entry: with key and value of each
        entry of a page that is a leaf throughout. on_record: with what looks like a format record, in whatever page.
        """
        step = max(_BLOCK, self.page_size)
        following = 2 * self.page_size  # where the next page begins that has a head
        for start in range(0, self.size, step):
            block = self.read(start, step + MAX_HEAD) or self._piecemeal(start, step)
            view = memoryview(block)
            for at in _all(block, MAGIC, step):
                if at % 2 == 0:
                    found = _head(view[at : at + MAX_HEAD])
                    if found is not None and self._may_be(found[0], start + at + found[1]):
                        on_frame(found[0], start + at)
            for at in _all(block, _RECORD, step):
                on_record(self._value(start + at, len(_RECORD_KEY)))
            for at in range(0, min(step, len(block)), self.page_size):
                page = block[at : at + self.page_size]
                flags, pages = _sort(page, (start + at) // self.page_size)
                if start + at >= following:
                    following = start + at + pages * self.page_size
                    self.unbroken &= pages > 0
                if flags == LEAF:
                    entries = self._leaf(page)
                    for entry in entries:
                        if not entry.flags:
                            on_entry(entry.key, entry.value)
                    trees = {entry.key: entry.value for entry in entries if entry.flags == SUBTREE}
                    if trees.keys() >= _NAMES:
                        held = sum(TREE.unpack(tree)[6] for tree in trees.values() if len(tree) == TREE.size)
                        self._roots.append((held, (start + at) // self.page_size, len(entries)))
            progress("looking through the file", min(start + step, self.size), self.size)

    def _may_be(self, head: FrameHead, payload: int) -> bool:
        """Whether a frame is no longer than it may be, and ends in the file; its payload begins at a byte."""
        return max(head.raw_length, head.payload_length) <= MOST[head.kind] and (
            payload + head.payload_length <= self.size
        )

    def _leaf(self, page: bytes) -> list[Node]:
        try:
            return read_nodes(page)[1]
        except UnreadableError:
            emptied = PAGE.unpack_from(page)[3:] == (PAGE.size, len(page))  # before it was given up
            self.unbroken &= emptied
            return []

    def _value(self, key: int, key_size: int) -> bytes:
        """The value behind a key, as long as the head of the node before the key says."""
        head = self.read(max(0, key - NODE.size), NODE.size)
        low, high, _, _ = NODE.unpack(head.ljust(NODE.size, b"\0"))
        return self.read(key + key_size, min(low | high << 16, KIB))  # no record is longer; many keys may be lies

    def _piecemeal(self, start: int, length: int) -> bytes:
        """A block that cannot be read at once, with zeros for the pages that cannot be read at all."""
        pieces = range(start, min(start + length, self.size), _USUAL)
        return b"".join([self.read(at, _USUAL).ljust(_USUAL, b"\0") for at in pieces])

    # -- where trees begin ---------------------------------------------------------------------------------------------

    @property
    def heads(self) -> list[Head]:
        """Those of the two heads that can be read, the newer first."""
        return self._heads

    @property
    def roots(self) -> list[Head]:
        """After `look_through`, what heads may have led to: a root of the main tree, of whatever age, for each.

        Those that lead to most come first: while a store is copied, as compact does, it is there in part.
        """
        last, nothing = self.size // self.page_size - 1, Tree(EMPTY, 0)
        roots = sorted(self._roots, reverse=True)
        return [Head(self.page_size, last, 0, nothing, Tree(root, count, 1)) for _, root, count in roots]

    def _read_heads(self) -> list[Head]:
        found: list[Head] = []
        first = self._read_head(0)
        sizes = _PAGE_SIZES if first is None else (first.page_size,)
        for second in (self._read_head(size) for size in sizes):
            if second is not None:
                found.append(second)
                break
        if first is not None:
            found.append(first)
        found = [head for head in found if head.page_size == found[0].page_size]
        return sorted(found, key=lambda head: -head.transaction)

    def _read_head(self, at: int) -> Head | None:
        try:
            head = layout.read_head(self.read(at, HEAD_SIZE))
        except (NotAStoreError, CorruptObjectError, UnreadableError):
            return None
        return head if at in (0, head.page_size) else None

    def _guess_page_size(self) -> int:
        """That by which most pages have the number of their place."""

        def fitting(size: int) -> int:
            asked = range(2 * size, min(self.size, size * _ASKED), size)
            return sum(self._number(at) == at // size for at in asked)

        counts = {size: fitting(size) for size in _PAGE_SIZES}
        return max(counts, key=lambda size: counts[size]) if any(counts.values()) else _USUAL

    def _number(self, at: int) -> int:
        head = self.read(at, PAGE.size)
        if len(head) < PAGE.size:
            return -1
        number, _, flags, *_ = PAGE.unpack(head)
        return number if flags in (BRANCH, LEAF, OVERFLOW) else -1


# What the root of the main tree has, among others.
_NAMES: Final = frozenset(space.value for space in (Space.COMMIT, Space.REF, Space.REFLOG, Space.META))


# A key, and the first bytes of the record under it: a map of six, of which the first is "version".
_RECORD_KEY: Final = b"format"
_RECORD: Final = _RECORD_KEY + b"\x86\xa7version"


def _all(block: bytes, wanted: bytes, end: int) -> Iterator[int]:
    """Where something begins in a block, before its byte `end`."""
    at = block.find(wanted)
    while 0 <= at < end:
        yield at
        at = block.find(wanted, at + 1)


def _head(data: memoryview) -> tuple[FrameHead, int] | None:
    try:
        return read_head(data)
    except (CorruptObjectError, NewerFormatError):
        return None


def _sort(page: bytes, number: int) -> tuple[int, int]:
    """The flags of a page, and how many pages it begins; zeros where it is not the page that it should be."""
    if len(page) < PAGE.size:
        return 0, 0
    said, _, flags, low, high = PAGE.unpack_from(page)
    if said != number or flags not in (BRANCH, LEAF, OVERFLOW):
        return 0, 0
    return flags, low | high << 16 if flags == OVERFLOW else 1
