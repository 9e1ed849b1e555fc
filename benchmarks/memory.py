"""This process's memory, and handing it back or keeping it: first touch of fresh pages costs as much as much else."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_DEFAULT_THRESHOLD = 128 << 10
_LARGEST_MMAP_THRESHOLD = 32 << 20


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def give_back() -> None:
    """Free what nobody refers to, and have malloc return it to the kernel: what comes next gets fresh pages."""
    gc.collect()
    _libc().malloc_trim(0)


@contextmanager
def kept() -> Iterator[None]:
    """Have malloc keep what is freed, up to blocks of 32 MiB, so that what comes next gets touched memory."""
    libc = _libc()
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _DEFAULT_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_THRESHOLD)
        give_back()


def anonymous_bytes(process: int | None = None) -> int:
    """RssAnon of a process, this one unless given: memory of its own, without mapped pages of files."""
    status = Path(f"/proc/{process or os.getpid()}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) << 10
