"""The pages of a store's file, read and written behind LMDB's back, for tests of what finds damage there."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

from casckpt.history.repository import History
from casckpt.store.layout import BIG, BRANCH, EMPTY, HEAD_SIZE, NODE, PAGE, TREE, Head, Tree, read_head
from casckpt.store.layout import read_tree as tree_of
from casckpt.store.protocol import Space
from tests.history.world import commit

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


def pick(file: File, name: str, flags: int) -> int:
    """A page of a tree that is a branch or a leaf."""
    return next(n for n, what in file.pages().items() if what == name and PAGE.unpack_from(file.page(n))[2] == flags)


def put(file: File, number: int, at: int, shape: str, *values: int | bytes) -> None:
    file.write(number * SIZE + at, struct.pack(f"={shape}", *values))
