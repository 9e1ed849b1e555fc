"""The top level of a state, taken apart for commits of which parts were released or lost.

Many commits may have one state, and many states the same pages. So each entry of a top level is looked at once for all
commits of a state, and no more top levels are read than there is time for; it must never be another part of them in one
round than in the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from casckpt.errors import CorruptObjectError
from casckpt.history.salvage.remains import DAMAGE, Remains
from casckpt.limits import MIB
from casckpt.objects.ids import Kind
from casckpt.objects.tree import decode_tree, shallow
from casckpt.objects.values import Map, Value

# Bytes of top levels that are read for each byte of the file, and of a small one. Roots that share their pages ask for
# more of them than anybody has written.
_TIMES: Final = 4
_LEAST: Final = 4 * MIB

_Entry = tuple[Value, Value]


class Top:
    """The top level of one state, a mapping."""

    def __init__(self, ids: tuple[bytes, ...], entries: tuple[_Entry, ...]) -> None:
        """ids: of the tree objects that it stands in."""
        self.entries = entries
        self.names = {key for key, _ in entries if isinstance(key, str)}
        self._left: Iterable[_Entry] = entries
        self._ids_left = ids

    def take(self, released: Iterable[str]) -> list[Value]:
        """The values that are kept where these parts were released, but for those that an earlier call gave."""
        names = set(released)
        left = [entry for entry in self._left if isinstance(entry[0], str) and entry[0] in names]
        taken = [value for key, value in self._left if not (isinstance(key, str) and key in names)]
        self._left = left
        return taken

    def take_ids(self) -> tuple[bytes, ...]:
        """The ids, once."""
        taken, self._ids_left = self._ids_left, ()
        return taken

    def kept(self, released: Iterable[str]) -> int:
        """How many entries are kept where these parts were released."""
        return len(self.entries) - len(self.names.intersection(released))


class Tops:
    """Top levels of states, that of the last one kept: whoever asks for one again asks next."""

    def __init__(self, remains: Remains) -> None:
        self._remains = remains
        self._left = _TIMES * remains.file.size + _LEAST
        self._last: tuple[bytes, Top | None] | None = None

    def of(self, root: bytes) -> Top | None:
        """None where it cannot be had, is no mapping, or is one too many."""
        if self._last is None or self._last[0] != root:
            self._last = root, self._read(root)
        return self._last[1]

    def _read(self, root: bytes) -> Top | None:
        ids: dict[bytes, None] = {}

        def fetch(oid: bytes) -> Value:
            if self._left < 0:
                raise CorruptObjectError("more top levels than there is time for")
            ids[oid] = None
            raw = self._remains.raw(Kind.TREE, oid)
            self._left -= len(raw)
            return decode_tree(raw, self._remains.scheme.size)

        try:
            value = shallow(fetch(root), fetch)
        except DAMAGE:
            return None
        return Top(tuple(ids), value.entries) if isinstance(value, Map) else None
