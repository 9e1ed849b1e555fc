"""Where a tensor stood before, if its path is another one now: by how its path ends.

A fine-tune that calls its model `model` begins with the weights of an import that had them at the top; what is at
`model.layers.0.w` is compared with what was at `layers.0.w`, if that is of the same length.
"""

from __future__ import annotations

from collections.abc import Mapping

from casckpt.objects.paths import unescape


class Counterparts:
    """The storages of an earlier state. lengths: bytes, by the path of the first leaf that shows each."""

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self._lengths = lengths
        self._by_end: dict[str, str] = {}

    def of(self, path: str, length: int) -> str | None:
        """The path of what stood at a path: that itself; or, where nothing did, one that ends as it does or as which it
        ends, of that length. None where there is none."""
        if path in self._lengths:
            return path
        if not self._by_end:  # made for the first path that is new, which most states never have
            for held in self._lengths:
                for end in _ends(held):
                    self._by_end.setdefault(end, held)
        ends = _ends(path)
        found = self._by_end.get(ends[0])
        if found is None:
            found = next((held for end in ends if _ends(held := self._by_end.get(end, ""))[0] == end), "")
        return found if self._lengths.get(found) == length else None


def _ends(path: str) -> list[str]:
    """A path without escapes, and each of its ends: "a.b" -> ["a.b", "b"]."""
    names = unescape(path).split(".")
    return [".".join(names[at:]) for at in range(len(names))]
