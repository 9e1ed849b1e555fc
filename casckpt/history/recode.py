"""Puts other frames of chunks in the place of those that are stored, while others read and write.

It must never make a chunk worse to have: what is put is decoded again and held against the chunk's id first, and goes
in by `bases.replace_chunk`, which looks once more at all that it relies on. Chunks are read, decoded and encoded
outside of the writer lock, so many at a time that memory stays bounded; each transaction is short. It may end anywhere:
every chunk has its old frame then, or its new one.

Whoever calls has the maintenance lock: nobody else replaces frames, or deletes chunks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Final, TypeVar

from casckpt.errors import CorruptObjectError, NewerFormatError
from casckpt.history.bases import base_of, height_of, replace_chunk
from casckpt.history.fetch import Objects
from casckpt.history.lineage import Placed
from casckpt.limits import GC_LOCK_HELD, GC_REST, MAX_CHAIN, MIB, WRITE_BATCH
from casckpt.objects.chain import Chain, decode_into, read_link, verified
from casckpt.objects.encoding import Base, depth_limit, encode_chunk
from casckpt.objects.frame import Codec, head_size
from casckpt.objects.ids import IdScheme
from casckpt.store.aside import Aside, aside
from casckpt.store.protocol import Progress, Reader, Space, Store

_STAGE: Final = "re-encoding chunks"
# Bytes of frames that one transaction puts at most: with its sync it holds the writer lock some milliseconds.
_PUT: Final = 8 * MIB


S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Coded:
    """A chunk's frame, as it is or as it would be. size: bytes of the frame. depth: the deltas that it lies over."""

    codec: Codec
    size: int
    depth: int


