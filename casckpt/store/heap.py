"""Has malloc keep the memory that LMDB copies a batch into, from one batch to the next.

LMDB allocates each run of pages that a transaction writes and frees it afterwards. glibc hands what is free at the end
of a heap back to the kernel, so that the next batch would touch fresh pages again: 280,000 page faults for 1.2 GB, as
long as all the copying. A block that nobody touches, behind the memory of a batch, keeps that from being the end.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Final

from casckpt.limits import KIB, MIB

# What LMDB allocates for a value beyond its own bytes: what rounds it up to pages, and their heads.
_BESIDE: Final = 64 * KIB
# What is allocated at a time; smaller values share it.
_LEAST: Final = MIB


@contextlib.contextmanager
def kept_heap(size: int, largest: int) -> Iterator[None]:
    """While this lasts, this thread's transactions of up to `size` bytes, with values of up to `largest`, find the
    memory of those before. Where malloc is another, nothing changes.
    """
    libc = _libc()
    if libc is None:
        yield
        return
    piece = max(largest, _LEAST) + _BESIDE
    # The first is mapped by itself, and on being freed teaches malloc to take such pieces from the heap.
    libc.free(libc.malloc(piece + _BESIDE))
    pieces = sorted(found for _ in range(size // piece + 2) if (found := libc.malloc(piece)))
    last = pieces.pop() if pieces else None
    for one in pieces:
        libc.free(one)
    try:
        yield
    finally:
        libc.free(last)


@cache
def _libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  # only to see that it is glibc
    except (OSError, AttributeError):
        return None
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    return libc
