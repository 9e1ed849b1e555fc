"""Lines of history drawn side by side, as `git log --graph` does. Pure: ids in, text out.

*     the tip of the first line
| *   a commit of another
|/    both come from
*     this one
"""

from __future__ import annotations

from collections.abc import Sequence


class Graph:
    """Draws commits as they are handed in, each before its parents."""

    def __init__(self) -> None:
        self._lanes: list[str] = []  # the commit that each line waits for
        self._edges: list[str] = []  # rows to come before the next commit
        self._ended: int | None = None  # where the last commit was the first of its line

    def draw(self, commit: str, parents: Sequence[str], mark: str = "*") -> tuple[list[str], str]:
        """Rows of edges to print before the commit, and the commit's own row."""
        if commit not in self._lanes:
            if self._ended == len(self._lanes):
                self._edges.append("| " * len(self._lanes))  # a gap, so that this one does not seem its parent
            self._lanes.append(commit)
        self._ended = None
        lane = self._lanes.index(commit)
        while self._lanes.count(commit) > 1:
            self._join(lane, self._lanes.index(commit, lane + 1))
        edges, self._edges = self._edges, []
        row = " ".join([mark if index == lane else "|" for index in range(len(self._lanes))])
        if parents:
            self._lanes[lane] = parents[0]
            for place, parent in enumerate(parents[1:], lane + 1):
                self._fork(place, parent)
        else:
            self._end(lane)
            self._ended = lane
        return edges, row

    def _join(self, into: int, lane: int) -> None:
        """Lead one line into another to its left; those to its right move up."""
        row = self._row(lane, moved=-1)
        for between in range(into, lane - 1):
            row[2 * between + 1] = "_"
        self._close(row, lane)

    def _end(self, lane: int) -> None:
        """A line without a past; those to its right move up, so that none seems to go on from it."""
        row = self._row(lane, moved=-1)
        row[max(2 * lane - 1, 0)] = " "
        self._close(row, lane)

    def _close(self, row: list[str], lane: int) -> None:
        del self._lanes[lane]
        if "/" in row:
            self._edges.append("".join(row).rstrip())

    def _fork(self, place: int, parent: str) -> None:
        """A second parent: a line to the right of the first; the others make room."""
        row = self._row(place, moved=1)
        row[2 * place - 1] = "\\"
        self._lanes.insert(place, parent)
        self._edges.append("".join(row).rstrip())

    def _row(self, lane: int, *, moved: int) -> list[str]:
        """The lines left of `lane` straight on, it and the others to the left (-1) or to the right (1)."""
        row = [" "] * (2 * len(self._lanes) + 2)
        for index in range(len(self._lanes)):
            if index < lane:
                row[2 * index] = "|"
            elif moved < 0:
                row[max(2 * index - 1, 0)] = "/"
            else:
                row[2 * index + 1] = "\\"
        return row
