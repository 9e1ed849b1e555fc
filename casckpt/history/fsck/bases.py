"""Checks what is recorded of deltas: which chunk is based on which, that each base is there, that every chain ends.

The records alone are read. Where they contradict each other, or lead nowhere, the head of the chunk's frame decides:
loads follow the frames, gc and saves follow the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from casckpt.history.bases import base_of
from casckpt.history.fetch import Objects
from casckpt.history.fsck.findings import DAMAGE, Findings
from casckpt.limits import MAX_CHAIN
from casckpt.objects.chain import read_link
from casckpt.objects.ids import Kind
from casckpt.objects.paths import readable
from casckpt.store.protocol import Reader, Space


@dataclass(slots=True)
class Bases:
    """The deltas of a transaction, each with its base: as is recorded, and where that is in doubt as its frame says.

    missing: bases that are not there, each with a chunk that is a delta of it. endless: where chains are cut that have
    no end, or are too long to be read: each chunk with what is wrong. unrecorded: deltas that gc would not know as
    such, with what is wrong. absent: what is recorded as a delta and is not there, likewise. doubted: chunks of which
    the frame was looked at.
    """

    base: dict[bytes, bytes] = field(default_factory=dict)
    missing: dict[bytes, bytes] = field(default_factory=dict)
    endless: dict[bytes, str] = field(default_factory=dict)
    unrecorded: dict[bytes, str] = field(default_factory=dict)
    absent: dict[bytes, str] = field(default_factory=dict)
    doubted: set[bytes] = field(default_factory=set)

    def below(self, chunks: Iterable[bytes]) -> set[bytes]:
        """What these chunks are deltas of, and what that is a delta of, and so on."""
        found: set[bytes] = set()
        for oid in chunks:
            base = self.base.get(oid)
            while base is not None and base not in found:
                found.add(base)
                base = self.base.get(base)
        return found


def above(bases: Mapping[bytes, bytes], chunks: Iterable[bytes]) -> dict[bytes, set[bytes]]:
    """Of each of these chunks, all that cannot be read without it: itself, and what is a delta over it.

    bases: of each delta its base.
    """
    over: dict[bytes, list[bytes]] = {}
    for oid, base in bases.items():
        over.setdefault(base, []).append(oid)
    found: dict[bytes, set[bytes]] = {}
    for chunk in chunks:
        met = found[chunk] = {chunk}
        stack = [chunk]
        while stack:
            stack += [oid for oid in over.get(stack.pop(), ()) if oid not in met]
            met.update(stack)
    return found


def disagreement(reader: Reader, oid: bytes, base: bytes | None) -> tuple[str, str] | None:
    """What is wrong with what is recorded of a chunk whose frame says that it is a delta of `base`, or of nothing: the
    id of a finding, and words. None where it agrees."""
    recorded = base_of(reader, oid)
    if base is None:
        what = f"chunk {oid.hex()} stands by itself, and is recorded as a delta of "
        return None if recorded is None else ("stray-base-record", f"{what}{_named(recorded)}")
    what = f"chunk {oid.hex()} is a delta of chunk {base.hex()}, and "
    if recorded is None:
        return "missing-base-record", f"{what}is not recorded as a delta"
    if recorded != base:
        return "missing-base-record", f"{what}is recorded as one of {_named(recorded)}"
    if not reader.has(Space.DEPENDANT, base + oid):
        return "missing-base-record", f"{what}is not recorded with it"
    return None


def _named(oid: bytes) -> str:
    """What is recorded for an id may be anything."""
    return f"chunk {oid[:32].hex()}"


def check_bases(objects: Objects, findings: Findings) -> Bases:
    """Read all records of deltas, and settle what is doubtful about them; says itself which records are wrong but do
    no harm."""
    return _Check(objects, findings).run()


class _Check:
    """One look at the records of a transaction."""

    def __init__(self, objects: Objects, findings: Findings) -> None:
        self._objects = objects
        self._reader = objects.reader
        self._size = objects.scheme.size
        self._findings = findings
        self._bases = Bases()

    def run(self) -> Bases:
        strays = self._read()
        gone = self._gone()
        for oid, base in self._bases.base.items():
            if len(base) != self._size or oid in gone or base in gone:
                self._bases.doubted.add(oid)
        for oid in self._cuts():
            self._bases.doubted.update(self._chain(oid))
        self._settle(strays)
        for oid, base in self._bases.base.items():
            if base in gone or (oid in self._bases.doubted and not self._is_there(base)):
                self._bases.missing.setdefault(base, oid)
        self._bases.endless = self._cuts()
        return self._bases

    def _gone(self) -> set[bytes]:
        """Chunks that are recorded as deltas or as bases, and are not there; in one pass, as there may be many."""
        gone = {*self._bases.base, *self._bases.base.values()}
        for oid in self._reader.keys(Space.CHUNK):
            gone.discard(oid)
        return gone

    def _is_there(self, oid: bytes) -> bool:
        return self._reader.has(Space.CHUNK, oid)

    def _read(self) -> list[tuple[bytes, bytes]]:
        """Both lists of records; returns what only the one by bases has: bases, and what should be deltas of them."""
        base = self._bases.base
        for oid, recorded in self._reader.items(Space.BASE):
            if len(oid) == self._size:
                base[oid] = bytes(recorded)
            else:
                self._findings.add("stray-key", f"bases hold an entry under {readable(oid)}")
        strays: list[tuple[bytes, bytes]] = []
        met = 0
        for key in self._reader.keys(Space.DEPENDANT):
            if len(key) != 2 * self._size:
                self._findings.add("stray-key", f"dependants hold an entry under {readable(key)}")
            elif base.get(key[self._size :]) == key[: self._size]:
                met += 1
            else:
                strays.append((key[: self._size], key[self._size :]))
                self._bases.doubted.add(key[self._size :])
        if met < len(base):
            unmet = (oid for oid, below in base.items() if not self._reader.has(Space.DEPENDANT, below + oid))
            self._bases.doubted.update(unmet)
        return strays

    def _cuts(self) -> dict[bytes, str]:
        """Chunks without which every chain would end after at most MAX_CHAIN deltas, each with what is wrong."""
        base = self._bases.base
        depths: dict[bytes, int] = {}
        cuts: dict[bytes, str] = {}
        for oid in base:
            way: list[bytes] = []
            on_way: set[bytes] = set()
            at = oid
            while at in base and at not in depths and at not in on_way:
                way.append(at)
                on_way.add(at)
                at = base[at]
            if at in on_way:
                cuts[at] = f"chunk {at.hex()} is a delta over itself"
                depths[at] = 0
            depth = depths.get(at, 0)
            for one in reversed(way):
                depth += 1
                if one in cuts:
                    depth = 0
                elif depth > MAX_CHAIN:
                    cuts[one] = f"chunk {one.hex()} is a delta over more than {MAX_CHAIN} others"
                    depth = 0
                depths[one] = depth
        return cuts

    def _chain(self, oid: bytes) -> set[bytes]:
        """A chunk and all that is recorded as below it."""
        return {oid, *self._bases.below([oid])}

    def _settle(self, strays: list[tuple[bytes, bytes]]) -> None:
        """Ask the frames of the chunks that are in doubt."""
        truth: dict[bytes, bytes | None] = {}
        for oid in sorted(self._bases.doubted):
            recorded = self._bases.base.pop(oid, None)
            if not self._is_there(oid):
                if recorded is not None:
                    what = f"chunk {oid.hex()} is recorded as a delta of {_named(recorded)}, and is not there"
                    self._bases.absent[oid] = what
                continue
            try:
                base = read_link(oid, self._objects.frame(Kind.CHUNK, oid)).head.base
            except DAMAGE:
                base = recorded  # it is found where chunks are read
            else:
                found = disagreement(self._reader, oid, base)
                if found is not None and found[0] == "stray-base-record":
                    self._findings.add(*found)
                elif found is not None:
                    self._bases.unrecorded[oid] = found[1]
            truth[oid] = base
            if base is not None:
                self._bases.base[oid] = base
        for base, oid in strays:
            if truth.get(oid) != base:
                what = f"chunk {oid.hex()} is recorded with chunk {base.hex()} as a delta of it, and is none"
                self._findings.add("stray-base-record", what)
