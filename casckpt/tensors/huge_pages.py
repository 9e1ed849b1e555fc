"""Huge pages for memory that a state is about to be loaded into: touched for the first time in pages of 4 KiB, it costs
several times as much as all the rest of a load.

Only ever advice to Linux: where huge pages cannot be had, nothing changes. The memory stays what it is, torch's own.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from casckpt.tensors import advice
from casckpt.tensors.workers import each, thread_count

# Memory in one piece that holds fewer huge pages than these is not worth the call.
_LEAST: Final = 2
# malloc keeps its own words before each block, at most so far before: torch aligns to 64 bytes.
_MALLOC_HEAD: Final = 64


def prefer(blocks: Iterable[memoryview]) -> None:
    """Have fresh blocks of memory made of huge pages when they are first touched, as far as that is possible.

    Neighbouring blocks are taken together. Where malloc touched a page when it gave the blocks out, the kernel would
    make the whole range around it of small pages; there the huge page is made here, by several threads.
    """
    size = _huge_page()
    if size is None:
        return
    spans = sorted((start, start + len(block)) for block in blocks if (start := advice.address(block)))
    touched = {(start - _MALLOC_HEAD) // size for start, _ in spans}
    begun: list[int] = []
    for start, end in _joined(spans):
        if end - start >= _LEAST * size and advice.advise(start, end - start, advice.HUGEPAGE):
            begun += [page * size for page in range(-(-start // size), end // size) if page in touched]
    each(lambda page: advice.advise(page, size, advice.COLLAPSE), begun, threads=thread_count())


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ordered spans of addresses in whole pages, those that meet as one: heads of malloc's lie between two blocks."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        start, end = start // mmap.PAGESIZE * mmap.PAGESIZE, -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        if joined and start <= joined[-1][1] + mmap.PAGESIZE:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


@cache
def _huge_page() -> int | None:
    """Bytes of a huge page, None where there are none."""
    if sys.platform != "linux":
        return None
    try:
        size = int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return None
    return size if size >= mmap.PAGESIZE else None
