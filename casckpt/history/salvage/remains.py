"""The objects that a damaged file still holds, by id, and those that other stores hold: each decoded and hashed.

Of an object there may be several frames, of any age, and none of them is trusted for its head. Kept in memory are ids
and places, never bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from casckpt.errors import CorruptObjectError, MissingObjectError, NewerFormatError
from casckpt.history.fetch import Objects
from casckpt.history.salvage.evidence import Evidence
from casckpt.objects.codec import decode, encode
from casckpt.objects.commit import CommitObject, unpack_commit
from casckpt.objects.frame import FrameHead
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import StorageNode, unpack_node
from casckpt.objects.tree import decode_tree
from casckpt.objects.values import Value
from casckpt.store.format import FORMAT_KEY, FORMAT_VERSION, decode_format, version_of
from casckpt.store.mark import read_mark
from casckpt.store.protocol import Progress, Space, StoreFormat
from casckpt.store.scan import Scanned
from casckpt.store.trees import Trees

DAMAGE: Final = (CorruptObjectError, NewerFormatError)
ELSEWHERE: Final = -1
"""In the place of an offset: what another store holds."""

Places = dict[bytes, tuple[int, ...]]

# Places of one object that are kept: each is tried until one is good, and heads that lie cost nothing to make. Of more
# there goes one of the sort of which there are most, from the middle of those. Where nobody lied, so many of one sort
# are copies of one another, which changes of a page left behind; one of another sort may be the only one that is good,
# where the bases of all others are gone. What was appended behind a file, or lies before it, pushes out none of the
# others; only lies on both sides of a good frame could.
_KEPT: Final = 32
_SORTS: Final = 16  # bits that tell of a frame by itself, or over one base, from those over others


@dataclass(slots=True)
class Heap:
    """What one look through a file finds of stores whose ids have one size.

    places: of each kind and id, where frames that say so begin, each with its sort, in the order of the file.
    """

    evidence: Evidence
    places: dict[Kind, Places] = field(default_factory=lambda: {kind: {} for kind in Kind})

    def frame(self, head: FrameHead, at: int) -> None:
        """Note a frame."""
        places = self.places[head.kind]
        kept = (*places.get(head.id, ()), at << _SORTS | _sort(head))
        places[head.id] = kept if len(kept) <= _KEPT else _without_one(kept)


def _sort(head: FrameHead) -> int:
    return 0 if head.base is None else int.from_bytes(head.base, "big") % ((1 << _SORTS) - 1) + 1


def _without_one(kept: tuple[int, ...]) -> tuple[int, ...]:
    """All but one of those that are of the most common sort."""
    sorts = [one % (1 << _SORTS) for one in kept]
    (most, count), *_ = Counter(sorts).most_common(1)
    of_it = [at for at, sort in enumerate(sorts) if sort == most] if count > 1 else range(len(kept))
    middle = of_it[len(of_it) // 2]
    return kept[:middle] + kept[middle + 1 :]


HASH_OF: Final = {16: "xxh3_128", 32: "blake3"}


def look_through(file: Scanned, progress: Progress) -> tuple[Heap, StoreFormat | None]:
    """Everything in a file that looks like a part of a store, and the format record where one was found.

    Raises:
        CorruptObjectError: there is nothing of a store in it.
        NewerFormatError: it is of a store of a later casckpt, or nothing tells that it is not.
    """
    heaps = {size: Heap(Evidence(size)) for size in HASH_OF}
    records: Counter[StoreFormat] = Counter()
    later: list[NewerFormatError] = []

    def on_frame(head: FrameHead, at: int) -> None:
        heaps[len(head.id)].frame(head, at)

    def on_entry(key: bytes, value: bytes) -> None:
        for heap in heaps.values():
            heap.evidence.entry(key, value)

    def on_record(data: bytes) -> None:
        try:
            records[decode_format("", data)] += 1
        except NewerFormatError as error:
            later.append(error)
        except CorruptObjectError:
            return

    file.look_through(on_frame, on_entry, on_record, progress)
    if not any(places for heap in heaps.values() for places in heap.places.values()):
        raise CorruptObjectError(
            f"{file.path}: there is nothing of a store in it: not one commit, tree, node or chunk",
            remedy="restore the store from a backup",
        )
    size = max(heaps, key=lambda size: sum(map(len, heaps[size].places.values())))
    # the version may have been raised since, the rest never changes
    fitting = [record for record in records if record.hash == HASH_OF[size]]
    if later and (not fitting or _is_later(file, len(later), sum(records[record] for record in fitting))):
        raise NewerFormatError(
            later[-1].problem,
            store=str(file.path),
            remedy="use a later casckpt; where none ever wrote to it, that number is damaged: restore it from a backup",
        )
    found = max(fitting, key=lambda record: (records[record], record.version), default=None)
    mark = read_mark(file.path.parent / "mark") if file.path.name == "data.mdb" else None
    heaps[size].evidence.trees(file, mark.counter if mark and found and mark.store == found.uuid else None)
    return heaps[size], found


def _is_later(file: Scanned, later: int, known: int) -> bool:
    """Whether a later casckpt wrote the file, by what the states say to which heads lead, the newest first: unless that
    is one bit away from what the other says, and so may have been hit.

    later, known: how many pages say so, and otherwise; they decide where no head leads anywhere.
    """
    trees = Trees(file)
    records = [dict(trees.entries(head, Space.META) or ()).get(FORMAT_KEY, b"") for head in file.heads]
    versions = [version for version in map(version_of, records) if version is not None]
    if not versions:
        return later >= known
    newest, *before = versions
    hit = any(one <= FORMAT_VERSION and (newest ^ one).bit_count() == 1 for one in before)
    return newest > FORMAT_VERSION and not hit


class Remains:
    """Objects out of a damaged file, and where they are lost there, out of other stores, whose readers must live.

    scheme: how the file's store names its objects.
    """

    def __init__(self, file: Scanned, heap: Heap, scheme: IdScheme, others: Sequence[Objects]) -> None:
        self.file = file
        self.scheme = scheme
        self.others = others
        self.taken = 0
        """Objects that came from other stores."""
        self._places = heap.places
        self._good: dict[tuple[Kind, bytes], int | None] = {}

    def ids(self, kind: Kind) -> Iterable[bytes]:
        """Ids of which there are frames, good or not."""
        return self._places[kind].keys()

    def places(self, kind: Kind, oid: bytes) -> tuple[int, ...]:
        """Where frames of an object begin, the last in the file first."""
        return tuple(one >> _SORTS for one in reversed(self._places[kind].get(oid, ())))

    def place(self, kind: Kind, oid: bytes) -> int | None:
        """Where a commit, tree or node can be read, or ELSEWHERE; None where nowhere."""
        key = kind, oid
        if key not in self._good:
            self._good[key] = self._find(kind, oid)
        return self._good[key]

    def _find(self, kind: Kind, oid: bytes) -> int | None:
        for at in self.places(kind, oid):
            found = self.file.candidate(at)
            if found is not None:
                try:
                    decode(self.scheme, kind, oid, memoryview(found))
                    return at
                except DAMAGE:
                    continue
        with suppress(*DAMAGE):
            self._from_other(kind, oid)
            self.taken += 1
            return ELSEWHERE
        return None

    def _from_other(self, kind: Kind, oid: bytes) -> bytes:
        for other in self.others:
            with suppress(*DAMAGE):
                return other.raw(kind, oid)
        raise MissingObjectError(f"{kind.name.lower()} {oid.hex()} is nowhere")

    def frame(self, kind: Kind, oid: bytes) -> bytes:
        """A frame of a commit, tree or node that is what its id says.

        Raises:
            MissingObjectError
        """
        at = self.place(kind, oid)
        if at == ELSEWHERE:
            return encode(kind, oid, self.raw(kind, oid))
        found = None if at is None else self.file.frame(at)
        if found is None:
            raise MissingObjectError(f"{kind.name.lower()} {oid.hex()} is nowhere in the file")
        return found[1]

    def raw(self, kind: Kind, oid: bytes) -> bytes:
        """The canonical bytes of a commit, tree or node.

        Raises:
            MissingObjectError, CorruptObjectError
        """
        if self.place(kind, oid) == ELSEWHERE:
            return self._from_other(kind, oid)
        return decode(self.scheme, kind, oid, memoryview(self.frame(kind, oid)))

    def commit(self, oid: bytes) -> CommitObject:
        return unpack_commit(self.raw(Kind.COMMIT, oid), self.scheme.size)

    def tree(self, oid: bytes) -> Value:
        """One tree object, its references left as they are."""
        return decode_tree(self.raw(Kind.TREE, oid), self.scheme.size)

    def node(self, oid: bytes) -> StorageNode:
        return unpack_node(self.raw(Kind.NODE, oid), self.scheme.size)
