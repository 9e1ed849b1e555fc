"""Has what lies behind the chunks just read be read from the disk too, while these are worked on.

A mapped file is read as its pages are touched, by one thread for us, and the disk stands still in between. Most chunks
lie in the file in the order in which they were saved, which is that in which they are loaded.
"""

from __future__ import annotations

import mmap
from typing import Final

from casckpt.limits import KIB, MIB
from casckpt.tensors import advice

# Frames that begin no further apart than this count as one after the other, and so far ahead is read.
_WINDOW: Final = 32 * MIB
# Smaller frames take so long to decode that the kernel's own reading ahead is enough.
_LEAST: Final = 64 * KIB


class ReadAhead:
    """Watches the frames that are looked up, in whatever order several threads come; used by one at a time."""

    def __init__(self) -> None:
        self._last = 0
        self._asked = 0

    def looked_up(self, frame: memoryview) -> None:
        """Go by this frame. Nothing is asked for where frames lie scattered, or what comes is in memory already."""
        if len(frame) < _LEAST:
            return
        start = advice.address(frame)
        end = start + len(frame)
        if abs(start - self._last) > _WINDOW:
            self._last = self._asked = end
            return
        self._last = max(self._last, end)
        if self._asked > self._last + _WINDOW // 2:
            return
        first, last = (at // mmap.PAGESIZE * mmap.PAGESIZE for at in (max(self._asked, end), self._last + _WINDOW))
        self._asked = last
        if not advice.is_resident(last - mmap.PAGESIZE):
            advice.advise(first, last - first, advice.WILLNEED)
