"""How an LMDB 0.9 data file is laid out (mdb.c: MDB_page, MDB_meta, MDB_db, MDB_node), data version 1, 64 bit.

Whoever reads the file from outside LMDB takes numbers and shapes from here. What is decoded is checked, never trusted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from casckpt.errors import NotAStoreError
from casckpt.store.format import MAP_SIZE

MAGIC: Final = 0xBEEFC0DE
DATA_VERSION: Final = 1
PAGE: Final = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper; of a run of pages the last two are its length
TREE: Final = struct.Struct(
    "=IHHQQQQQ"
)  # page size (or key size), flags, depth, branches, leaves, overflow, entries, root
META: Final = struct.Struct(
    f"=IIQQ{TREE.size}s{TREE.size}sQQ"
)  # magic, version, address, map size, trees, last page, txn
NODE: Final = struct.Struct("=HHHH")  # size low, size high, flags, key size
HEAD_SIZE: Final = PAGE.size + META.size
BRANCH, LEAF, OVERFLOW, META_PAGE = 0x01, 0x02, 0x04, 0x08  # flags of a page
BIG, SUBTREE = 0x01, 0x02  # flags of a leaf's node: its value has pages of its own; its value is the root of a tree
_INTEGER_KEYS: Final = 0x08  # what marks the free list; an environment in a folder of its own has no other flag
EMPTY: Final = (1 << 64) - 1  # the root of a tree without entries
MAX_DEPTH: Final = 32  # CURSOR_STACK in mdb.c


class UnreadableError(Exception):
    """The file does not hold what its head leads to; `truncated` if that is because it ends too early."""

    def __init__(self, problem: str, *, truncated: bool = False) -> None:
        super().__init__(problem)
        self.truncated = truncated


@dataclass(frozen=True, slots=True)
class Tree:
    """The root of one B-tree, and how many levels, pages of each sort and entries it says that it has."""

    root: int
    entries: int
    depth: int = 0
    branches: int = 0
    leaves: int = 0
    overflow: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """One of the file's two heads: the state of the database after a transaction."""

    page_size: int
    last_page: int
    transaction: int
    free: Tree
    main: Tree


def read_head(data: bytes) -> Head:
    """The head at the beginning of `data`. Where its trees lead is for those who follow them to check.

    After a failed write of a head LMDB writes the number of the former transaction over that of the failed one, and
    leaves the trees: so the earlier of two good heads may lead to pages that there never were.

    Raises:
        NotAStoreError: this is no LMDB file, or one of another version.
        UnreadableError: it holds what no head of ours can.
    """
    if len(data) < HEAD_SIZE:
        raise NotAStoreError("is too short for an LMDB file")
    flags = PAGE.unpack_from(data)[2]
    magic, version, _, _, free, main, last_page, transaction = META.unpack_from(data, PAGE.size)
    if not flags & META_PAGE or magic != MAGIC:
        raise NotAStoreError("is not an LMDB file")
    if version != DATA_VERSION:
        raise NotAStoreError(f"is of LMDB data version {version}, not {DATA_VERSION}")
    page_size, flags, *_ = TREE.unpack(free)
    if page_size & (page_size - 1) or not 512 <= page_size <= 65536:
        raise UnreadableError(f"a page size of {page_size}")
    if flags != _INTEGER_KEYS or TREE.unpack(main)[:2] != (0, 0):
        raise UnreadableError("trees of another kind than ours")
    if last_page >= MAP_SIZE // page_size:
        raise UnreadableError(f"{last_page + 1} pages")
    return Head(page_size, last_page, transaction, _tree(free), _tree(main))


def read_tree(record: bytes, last_page: int) -> Tree:
    """The root of a tree, as the main tree holds it.

    Raises:
        UnreadableError: it leads out of the file.
    """
    tree = _tree(record)
    if tree.depth > MAX_DEPTH or not (tree.root == EMPTY or 2 <= tree.root <= last_page):
        raise UnreadableError(f"a tree whose root is page {tree.root}, of {last_page + 1}")
    return tree


def _tree(record: bytes) -> Tree:
    _, _, depth, branches, leaves, overflow, entries, root = TREE.unpack(record)
    return Tree(root, entries, depth, branches, leaves, overflow)


def read_subtree(record: bytes, last_page: int) -> Tree:
    """The root of a sub-database, as the main tree holds it: of byte keys, each with one value.

    Raises:
        UnreadableError: it is of another kind, which LMDB would take it for, or leads out of the file.
    """
    if len(record) != TREE.size:
        raise UnreadableError("a tree that has no root")
    if TREE.unpack(record)[:2] != (0, 0):
        raise UnreadableError("a tree of another kind than ours")
    return read_tree(record, last_page)


def run_of(length: int, page_size: int) -> int:
    """How many pages a value of `length` bytes takes that has pages of its own."""
    return (PAGE.size - 1 + length) // page_size + 1
