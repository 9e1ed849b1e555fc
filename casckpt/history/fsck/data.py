"""Reads chunks and hashes them: all in the store, or those that are chosen, in read transactions that end soon."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from casckpt.history.fetch import Objects
from casckpt.history.fsck.findings import DAMAGE
from casckpt.history.fsck.subset import Choose
from casckpt.limits import CHECK_BATCH, CHECK_KEYS, MAX_FINDINGS, MIB
from casckpt.objects.chain import Chain, verified
from casckpt.objects.ids import IdScheme
from casckpt.store.protocol import Progress, Reader, Space, Store

# Hashing and decompressing let go of the interpreter; one thread looks chunks up, which faults their pages in.
_WORKERS: Final = 2
# Bytes of frames that a worker is given at once.
_TASK: Final = 4 * MIB

_Chains = list[Chain]


@dataclass(slots=True)
class Data:
    """What was read. read: bytes. found: how many chunks are not what their ids say; bad: the first MAX_FINDINGS, and
    why. lengths: of those that have not the length that they must have, likewise."""

    chunks: int = 0
    read: int = 0
    found: int = 0
    bad: dict[bytes, str] = field(default_factory=dict)
    lengths: dict[bytes, str] = field(default_factory=dict)


def check_data(
    store: Store, scheme: IdScheme, expected: dict[bytes, int], choose: Choose, total: int, progress: Progress
) -> Data:
    """Decode and hash the chunks that `choose` takes.

    expected: bytes that a chunk must have, as far as they are known. total: about how many bytes there are to read.

    Raises:
        CorruptObjectError: LMDB cannot read on.
    """
    data = Data()
    start: bytes | None = b""
    while start is not None:
        with store.read() as reader, ThreadPoolExecutor(_WORKERS) as workers:  # no worker outlives the transaction
            start = _check_batch(reader, scheme, expected, choose, data, start, workers)
        progress("reading chunks", min(data.read, total), total)
    progress("reading chunks", total, total)
    return data


def _check_batch(
    reader: Reader,
    scheme: IdScheme,
    expected: dict[bytes, int],
    choose: Choose,
    data: Data,
    start: bytes,
    workers: ThreadPoolExecutor,
) -> bytes | None:
    """Check chunks from a key on, as many as one transaction may; returns the key to go on from, None at the end."""
    tasks: list[Future[list[tuple[bytes, int, str]]]] = []
    objects = Objects(reader, scheme)
    chains: _Chains = []
    size = pending = looked = 0
    following: bytes | None = None
    for oid in reader.keys(Space.CHUNK, start):
        if size >= CHECK_BATCH or looked >= CHECK_KEYS:
            following = oid
            break
        looked += 1
        if len(oid) != scheme.size or not choose(oid):
            continue
        try:
            chain = objects.chain(oid)
        except DAMAGE as error:
            data.chunks += 1
            size += reader.size(Space.CHUNK, oid) or 0
            _note(data, oid, 0, error.problem, None)
            continue
        chains.append(chain)
        size += len(chain.links[0].payload)
        pending += sum(len(link.payload) for link in chain.links)
        if pending >= _TASK:
            tasks.append(workers.submit(_decode, scheme, chains))
            chains, pending = [], 0
    tasks.append(workers.submit(_decode, scheme, chains))
    for oid, length, problem in _results(tasks):
        data.chunks += 1
        _note(data, oid, length, problem, expected.get(oid))
    data.read += size
    return following


def _results(tasks: list[Future[list[tuple[bytes, int, str]]]]) -> Iterator[tuple[bytes, int, str]]:
    for task in tasks:
        yield from task.result()


def _decode(scheme: IdScheme, chains: _Chains) -> list[tuple[bytes, int, str]]:
    """Of each chunk the id, its length, and what is wrong with it."""
    found = []
    for chain in chains:
        try:
            found.append((chain.id, len(verified(scheme, chain)), ""))
        except DAMAGE as error:
            found.append((chain.id, 0, error.problem))
    return found


def _note(data: Data, oid: bytes, length: int, problem: str, expected: int | None) -> None:
    if problem:
        data.found += 1
        if len(data.bad) < MAX_FINDINGS:
            data.bad[oid] = problem
    elif expected is not None and length != expected and len(data.lengths) < MAX_FINDINGS:
        data.lengths[oid] = f"chunk {oid.hex()} has {length} bytes where {expected} are expected"
