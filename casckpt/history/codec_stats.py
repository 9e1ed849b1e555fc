"""How chunks are stored: by codec, by what they hold, by the commit that brought them, over how many deltas.

Trees say what a chunk holds, the heads of frames how it is stored: nothing is decoded. Every chunk counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from casckpt.errors import CorruptObjectError
from casckpt.history.bases import depth_of
from casckpt.history.fetch import Objects
from casckpt.history.lineage import Lineage
from casckpt.history.records import get_mark
from casckpt.history.walk import read_top, roots
from casckpt.limits import CHECK_KEYS, MAX_DEPTH
from casckpt.objects.frame import Codec, read_frame
from casckpt.objects.ids import IdScheme
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import shallow
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Record, TensorRecord, TreeRef, Typed, Value
from casckpt.store.protocol import Progress, Reader, Space, Store, no_progress

GROUPS: Final = ("weights", "exp_avg", "exp_avg_sq", "other")
_FLOATING: Final = ("float", "bfloat", "complex")


@dataclass(frozen=True, slots=True)
class Amount:
    """So many chunks. Bytes: raw of them, and stored of their frames."""

    chunks: int = 0
    raw: int = 0
    stored: int = 0

    @property
    def ratio(self) -> float:
        """Raw bytes for each stored one; 1 where there are none."""
        return self.raw / self.stored if self.stored else 1.0


@dataclass(frozen=True, slots=True)
class CommitAmount:
    """A commit, and what it has that no commit before it had, as it is stored now. id: in hex."""

    id: str
    step: int | None
    message: str
    added: Amount


@dataclass(frozen=True, slots=True)
class CodecStats:
    """How the chunks of a store are stored.

    by_codec: by the codec's name. by_depth: by the deltas that a chunk lies over. Both are of all chunks.
    by_group: "weights", "exp_avg", "exp_avg_sq" and "other", by the first place where a chunk appears. by_commit: of
    those whose state is kept, the newest first. unreferenced: chunks of no kept state, so in none of these two; what
    is needed only because deltas are based on it is among them.
    """

    total: Amount
    by_codec: dict[str, Amount]
    by_depth: dict[int, Amount]
    by_group: dict[str, Amount]
    by_commit: tuple[CommitAmount, ...]
    unreferenced: Amount


@dataclass(slots=True)
class _Sum:
    chunks: int = 0
    raw: int = 0
    stored: int = 0

    def add(self, raw: int, stored: int) -> None:
        self.chunks += 1
        self.raw += raw
        self.stored += stored

    @property
    def amount(self) -> Amount:
        return Amount(self.chunks, self.raw, self.stored)


@dataclass(slots=True)
class _Sums:
    """What was counted. commits, groups: by their numbers."""

    commits: list[_Sum]
    groups: list[_Sum] = field(default_factory=lambda: [_Sum() for _ in GROUPS])
    codecs: dict[Codec, _Sum] = field(default_factory=dict)
    depths: dict[int, _Sum] = field(default_factory=dict)
    total: _Sum = field(default_factory=_Sum)
    unreferenced: _Sum = field(default_factory=_Sum)


def codec_stats(store: Store, scheme: IdScheme, *, progress: Progress = no_progress) -> CodecStats:
    """Count the chunks of a store. Others may read and write meanwhile: what comes after the beginning is unreferenced.

    Raises:
        MissingObjectError, CorruptObjectError
    """
    progress("looking at states", 0, 0)
    with store.read() as reader:
        places = _Places(Objects(reader, scheme))
        commits = places.run()
        total = reader.count(Space.CHUNK)
    sums = _Sums([_Sum() for _ in commits])
    start: bytes | None = b""
    while start is not None:
        with store.read() as reader:  # a short one: what others free meanwhile can be used again
            start = _count(reader, scheme.size, start, places.of, sums)
        progress("counting chunks", min(sums.total.chunks, total), total)
    return CodecStats(
        total=sums.total.amount,
        by_codec={codec.name.lower(): sums.codecs[codec].amount for codec in sorted(sums.codecs)},
        by_depth={depth: sums.depths[depth].amount for depth in sorted(sums.depths)},
        by_group={name: found.amount for name, found in zip(GROUPS, sums.groups, strict=True)},
        by_commit=tuple(
            [
                CommitAmount(oid.hex(), step, message, found.amount)
                for (oid, step, message), found in zip(reversed(commits), reversed(sums.commits), strict=True)
            ]
        ),
        unreferenced=sums.unreferenced.amount,
    )


def _count(reader: Reader, id_size: int, start: bytes, places: dict[bytes, int], sums: _Sums) -> bytes | None:
    """Count chunks from a key on, so many as one transaction may; returns the key to go on from, None at the end."""
    items = reader.items(Space.CHUNK, start)
    for oid, frame in islice(items, CHECK_KEYS):
        if len(oid) != id_size:  # none of ours
            continue
        try:
            head, _ = read_frame(frame)
        except CorruptObjectError as error:
            raise CorruptObjectError(
                f"chunk {oid.hex()}: {error.problem}", remedy="look with `casckpt fsck --read-data`"
            ) from error
        found = [sums.total, sums.codecs.setdefault(head.codec, _Sum())]
        found.append(sums.depths.setdefault(depth_of(reader, oid), _Sum()))
        place = places.get(oid)
        if place is None:
            found.append(sums.unreferenced)
        else:
            commit, group = divmod(place, len(GROUPS))
            found += [sums.commits[commit], sums.groups[group]]
        for each in found:
            each.add(head.raw_length, len(frame))
    return next((oid for oid, _ in items), None)


class _Places:
    """Where chunks first appear, ancestors before those that follow them. of: by chunk, the number of the commit times
    the number of groups, and the number of the group."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._trees: set[bytes] = set()
        self._nodes: set[bytes] = set()
        self.of: dict[bytes, int] = {}

    def run(self) -> list[tuple[bytes, int | None, str]]:
        """Returns the commits whose state is kept, in order: id, step and message."""
        objects = self._objects
        commits: list[tuple[bytes, int | None, str]] = []
        for oid in Lineage(objects).ancestors_first(roots(objects.reader)):
            mark = get_mark(objects.reader, oid)
            if mark.pruned:
                continue
            stored = objects.commit(oid)
            number = len(commits) * len(GROUPS)
            commits.append((oid, stored.step, stored.message))
            for key, value in self._top(stored.tree, mark.released):
                is_optimizer = isinstance(key, str) and key.lower().startswith("optim")
                for record, group in self._records(value, key, is_optimizer, 1):
                    self._add(record, number + GROUPS.index(group))
        return commits

    def _top(self, root: bytes, released: tuple[str, ...]) -> Iterator[tuple[Value, Value]]:
        """The parts of a state that are kept; all of it, under no key, where it is no mapping."""
        if not released and root in self._trees:
            return
        top = read_top(self._objects, root)
        if top.entries is None:
            yield None, TreeRef(root)
            return
        if not released:
            self._trees.add(root)
        is_optimizer = _is_optimizer(Map(top.entries))
        for key, value in top.entries:
            if key not in released:
                yield "optimizer" if is_optimizer else key, value

    def _records(self, value: Value, key: Value, in_optimizer: bool, depth: int) -> Iterator[tuple[Record, str]]:
        """The records of a value that were not met before, each with its group. key: under which it stands."""
        if depth > MAX_DEPTH:
            raise CorruptObjectError(f"a tree is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, TreeRef):
            if value.id in self._trees:  # and with it all below
                return
            self._trees.add(value.id)
        value = shallow(value, self._objects.tree)
        if isinstance(value, (TensorRecord, ArrayRecord, BlobRecord)):
            yield value, _group(value, key, in_optimizer)
        elif isinstance(value, Typed):
            yield from self._records(value.value, key, in_optimizer, depth + 1)
        elif isinstance(value, Map):
            below = in_optimizer or _is_optimizer(value)
            for name, item in value.entries:
                yield from self._records(item, name, below, depth + 1)
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from self._records(item, key, in_optimizer, depth + 1)

    def _add(self, record: Record, place: int) -> None:
        storage = record.storage
        if isinstance(storage, NodeRef) and storage.id not in self._nodes:
            self._nodes.add(storage.id)
            for chunk in self._objects.node(storage.id).ids():
                self.of.setdefault(chunk, place)


def _is_optimizer(value: Map) -> bool:
    """Whether a mapping is what torch's optimizers give as their state."""
    return {"state", "param_groups"} <= {key for key, _ in value.entries if isinstance(key, str)}


def _group(record: Record, key: Value, in_optimizer: bool) -> str:
    """What a record holds, by the last key that leads to it and by its dtype."""
    if key in ("exp_avg", "exp_avg_sq"):
        return str(key)
    return "weights" if not in_optimizer and _is_floating(record) else "other"


def _is_floating(record: Record) -> bool:
    if isinstance(record, TensorRecord):
        return record.dtype.startswith(_FLOATING)
    return isinstance(record, ArrayRecord) and isinstance(record.dtype, str) and record.dtype.lstrip("<>=|")[:1] in "fc"
