"""Advice to Linux about memory: what it is for, and what will be needed. Nothing changes where it is not taken."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import Final

import numpy as np

# madvise(2); the last since Linux 6.1
WILLNEED: Final = 3
HUGEPAGE: Final = 14
COLLAPSE: Final = 25


def address(block: memoryview) -> int:
    """Where a block of memory begins; 0 for an empty one."""
    return int(np.frombuffer(block, np.uint8).__array_interface__["data"][0]) if len(block) else 0


def advise(start: int, length: int, advice: int) -> bool:
    """Whether the kernel took the advice about a range of addresses, which begins with a page."""
    libc = _libc()
    return libc is not None and bool(libc.madvise(start, length, advice) == 0)


def is_resident(page: int) -> bool:
    """Whether the page at this address is in memory; yes where that cannot be told."""
    libc = _libc()
    state = ctypes.create_string_buffer(1)
    if libc is None or libc.mincore(page, mmap.PAGESIZE, state) != 0:
        return True
    return bool(state.raw[0] & 1)


@cache
def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    return libc
