"""Getting the disk to work early: LMDB hands all pages of a transaction to the kernel and only then waits for the disk,
which has nothing to do until then.

It is a hint and never more: what is on the disk when is decided by LMDB's own sync. The kernel may write any page when
it likes anyway.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from _thread import allocate_lock, start_new_thread
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from casckpt.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

# A transaction with less to write is over before it would matter.
_LEAST: Final = 8 * MIB
# Seconds between two hints: a few MiB are handed over in that time.
_INTERVAL: Final = 0.002
# From Linux's fs.h: begin to write what is dirty and not being written yet, and wait for nothing.
_SYNC_FILE_RANGE_WRITE: Final = 2


@contextlib.contextmanager
def early_writeback(file: Path, size: int) -> Iterator[None]:
    """While LMDB commits some `size` bytes to this file, have what it handed over written at once, if that can be."""
    begin = _sync_file_range() if size >= _LEAST else None
    if begin is None:
        yield
        return
    over = allocate_lock()
    over.acquire()
    try:
        with contextlib.suppress(RuntimeError):  # no more threads: then without
            start_new_thread(_hint, (begin, file, over.acquire))
        yield
    finally:
        over.release()


def _hint(begin: Callable[[int, int, int, int], int], file: Path, is_over: Callable[..., bool]) -> None:
    with contextlib.suppress(OSError):  # a hint: LMDB's own sync is told of whatever is wrong with the file
        descriptor = os.open(file, os.O_RDONLY)
        try:
            while not is_over(True, _INTERVAL):
                begin(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(descriptor)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        found = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):  # not on Linux
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found.restype = ctypes.c_int
    return found
