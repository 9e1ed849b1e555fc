"""The staging pool: host memory that chunks are copied to, hashed in and written from, and that is used again.

First touch of fresh memory costs more than all else that is done to a byte, so what was taken once is kept for the next
commit, until nobody has needed it for a while.
"""

from __future__ import annotations

import contextlib
import threading
from _thread import LockType, allocate_lock, start_new_thread
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from casckpt.limits import MIB, POOL_IDLE
from casckpt.tensors.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

Bytes = NDArray[np.uint8]

# Memory is taken and given back in slabs of this size. numpy asks for huge pages for arrays as large as this.
SLAB: Final = 32 * MIB
# What a piece begins at: a cache line, so that copies into pages and out of them are aligned.
_ALIGN: Final = 64


class Piece:
    """Some bytes of a slab; to be released when nothing needs them any more."""

    __slots__ = ("_pool", "_slab", "memory")

    def __init__(self, pool: Pool, slab: _Slab, memory: Bytes) -> None:
        self._pool = pool
        self._slab: _Slab | None = slab
        self.memory = memory

    def release(self) -> None:
        """Give the bytes back. Twice is once: whoever was interrupted here may not know whether he did."""
        slab, self._slab = self._slab, None
        if slab is not None:
            self._pool._give_back(slab)


class _Slab:
    __slots__ = ("allocate", "live", "memory", "used")

    def __init__(self, allocate: Callable[[int], Bytes], size: int) -> None:
        self.allocate = allocate
        self.memory = allocate(size)
        self.used = 0  # bytes from the start that are given out, or were, and are not free again before all are
        self.live = 0  # pieces given out and not released


class Pool:
    """Slabs of host memory, shared by the saves of one handle. Thread-safe."""

    def __init__(self, allocate: Callable[[int], Bytes] | None = None) -> None:
        self._allocate = allocate or _plain
        self._lock = threading.Lock()
        self._news = Bell()
        self._free: list[_Slab] = []
        self._open: _Slab | None = None  # the one that pieces are taken from
        self._size = 0  # bytes of all slabs, in use or free
        self._in_use = 0  # bytes of slabs with live pieces
        self.freed = 0
        """How often a slab has come free: to be read before `take`, and given to `wait` where that found no room."""
        # Released to call it off. A threading.Timer has a condition inside: see `Bell`.
        self._timer: LockType | None = None
        self._ended = False

    @property
    def size(self) -> int:
        """Bytes that the pool holds, in use or not."""
        return self._size

    def take(self, size: int, limit: int | None) -> Piece | None:
        """`size` bytes; None where more would be in use than the limit, and something is that will come free.

        limit: bytes of slabs, which the pool does not grow beyond either; None: no limit.
        """
        with self._lock:
            slab = self._open
            if slab is None or slab.used + size > len(slab.memory):
                slab = self._next(size, limit)
            elif slab.live == 0 and not self._may_use(len(slab.memory), limit):
                slab = None
            if slab is None:
                return None
            start = slab.used
            slab.used = min(len(slab.memory), -(-(start + size) // _ALIGN) * _ALIGN)
            self._in_use += len(slab.memory) if slab.live == 0 else 0
            slab.live += 1
            return Piece(self, slab, slab.memory[start : start + size])

    def _may_use(self, more: int, limit: int | None) -> bool:
        return limit is None or self._in_use + more <= limit or not self._in_use

    def _next(self, size: int, limit: int | None) -> _Slab | None:
        """Make another slab the open one."""
        found = next((slab for slab in self._free if len(slab.memory) >= size), None)
        wanted = max(size, SLAB) if found is None else len(found.memory)
        if not self._may_use(wanted, limit):
            return None
        if found is not None:
            self._free.remove(found)
        else:
            if limit is not None and self._size + wanted > limit:
                self._drop()  # too small ones, which are all free
            found = _Slab(self._allocate, wanted)
            self._size += wanted
        old, self._open = self._open, found
        if old is not None and old.live == 0:
            self._free.append(old)
        return found

    def _give_back(self, slab: _Slab) -> None:
        with self._lock:
            slab.live -= 1
            if slab.live == 0:
                slab.used = 0
                self._in_use -= len(slab.memory)
                self.freed += 1
                if slab is not self._open:
                    self._free.append(slab)
                if self._ended or slab.allocate is not self._allocate:
                    self._drop()
                self._news.ring()

    def wait(self, freed: int, may_go_on: Callable[[], bool]) -> None:
        """Return when more has come free than `freed`, or once `may_go_on` says so; it is asked again after `wake`."""
        self._news.wait_for(lambda: self.freed != freed or may_go_on())

    def wake(self) -> None:
        """Have those who wait ask again."""
        self._news.ring()

    # -- between commits -----------------------------------------------------------------------------------------------

    def use(self, allocate: Callable[[int], Bytes]) -> None:
        """Take new slabs in another way, as pinned memory; those of before are dropped as they come free."""
        with self._lock:
            if allocate is not self._allocate:
                self._allocate = allocate
                self._drop()
                self._open = None

    def rest(self) -> None:
        """Nobody needs the pool for now: if that stays so for POOL_IDLE seconds, its memory is given up."""
        with self._lock:
            self._cancel()
            if self._size and not self._ended:
                timer = allocate_lock()
                timer.acquire()
                with contextlib.suppress(RuntimeError):  # the interpreter is about to end, and with it the memory
                    start_new_thread(self._give_up_later, (timer,))
                    self._timer = timer

    def _give_up_later(self, timer: LockType) -> None:
        if not timer.acquire(timeout=POOL_IDLE):
            with self._lock:
                if self._timer is timer:
                    self._timer = None
                    self._drop()

    def work(self) -> None:
        """Somebody is about to need it."""
        with self._lock:
            self._cancel()

    def give_up(self) -> None:
        """Free the memory that nothing is in."""
        with self._lock:
            self._cancel()
            self._drop()

    def end(self) -> None:
        """It will not be used for another commit: what comes free is given up at once."""
        with self._lock:
            self._ended = True
            self._cancel()
            self._drop()

    def _cancel(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.release()

    def _drop(self) -> None:
        if self._open is not None and self._open.live == 0:
            self._free.append(self._open)
            self._open = None
        self._size -= sum(len(slab.memory) for slab in self._free)
        self._free.clear()


def _plain(size: int) -> Bytes:
    return np.empty(size, np.uint8)
