"""Which chunks of a store are read: all, a random share of them, or one of several groups that together are all."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_SHARE: Final = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)%")
_GROUP: Final = re.compile(r"(\d{1,9})/(\d{1,9})")
_SIZE: Final = re.compile(r"(\d{1,15})\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_FACTOR: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

Choose = Callable[[bytes], bool]
"""Whether a chunk is to be read, by its id; asked once for each chunk."""


@dataclass(frozen=True, slots=True)
class Subset:
    """A share of the data, in one of three ways; the other fields are None.

    share: of the chunks, at random, above 0 and at most 1. group: the n-th of t groups, by id, counted from 1: the
    same ids in each run. size: bytes, at random.
    """

    text: str
    share: float | None = None
    group: tuple[int, int] | None = None
    size: int | None = None

    def part(self, bytes: int) -> float:
        """The share of the data that this is, where all of it are so many bytes."""
        if self.group is not None:
            return 1 / self.group[1]
        if self.share is not None:
            return self.share
        return min(1.0, (self.size or 0) / bytes) if bytes else 1.0

    def chooser(self, chunks: int, bytes: int) -> Choose:
        """What chooses among so many chunks of so many bytes in all."""
        if self.group is not None:
            n, t = self.group
            return lambda oid: int.from_bytes(oid[:8], "big") % t == n - 1
        return _sampler(chunks, self.part(bytes))


def parse_subset(text: str) -> Subset:
    """A subset as people write it: "5%", "2/7" or "500M".

    Raises:
        ValueError: it is none of these, or none of the data.
    """
    if found := _SHARE.fullmatch(text):
        share = float(found[1]) / 100
        if 0 < share <= 1:
            return Subset(text, share=share)
    elif found := _GROUP.fullmatch(text):
        n, t = int(found[1]), int(found[2])
        if 1 <= n <= t:
            return Subset(text, group=(n, t))
    elif (found := _SIZE.fullmatch(text)) and int(found[1]):
        return Subset(text, size=int(found[1]) * _FACTOR[found[2].upper()])
    raise ValueError(f"{text!r} is no share of the data; write 5%, 2/7 (the second of seven groups) or 500M")


def _sampler(chunks: int, share: float) -> Choose:
    """Choose so many of the chunks that come by, each as likely as any other (Knuth, 3.4.2, algorithm S)."""
    if share >= 1:
        return lambda oid: True
    wanted = min(chunks, max(1, math.ceil(chunks * share)))
    left = chunks
    source = random.Random()

    def choose(oid: bytes) -> bool:
        nonlocal wanted, left
        taken = wanted > 0 and source.random() * left < wanted  # others may have added chunks meanwhile
        left -= 1
        wanted -= taken
        return taken

    return choose