@dataclass(slots=True)
class Recoded:
    """What was done: chunks that got another frame, and the bytes of their frames before and after.

    failed: chunks that could not be read, and so are as they were. codecs: of all chunks that were looked at and could
    be read, how many each codec has, and the bytes of their frames, before and after.
    """

    chunks: int = 0
    before: int = 0
    after: int = 0
    failed: set[bytes] = field(default_factory=set)
    codecs_before: dict[Codec, tuple[int, int]] = field(default_factory=dict)
    codecs_after: dict[Codec, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Made:
    """A new frame of a chunk. base: of the old one, as the store has it on record."""

    task: Placed
    base: bytes | None
    old: Coded
    new: Coded
    frame: bytes


Wants = Callable[[Placed, Coded, Coded], bool]
"""Whether a chunk that is stored as the first shall be stored as the second."""


class Recoder:
    """One run over chunks.

    mode: one of limits.CODECS. dry_run: everything is done but the writing. among: deltas other than these are as good
    as gone, or will be re-encoded after what they lie over; until then a chain may be longer than the mode says.
    """

    def __init__(
        self,
        store: Store,
        scheme: IdScheme,
        mode: str,
        wants: Wants,
        *,
        dry_run: bool,
        progress: Progress,
        among: Container[bytes],
    ) -> None:
        self._store = store
        self._scheme = scheme
        self._mode = mode
        self._wants = wants
        self._dry_run = dry_run
        self._among = among
        self._progress = progress
        self._reading = threading.Lock()  # a transaction is used by one thread at a time
        # What new frames are based on that the transaction does not show yet: of this batch, and of a dry run.
        self._rebased: dict[bytes, bytes | None] = {}
        self._done = 0
        self._total = 0
        self.result = Recoded()

    def run(self, tasks: Iterable[Placed]) -> Recoded:
        """Re-encode chunks, each as a delta to what stood there before, or by itself.

        tasks: no chunk before the one that stood at its place before it, as far as that can be.

        Raises:
            StoreFullError: there is no room for a new frame beside the old one. What was done is done, and counts.
        """
        # Aside: an interrupt while the other thread begins would leave it at work when its transaction has ended.
        return aside(partial(self._run_all, _by_place(list(tasks))), self._progress)

    def _run_all(self, ordered: list[Placed], held: Aside) -> Recoded:
        self._total = sum(task.length for task in ordered)
        refused = self._run(ordered, held)
        # Something over them has become deeper, or leads there now: by itself a chunk can always be stored.
        self._run([replace(task, before=None) for task in refused], held)
        held.report(_STAGE, self._total, self._total)
        return self.result

    def _run(self, ordered: list[Placed], held: Aside) -> list[Placed]:
        """Returns those whose new frame could not be put."""
        refused: list[Placed] = []
        for batch in _batches(ordered):
            with self._store.read() as reader:
                work = partial(self._encode_all, Objects(reader, self._scheme))
                made = deque(chain.from_iterable(_by_two(work, _groups(batch))))
            if self._dry_run:
                for one in made:
                    self._count(one, done=True)
            else:
                refused += self._put(made)
                self._rebased.clear()
            self._done += sum(task.length for task in batch)
            held.report(_STAGE, min(self._done, self._total), self._total)
        return refused

    # -- in the workers ------------------------------------------------------------------------------------------------

    def _encode_all(self, objects: Objects, group: list[Placed]) -> list[_Made]:
        """New frames of chunks that mostly are deltas of each other: what was decoded last is the next one's base."""
        made: list[_Made] = []
        last: tuple[bytes, memoryview] | None = None
        for task in group:
            try:
                one, raw = self._encode(objects, task, last)
            except (CorruptObjectError, NewerFormatError):
                self.result.failed.add(task.id)
                last = None
                continue
            last = (task.id, raw)
            if not one.frame:
                with self._reading:
                    self._count(one, done=False)
                continue
            self._rebased[task.id] = one.task.before
            made.append(one)
        return made

    def _encode(
        self, objects: Objects, task: Placed, last: tuple[bytes, memoryview] | None
    ) -> tuple[_Made, memoryview]:
        """A chunk's new frame, and its bytes. Where the old one is to stay: no frame, and as new what is there."""
        with self._reading:
            reader = objects.reader
            stored = objects.chain(task.id, task.length)
            recorded = base_of(reader, task.id)
            old = Coded(stored.head.codec, reader.size(Space.CHUNK, task.id) or 0, self._depth(reader, task.id) or 0)
            depth = self._room_over(reader, task)
            below = None
            if depth is not None and task.before is not None and (last is None or last[0] != task.before):
                below = self._readable(objects, task.before, task.length)
        raw = verified(self._scheme, stored)
        base = None
        if depth is not None and task.before is not None:
            if last is not None and last[0] == task.before:
                base = Base(task.before, last[1], depth)
            elif below is not None:
                base = self._based(task.before, below, depth)
        frame, codec, over = self._frame(task, raw, base)
        new = Coded(codec, len(frame), 0 if over is None else self._depth_over(objects.reader, over))
        if not self._wants(task, old, new):
            return _Made(task, recorded, old, old, b""), raw
        return _Made(replace(task, before=over), recorded, old, new, frame), raw

    def _room_over(self, reader: Reader, task: Placed) -> int | None:
        """The deltas that a chunk would lie over with the one before it as its base, and that lie over it, less one;
        None where it cannot be a delta of that."""
        deepest = depth_limit(self._mode, task.words)
        if task.before is None or not deepest:
            return None
        below = self._depth(reader, task.before, avoided=task.id)
        if below is None or below >= deepest:
            return None
        depth = below + height_of(reader, task.id, deepest, self._among)
        return depth if depth < deepest else None

    def _depth(self, reader: Reader, oid: bytes, avoided: bytes = b"") -> int | None:
        """The deltas that a chunk lies over, or will; None where its chain has no end or leads over another."""
        depth = 0
        at: bytes | None = oid
        while at is not None:
            if at == avoided or depth > MAX_CHAIN:
                return None
            at = self._rebased[at] if at in self._rebased else base_of(reader, at)
            depth += 1
        return depth - 1

    def _depth_over(self, reader: Reader, base: bytes) -> int:
        with self._reading:
            return 1 + (self._depth(reader, base) or 0)

    def _readable(self, objects: Objects, oid: bytes, length: int) -> Chain | None:
        try:
            return objects.chain(oid, length)
        except (CorruptObjectError, NewerFormatError):
            return None

    def _based(self, oid: bytes, chain: Chain, depth: int) -> Base | None:
        """A chunk to take the difference to, if it is what its id says: what is damaged must not be relied on."""
        try:
            return Base(oid, verified(self._scheme, chain), depth)
        except (CorruptObjectError, NewerFormatError):
            return None

    def _frame(self, task: Placed, raw: memoryview, base: Base | None) -> tuple[bytes, Codec, bytes | None]:
        """A new frame that was seen to hold the chunk, its codec, and its base."""
        start = head_size(len(task.id))
        buffer = memoryview(bytearray(start + len(raw)))
        buffer[start:] = raw
        frame = bytes(encode_chunk(task.id, buffer, task.words, self._mode, base))
        link = read_link(task.id, memoryview(frame))
        root = None
        if link.head.base is not None:
            if base is None or link.head.base != base.id:
                raise CorruptObjectError(f"chunk {task.id.hex()} was encoded over something else than it should be")
            root = base.raw
        decode_into(self._scheme, Chain((link,), root), buffer[start:])
        return frame, link.head.codec, link.head.base

    # -- writing -------------------------------------------------------------------------------------------------------

    def _put(self, made: deque[_Made]) -> list[Placed]:
        """Put the new frames in place, in short transactions; returns the chunks where one could not be put."""
        refused: list[Placed] = []
        while made:
            room, count = 0, 0
            for one in made:
                if count and room + len(one.frame) > _PUT:
                    break
                room += len(one.frame)
                count += 1
            tried: list[tuple[_Made, bool]] = []
            with self._store.write(durable=False, room=room) as writer:
                stop = time.monotonic() + GC_LOCK_HELD
                for one in list(made)[:count]:
                    done = replace_chunk(writer, one.task.id, one.frame, before=one.base, depth=MAX_CHAIN)
                    tried.append((one, done))
                    if time.monotonic() > stop:
                        break
            for one, done in tried:
                made.popleft()
                if done:
                    self._count(one, done=True)
                else:
                    refused.append(one.task)
            time.sleep(GC_REST)
        return refused

    def _count(self, one: _Made, *, done: bool) -> None:
        result = self.result
        new = one.new if done else one.old
        if done:
            result.chunks += 1
            result.before += one.old.size
            result.after += new.size
        for codecs, coded in ((result.codecs_before, one.old), (result.codecs_after, new)):
            chunks, size = codecs.get(coded.codec, (0, 0))
            codecs[coded.codec] = chunks + 1, size + coded.size


def _by_two(work: Callable[[S], T], pieces: Iterable[S]) -> list[T]:
    """What comes of the pieces, in any order, by this thread and another; none is at work any more when it returns.

    Decoding and encoding let go of the interpreter. Two are enough to keep up with the disk.
    """
    feed = iter(list(pieces))  # of a list, so that to take the next is one step
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for piece in feed:
                results.append(work(piece))
        except BaseException as error:
            failures.append(error)
            deque(feed, 0)

    other = threading.Thread(target=run, name="casckpt-recode")
    try:
        other.start()
    except RuntimeError:  # no more threads: the system's limit, or the interpreter is about to end
        run()
    else:
        run()
        other.join()
    if failures:
        raise failures[0]
    return results


def _by_place(tasks: list[Placed]) -> list[Placed]:
    """In another order, which keeps chunks that were at one place together, each behind the one before it."""
    met: set[bytes] = set()
    after: dict[bytes | None, list[Placed]] = {}
    for task in tasks:  # of some commits only, what came before a chunk may come after it as well
        after.setdefault(task.before if task.before in met else None, []).append(task)
        met.add(task.id)
    ordered: list[Placed] = []
    stack = after.get(None, [])[::-1]
    while stack:
        task = stack.pop()
        ordered.append(task)
        stack += after.get(task.id, ())[::-1]
    return ordered


def _batches(tasks: list[Placed]) -> Iterator[list[Placed]]:
    """So many at a time that their bytes can be held in memory."""
    batch: list[Placed] = []
    size = 0
    for task in tasks:
        if batch and size + task.length > WRITE_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(task)
        size += task.length
    if batch:
        yield batch


def _groups(batch: list[Placed]) -> list[list[Placed]]:
    """Pieces of a batch of which none is based on another, as far as is known."""
    groups: list[list[Placed]] = []
    place: dict[bytes, int] = {}  # of each chunk, the number of its group
    for task in batch:
        number = len(groups) if task.before is None else place.get(task.before, len(groups))
        if number == len(groups):
            groups.append([])
        groups[number].append(task)
        place[task.id] = number
    return groups
