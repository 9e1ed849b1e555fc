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
_LARGEST_WRITE = 32 << 20


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def give_back() -> None:
    """Free what nobody refers to, and have malloc return it to the kernel: what comes next gets fresh pages."""
    gc.collect()
    _libc().malloc_trim(0)


def warm(size: int) -> None:
    """Have the kernel own so many bytes of free memory, in fact: touch them and give them back.

    A virtual machine may hand memory that was free for a second or two to its host. Whoever uses it next waits for the
    host at each page, several times as long as for all else that is done to it; also for pages of files.
    """
    ctypes.memset(held := _libc_malloc(size), 1, size)
    _libc().free(held)


def warm_files(folder: Path, size: int) -> None:
    """The same for pages of files, which the kernel takes in larger pieces the more is written at once.

    What is written and deleted at once hardly reaches the disk.
    """
    block = bytes(min(size, _LARGEST_WRITE))
    path = folder / "warm"
    with path.open("wb", buffering=0) as file:
        for _ in range(0, size, len(block) or 1):
            file.write(block)
    path.unlink()


def _libc_malloc(size: int) -> ctypes.c_void_p:
    malloc = _libc().malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    found = malloc(size)
    if not found:
        raise MemoryError(f"no {size} bytes to warm up")
    return ctypes.c_void_p(found)


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
