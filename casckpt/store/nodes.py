"""What one page of a B-tree holds: its nodes, as LMDB writes them (mdb.c: MDB_node), or nothing.

It must never give some of a page's nodes: in what is left out, or read twice, could be what matters.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from casckpt.store.layout import BIG, BRANCH, LEAF, NODE, PAGE, SUBTREE, UnreadableError


class Node(NamedTuple):
    """A node of a page: its key; of a branch the child; of a leaf the flags, the length, and the value or its page."""

    key: bytes
    child: int
    flags: int
    length: int
    value: bytes

    @property
    def page(self) -> int:
        """The first of the pages of its own that the value has, where the flags say so."""
        return int.from_bytes(self.value, "little")


def read_nodes(page: bytes) -> tuple[bool, list[Node]]:
    """Whether a page is a leaf, and its nodes, in order.

    Raises:
        UnreadableError: something in it is not as LMDB writes it.
    """
    _, _, flags, lower, upper = PAGE.unpack_from(page)
    if flags not in (BRANCH, LEAF):
        raise UnreadableError("it is no part of a tree")
    count, odd = divmod(lower - PAGE.size, 2)
    if count < 1 or odd or not lower <= upper <= len(page):
        raise UnreadableError("it has no list of nodes")
    is_leaf = flags == LEAF
    nodes: list[Node] = []
    spans: list[tuple[int, int]] = []
    for offset in struct.unpack_from(f"={count}H", page, PAGE.size):
        if not upper <= offset <= len(page) - NODE.size:
            raise UnreadableError("a node lies outside it")
        low, high, flags, key_size = NODE.unpack_from(page, offset)
        start = offset + NODE.size
        data = start + key_size
        length = low | high << 16
        end = data if not is_leaf else data + (8 if flags & BIG else length)
        if end > len(page) or (is_leaf and flags not in (0, BIG, SUBTREE)):
            raise UnreadableError("a node reaches out of it, or is of no kind")
        nodes.append(Node(page[start:data], length | flags << 32, flags if is_leaf else 0, length, page[data:end]))
        spans.append((offset, end + end % 2))
    at = upper
    for start, end in sorted(spans):
        if start != at:
            raise UnreadableError("its nodes overlap, or leave holes")
        at = end
    if at != len(page):
        raise UnreadableError("its nodes overlap, or leave holes")
    return is_leaf, nodes


class Alike(NamedTuple):
    """A leaf whose nodes are all of one shape: its keys, and first page and length of each value with pages of its
    own."""

    keys: list[bytes]
    runs: list[tuple[int, int]]


def read_alike(page: bytes) -> Alike | None:
    """What `read_nodes` would tell of a leaf, in a fifth of the time; None where it has to be asked."""
    _, _, flags, lower, upper = PAGE.unpack_from(page)
    count, odd = divmod(lower - PAGE.size, 2)
    if flags != LEAF or count < 1 or odd or not lower <= upper <= len(page) - NODE.size:
        return None
    low, high, flags, key_size = NODE.unpack_from(page, upper)
    if flags not in (0, BIG):
        return None
    width, odd = divmod(len(page) - upper, count)
    value = 8 if flags else low | high << 16
    size = NODE.size + key_size + value
    if odd or width != size + size % 2:
        return None
    lows, highs, kinds, key_sizes, keys, values = zip(
        *_shape(key_size, value, bool(flags)).iter_unpack(page[upper:]), strict=True
    )
    offsets = struct.unpack_from(f"={count}H", page, PAGE.size)
    if (
        kinds.count(flags) != count
        or key_sizes.count(key_size) != count
        or not (flags or (lows.count(low) == count and highs.count(high) == count))
        or sorted(offsets) != [*range(upper, len(page), width)]
    ):
        return None
    places = [(offset - upper) // width for offset in offsets]
    runs = [(first, low | high << 16) for low, high, first in zip(lows, highs, values, strict=True)] if flags else []
    return Alike([keys[at] for at in places], runs)


@lru_cache(maxsize=1024)  # a damaged file has sizes without end
def _shape(key_size: int, value: int, is_big: bool) -> struct.Struct:
    """A node as it lies in a page, with the byte behind it that keeps the next one even."""
    return struct.Struct(f"=HHHH{key_size}s{'Q' if is_big else f'{value}s'}{(key_size + value) % 2}x")
