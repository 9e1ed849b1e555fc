"""Which chunks can be had out of a damaged file, and by which of their frames: each decoded, and held against its id.

A chunk may have several frames, as may what it is a delta of. First come those that stand by themselves, then what lies
over these, and so on; so whatever can be had is found, by a chain that is as short as can be and never a circle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from casckpt.errors import CorruptObjectError, MissingObjectError
from casckpt.history.salvage.remains import DAMAGE, ELSEWHERE, Remains
from casckpt.limits import MAX_CHAIN
from casckpt.objects.chain import Chain, Link, read_link, verified
from casckpt.objects.codec import encode
from casckpt.objects.ids import Kind
from casckpt.store.protocol import Progress

# Chunks between two reports of how far it is.
_STRIDE: Final = 256


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The frame by which a chunk is had: where it begins, what it is a delta of, and over how many deltas it lies."""

    at: int
    base: bytes | None
    depth: int


class Chunks:
    """The chunks that can be had, in an order in which none comes before what it is a delta of."""

    def __init__(self, remains: Remains) -> None:
        self._remains = remains
        self._chosen: dict[bytes, _Chosen] = {}
        self._over: dict[bytes, list[tuple[bytes, int]]] = {}
        self._ready: deque[bytes] = deque()

    def __contains__(self, oid: object) -> bool:
        return oid in self._chosen

    def find(self, wanted: Collection[bytes], progress: Progress) -> None:
        """Find out which of these chunks can be had."""
        asked = set(wanted)
        pending = deque(wanted)
        done = 0
        while pending:
            oid = pending.popleft()
            for base in self._try(oid):
                if base not in asked:
                    asked.add(base)
                    pending.append(base)
            done += 1
            if done % _STRIDE == 0:
                progress("decoding chunks", done, done + len(pending))
        self._settle()
        for oid in (*wanted, *self._over):
            if oid not in self._chosen and self._elsewhere(oid):
                self._choose(oid, _Chosen(ELSEWHERE, None, 0))
                self._remains.taken += 1
                self._settle()

    def needed(self, wanted: Iterable[bytes]) -> Iterator[bytes]:
        """Those of these chunks that can be had, and what they are deltas of, bases first."""
        found: set[bytes] = set()
        for oid in wanted:
            at: bytes | None = oid
            while at is not None and at not in found and at in self._chosen:
                found.add(at)
                at = self._chosen[at].base
        return (oid for oid in self._chosen if oid in found)

    def frame(self, oid: bytes) -> bytes:
        """The frame of a chunk that can be had."""
        chosen = self._chosen[oid]
        if chosen.at == ELSEWHERE or chosen.depth > MAX_CHAIN:
            return self.alone(oid)
        found = self._remains.file.frame(chosen.at)
        assert found is not None  # it was decoded before; whether it still is the same is seen when all is checked
        return found[1]

    def alone(self, oid: bytes) -> bytes:
        """The same as a frame that stands by itself."""
        return encode(Kind.CHUNK, oid, self._bytes(oid))

    # -- one after the other -------------------------------------------------------------------------------------------

    def _try(self, oid: bytes) -> list[bytes]:
        """Choose a frame that stands by itself, else note of what its frames are deltas, and return that."""
        bases: list[bytes] = []
        for at in self._remains.places(Kind.CHUNK, oid):
            head = self._remains.file.head(at)
            if head is None:
                continue
            if head.base is not None:
                bases.append(head.base)
                self._over.setdefault(head.base, []).append((oid, at))
            elif self._decodes(oid, at, None):
                self._choose(oid, _Chosen(at, None, 0))
                return []
        return bases

    def _settle(self) -> None:
        """Try what lies over chunks that were chosen since."""
        while self._ready:
            base = self._ready.popleft()
            for oid, at in self._over.pop(base, ()):
                if oid not in self._chosen and self._decodes(oid, at, base):
                    self._choose(oid, _Chosen(at, base, self._chosen[base].depth + 1))

    def _choose(self, oid: bytes, chosen: _Chosen) -> None:
        self._chosen[oid] = chosen
        self._ready.append(oid)

    def _decodes(self, oid: bytes, at: int, base: bytes | None) -> bool:
        with suppress(*DAMAGE):
            verified(self._remains.scheme, self._chain(oid, at, base))
            return True
        return False

    def _elsewhere(self, oid: bytes) -> bool:
        with suppress(*DAMAGE):
            self._from_other(oid)
            return True
        return False

    def _from_other(self, oid: bytes) -> memoryview:
        for other in self._remains.others:
            with suppress(*DAMAGE):
                return other.chunk(oid)
        raise MissingObjectError(f"chunk {oid.hex()} is nowhere")

    def _bytes(self, oid: bytes) -> memoryview:
        chosen = self._chosen[oid]
        if chosen.at == ELSEWHERE:
            return self._from_other(oid)
        return verified(self._remains.scheme, self._chain(oid, chosen.at, chosen.base))

    def _chain(self, oid: bytes, at: int, base: bytes | None) -> Chain:
        """The frames from one on, by what was chosen below it."""
        links = [self._link(oid, at)]
        root: memoryview | None = None
        while base is not None:
            below = self._chosen[base]
            if below.at == ELSEWHERE:
                root = self._from_other(base)
                break
            links.append(self._link(base, below.at))
            base = below.base
        lengths = {link.head.raw_length for link in links} | ({len(root)} if root is not None else set())
        if len(lengths) != 1:
            raise CorruptObjectError(f"chunk {oid.hex()} is a delta of one that has another length")
        return Chain(tuple(links), root)

    def _link(self, oid: bytes, at: int) -> Link:
        found = self._remains.file.frame(at)
        if found is None:
            raise CorruptObjectError(f"chunk {oid.hex()} is not there any more")
        return read_link(oid, memoryview(found[1]))
