"""Reads chunks and hashes them: all in the store, or those that are chosen, in read transactions that end soon."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from casckpt.errors import MissingObjectError
from casckpt.history.fetch import Objects
from casckpt.history.fsck.bases import Bases, disagreement
from casckpt.history.fsck.findings import DAMAGE
from casckpt.history.fsck.subset import Choose
from casckpt.limits import CHECK_BATCH, CHECK_KEYS, MAX_CHAIN, MAX_FINDINGS, MIB
from casckpt.objects.chain import Chain, Link, read_link, verified
from casckpt.objects.frame import head_size
from casckpt.objects.ids import IdScheme, Kind
from casckpt.store.protocol import Progress, Reader, Space, Store

# Hashing and decompressing let go of the interpreter; one thread looks chunks up, which faults their pages in.
_WORKERS: Final = 2
# Bytes of frames that a worker is given at once.
_TASK: Final = 4 * MIB

_Chains = list[Chain]
_Result = tuple[bytes, int, bytes, str]
"""Of a chunk that was read: its id, its length, and where it cannot be had for whose sake (its own, or that of a chunk
that it is a delta over), and why."""


@dataclass(slots=True)
class Data:
    """What was read. chunks: how many. read: bytes.

    causes: chunks that are not what their ids say, or are not there and others are deltas of them. bad: the first
    MAX_FINDINGS of them, and why; missing: of those that are not there, a chunk that needs each. lengths: of chunks
    that have not the length that they must have, likewise. records: of those of which something else is recorded than
    their frames say, the id of a finding, and why. frames: the bases of these, as their frames say.
    """

    chunks: int = 0
    read: int = 0
    causes: set[bytes] = field(default_factory=set)
    bad: dict[bytes, str] = field(default_factory=dict)
    missing: dict[bytes, bytes] = field(default_factory=dict)
    lengths: dict[bytes, str] = field(default_factory=dict)
    records: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    frames: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.bad or self.lengths or self.records)

    def note(self, cause: bytes, problem: str) -> None:
        """A chunk that cannot be had."""
        self.causes.add(cause)
        if len(self.bad) < MAX_FINDINGS:
            self.bad.setdefault(cause, problem)


def check_data(
    store: Store,
    scheme: IdScheme,
    expected: dict[bytes, int],
    bases: Bases,
    choose: Choose,
    total: int,
    progress: Progress,
) -> Data:
    """Decode and hash the chunks that `choose` takes, and hold their heads against what is recorded of them.

    expected: bytes that a chunk must have, as far as they are known. bases: what was found of deltas before, and is not
    told again. total: about how many bytes there are to read.

    Raises:
        CorruptObjectError: LMDB cannot read on.
    """
    check = _Check(scheme, expected, bases, choose)
    start: bytes | None = b""
    while start is not None:
        with store.read() as reader, ThreadPoolExecutor(_WORKERS) as workers:  # no worker outlives the transaction
            start = check.batch(reader, start, workers)
        progress("reading chunks", min(check.data.read, total), total)
    progress("reading chunks", total, total)
    return check.data


class _Check:
    """A look at chunks, under way."""

    def __init__(self, scheme: IdScheme, expected: dict[bytes, int], bases: Bases, choose: Choose) -> None:
        self.data = Data()
        self._scheme = scheme
        self._expected = expected
        self._known = {*bases.missing, *bases.endless}
        self._doubted = bases.doubted
        self._choose = choose

    def batch(self, reader: Reader, start: bytes, workers: ThreadPoolExecutor) -> bytes | None:
        """Check chunks from a key on, as many as one transaction may; returns the key to go on from, None at the
        end."""
        tasks: list[Future[list[_Result]]] = []
        objects = Objects(reader, self._scheme)
        chains: _Chains = []
        size = pending = looked = 0
        following: bytes | None = None
        for oid in reader.keys(Space.CHUNK, start):
            if size >= CHECK_BATCH or looked >= CHECK_KEYS:
                following = oid
                break
            looked += 1
            if len(oid) != self._scheme.size or not self._choose(oid):
                continue
            try:
                chain = objects.chain(oid)
            except DAMAGE:
                size += reader.size(Space.CHUNK, oid) or 0
                self._trace(objects, oid)
                continue
            self._compare(reader, chain.links[0])
            chains.append(chain)
            size += _frame_bytes(chain.links[0])
            pending += sum(map(_frame_bytes, chain.links))
            if pending >= _TASK:
                tasks.append(workers.submit(_decode, self._scheme, chains))
                chains, pending = [], 0
        tasks.append(workers.submit(_decode, self._scheme, chains))
        for oid, length, cause, problem in _results(tasks):
            self.data.chunks += 1
            expected = self._expected.get(oid)
            if problem:
                self.data.note(cause, problem)
            elif expected is not None and length != expected and len(self.data.lengths) < MAX_FINDINGS:
                self.data.lengths[oid] = f"chunk {oid.hex()} has {length} bytes where {expected} are expected"
        self.data.read += size
        return following

    def _compare(self, reader: Reader, link: Link) -> None:
        """Hold the head of a frame against what is recorded of the chunk."""
        oid, base = link.head.id, link.head.base
        found = None if oid in self._doubted else disagreement(reader, oid, base)
        if found is not None and len(self.data.records) < MAX_FINDINGS:
            self.data.records[oid] = found
            if base is not None:
                self.data.frames[oid] = base

    def _trace(self, objects: Objects, oid: bytes) -> None:
        """Find out for whose sake the frames of a chunk cannot be followed to the end."""
        self.data.chunks += 1
        links: list[Link] = []
        at = oid
        while at not in self._known:
            try:
                link = read_link(at, objects.frame(Kind.CHUNK, at))
            except DAMAGE as error:
                problem = error.problem
                if links and isinstance(error, MissingObjectError):
                    self.data.missing.setdefault(at, links[-1].head.id)
                    problem = f"{problem}, and chunk {links[-1].head.id.hex()} is a delta of it"
                self.data.note(at, problem)
                return
            if not links:
                self._compare(objects.reader, link)
            if links and link.head.raw_length != links[-1].head.raw_length:
                last = links[-1].head
                problem = f"chunk {last.id.hex()} has {last.raw_length} bytes, and is a delta of one that has "
                self.data.note(last.id, f"{problem}{link.head.raw_length}")
                return
            if link.head.base is None or len(links) > MAX_CHAIN:
                self.data.note(oid, f"chunk {oid.hex()} is a delta over more than {MAX_CHAIN} others, or over itself")
                return
            links.append(link)
            at = link.head.base


def _frame_bytes(link: Link) -> int:
    head = link.head
    return head_size(len(head.id), has_base=head.base is not None, planes=len(head.planes)) + head.payload_length


def _results(tasks: list[Future[list[_Result]]]) -> Iterator[_Result]:
    for task in tasks:
        yield from task.result()


def _decode(scheme: IdScheme, chains: _Chains) -> list[_Result]:
    found: list[_Result] = []
    for chain in chains:
        try:
            found.append((chain.id, len(verified(scheme, chain)), b"", ""))
        except DAMAGE:
            found.append((chain.id, 0, *_cause(scheme, chain)))
    return found


def _cause(scheme: IdScheme, chain: Chain) -> tuple[bytes, str]:
    """The lowest chunk of a chain that is not what its id says, and why."""
    for at in reversed(range(len(chain.links))):
        lower = Chain(chain.links[at:])
        try:
            verified(scheme, lower)
        except DAMAGE as error:
            return lower.id, error.problem
    raise AssertionError(f"chunk {chain.id.hex()} is read in one way and another")
