"""What a check knows of each page of a file: that it is in use, that it is free, or nothing yet.

It must cost next to nothing for each page: there are as many as a file has room for, which may be no more than claimed.
"""

from __future__ import annotations

from typing import Final

FIRST: Final = 2
"""The first page that can hold anything: before it are the two heads."""
UNKNOWN, USED, FREE = range(3)


class PageMap:
    """What is known of each page: a byte for those in the file, and by number those that should be beyond its end."""

    def __init__(self, pages: int, in_file: int) -> None:
        self._pages = pages
        self._known = bytearray(min(pages, in_file))
        self._beyond: dict[int, int] = {}

    def take(self, first: int, pages: int) -> bool:
        """Note that these pages, all in the file, are in use; False where one of them was already."""
        if self._known.count(UNKNOWN, first, first + pages) != pages:
            return False
        self._known[first : first + pages] = bytes((USED,)) * pages
        return True

    def mark_free(self, number: int) -> int:
        """Note that a page is free; returns what was known of it."""
        if number >= len(self._known):
            held = self._beyond.get(number, UNKNOWN)
            self._beyond[number] = FREE
        else:
            held = self._known[number]
            if held == UNKNOWN:
                self._known[number] = FREE
        return held

    @property
    def beyond(self) -> int:
        """Of how many pages beyond the file's end nothing is known."""
        return max(0, self._pages - len(self._known) - len(self._beyond))

    def count(self) -> tuple[int, int]:
        """How many pages are in use, the heads among them, and of how many nothing is known."""
        unknown = self._known.count(UNKNOWN, FIRST) + self.beyond
        return self._known.count(USED) + FIRST, unknown
