"""Which chunks can be had out of a damaged file, and by which of their frames: each decoded, and held against its id.

A chunk may have several frames, as may what it is a delta of. First come those that stand by themselves, then what lies
over these, and so on; so whatever can be had is found, by a chain that is as short as can be and never a circle. Where
one becomes longer than any reader follows, the chunk is written anew, and stands by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from casckpt.errors import CorruptObjectError, MissingObjectError
from casckpt.history.salvage.remains import DAMAGE, ELSEWHERE, Remains
from casckpt.limits import MAX_CHAIN, WRITE_BATCH
from casckpt.objects.chain import Chain, read_link, verified
from casckpt.objects.codec import encode
from casckpt.objects.ids import Kind
from casckpt.store.protocol import Progress

# Chunks between two reports of how far it is.
_STRIDE: Final = 256
# Bytes of chunks that are kept because deltas may lie over them.
_HELD: Final = WRITE_BATCH
# Bytes of frames that are made anew to end a chain, and kept until they are written: no writer makes such chains, only
# mixtures of frames of several ages.
_ANEW: Final = WRITE_BATCH
# In the place of an offset: a frame that was made anew.
_MADE: Final = -2


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
        self._held: dict[bytes, memoryview] = {}
        self._room = _HELD
        self._made: dict[bytes, bytes] = {}
        self._room_to_make = _ANEW

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
        if chosen.at == ELSEWHERE:
            return self.alone(oid)
        if chosen.at == _MADE:
            return self._made[oid]
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
            elif self._decodes(oid, at, None) is not None:
                self._choose(oid, _Chosen(at, None, 0))
                return []
        return bases

    def _settle(self) -> None:
        """Try what lies over chunks that were chosen since."""
        while self._ready:
            base = self._ready.popleft()
            over = self._over.pop(base, ())
            depth = self._chosen[base].depth + 1
            if over:
                with suppress(*DAMAGE):
                    raw = self._bytes(base)
                    for oid, at in over:
                        if oid not in self._chosen and (found := self._decodes(oid, at, raw)) is not None:
                            chosen = _Chosen(at, base, depth) if depth <= MAX_CHAIN else self._make(oid, found)
                            if chosen is not None:
                                self._choose(oid, chosen)

    def _choose(self, oid: bytes, chosen: _Chosen) -> None:
        self._chosen[oid] = chosen
        self._ready.append(oid)

    def _make(self, oid: bytes, raw: memoryview) -> _Chosen | None:
        """A frame that stands by itself, where there is room for it. It is made while the bytes are at hand: later all
        below would be decoded once more for each."""
        frame = encode(Kind.CHUNK, oid, raw)
        if len(frame) > self._room_to_make:
            return None
        self._room_to_make -= len(frame)
        self._made[oid] = frame
        return _Chosen(_MADE, None, 0)

    def _decodes(self, oid: bytes, at: int, base: memoryview | None) -> memoryview | None:
        """The bytes of a frame, over those of what it is a delta of; None where they are not what the id says."""
        frame = self._remains.file.candidate(at)
        if frame is None:
            return None
        with suppress(*DAMAGE):
            raw = self._decode(oid, frame, base)
            self._hold(oid, raw)
            return raw
        return None

    def _hold(self, oid: bytes, raw: memoryview) -> None:
        """Keep the bytes of a chunk, for what lies over it, as long as there is room."""
        self._held[oid] = raw
        self._room -= len(raw)
        while self._room < 0:
            self._room += len(self._held.pop(next(iter(self._held))))

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
        """A chunk that was chosen: from the nearest one below it whose bytes are at hand, link by link."""
        above: list[bytes] = []
        raw: memoryview | None = None
        at: bytes | None = oid
        while at is not None:
            raw = self._from_other(at) if self._chosen[at].at == ELSEWHERE else self._held.get(at)
            if raw is not None:
                break
            above.append(at)
            at = self._chosen[at].base
        for one in reversed(above):
            frame = self._made.get(one)
            if frame is None:
                found = self._remains.file.frame(self._chosen[one].at)
                if found is None:
                    raise CorruptObjectError(f"chunk {one.hex()} is not there any more")
                frame = found[1]
            raw = self._decode(one, frame, raw)
        assert raw is not None
        return raw

    def _decode(self, oid: bytes, frame: bytes, base: memoryview | None) -> memoryview:
        """The bytes of a chunk, by those of what it is a delta of."""
        link = read_link(oid, memoryview(frame))
        if base is not None and len(base) != link.head.raw_length:
            raise CorruptObjectError(f"chunk {oid.hex()} is a delta of one that has another length")
        return verified(self._remains.scheme, Chain((link,), base))
