"""The one protocol of the LMDB store and the in-memory model: spaces of ordered byte keys, in transactions.

A view that a reader or writer hands out is readable until its transaction ends, and must never outlive it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer


# The longest key, in bytes: LMDB's own limit.
MAX_KEY: Final = 511

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and how much there is (0: not known)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """For callers who watch nothing."""


class Space(Enum):
    """A sub-database. The value is its name in the file."""

    CHUNK = b"chunk"
    BASE = b"base"  # of a chunk that is a delta, what it is based on
    DEPENDANT = b"dependant"  # the same by the base: keys of both ids, no values
    NODE = b"node"
    TREE = b"tree"
    COMMIT = b"commit"
    REF = b"ref"
    REFLOG = b"reflog"
    MARK = b"mark"  # what retention released of a commit
    FIGURES = b"figures"  # what a commit wrote, for people to look at
    PIN = b"pin"
    META = b"meta"


@dataclass(frozen=True, slots=True)
class StoreFormat:
    """What is fixed when a store is created; it stands in the store's format record."""

    version: int
    uuid: str
    hash: str
    chunk_size: int
    codec: str
    map_size: int


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Bytes of the file as the disk holds it; of those that hold something, that can be used again, and that are in
    reserve behind its last page, by which gc works on a full disk."""

    file: int
    used: int
    free: int
    reserve: int = 0

    @property
    def free_share(self) -> float:
        """How much of what is in use or free is free, of 1: what compact can give back."""
        return self.free / (self.used + self.free) if self.free else 0.0


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Free pages that nothing can be written into yet, because somebody still reads a snapshot from before they were
    free.

    bytes: of those pages. changes: transactions since that snapshot. holder: a line: the process that reads it.
    """

    bytes: int
    changes: int
    holder: str


@dataclass(frozen=True, slots=True)
class TreePages:
    """Pages and entries of one B-tree; overflow: pages of values that have pages of their own."""

    branches: int
    leaves: int
    overflow: int
    entries: int


@dataclass(frozen=True, slots=True)
class PageFault:
    """Something about a page that LMDB never leaves so. tree: the sub-database, or "main", "free list", "heads"."""

    kind: str
    tree: str
    page: int
    problem: str


@dataclass(frozen=True, slots=True)
class Pages:
    """What a check of all pages of the file saw. Pages of the file are in use, free, or neither (leaked).

    page_size, read: bytes. trees: by the names that are in `PageFault` too. faults: the first MAX_FINDINGS of `found`.
    """

    page_size: int
    pages: int
    used: int
    free: int
    leaked: int
    read: int
    trees: dict[str, TreePages]
    faults: tuple[PageFault, ...]
    found: int


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What compact did, or with `dry_run` would do.

    before, after: bytes that the disk holds for the file; with `dry_run`, the latter at most. reserve: of those after,
    what is in reserve, as in `StoreSize`. holders: with `dry_run`, a line for each other process that has the store
    open, and so is in the way.
    """

    dry_run: bool
    before: int
    after: int
    reserve: int
    holders: tuple[str, ...]
    seconds: float

    @property
    def given_back(self) -> int:
        """Bytes of the disk that others may use now."""
        return max(0, self.before - self.after)


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A copy of a store: the folder that it is in, and the bytes of its file."""

    path: str
    bytes: int
    seconds: float


class Reader(Protocol):
    """One read transaction: a snapshot of the whole store, taken when it began.

    May be handed from thread to thread, but used by one at a time. Ends by `close()` or by leaving its `with` block.
    """

    @property
    def format_version(self) -> int:
        """The version of the format that the store has in this snapshot: `upgrade` may have raised it since."""

    def get(self, space: Space, key: bytes) -> memoryview | None:
        """The value under `key`, or None."""

    def has(self, space: Space, key: bytes) -> bool:
        """Whether there is a value under `key`, without touching it."""

    def size(self, space: Space, key: bytes) -> int | None:
        """Length in bytes of the value, without copying it (its pages are read, if cold); None where absent."""

    def keys(self, space: Space, start: bytes = b"", *, reverse: bool = False) -> Iterator[bytes]:
        """Keys from the first one >= `start` up; reversed, from the last one < `start` (empty: the end) down."""

    def items(self, space: Space, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, memoryview]]:
        """Keys with their values, in the order of `keys`."""

    def count(self, space: Space) -> int:
        """How many keys the space holds."""

    def hand_over(self) -> None:
        """Say that this thread is done with it: it counts as no thread's until one uses it."""

    def close(self) -> None:
        """End the transaction. Twice is once."""

    def __enter__(self) -> Reader: ...

    def __exit__(self, *error: object) -> None: ...


class Writer(Reader, Protocol):
    """The one write transaction of the store; it sees its own writes. Begun, used and ended on one thread."""

    def put(self, space: Space, key: bytes, value: Buffer, *, overwrite: bool = True) -> bool:
        """Store `value`; returns False, and changes nothing, where the key is there and `overwrite` is false.

        key: 1 to `MAX_KEY` bytes; a ValueError otherwise.
        """

    def delete(self, space: Space, key: bytes) -> bool:
        """Remove the key; returns whether it was there."""


class Store(Protocol):
    """One store, shared by the threads of a process."""

    path: str

    @property
    def format(self) -> StoreFormat:
        """What is fixed in it; only its version may change, by `upgrade`."""

    def read(self) -> Reader:
        """Begin a read transaction.

        Raises:
            ForkedStoreError, StoreClosedError, StoreFailedError
        """

    def write(self, *, durable: bool, room: int | None) -> AbstractContextManager[Writer]:
        """The write transaction, by `with`: commits when the block ends, aborts when it raises.

        durable: whether it is acknowledged, that is: synced, and then the high-water mark moved, before `with` ends.
        room: bytes that the block will add at most, checked against the disk first; None for what frees room (gc,
            prune, deleting refs), which works on a full disk.

        Raises:
            StoreFullError: before anything is written.
            StoreFailedError: the commit or the sync failed; its outcome is unknown and the store must be opened again.
        """

    def maintenance(self, *, wait: bool = False) -> AbstractContextManager[None]:
        """The one lock for gc, repack and compact, across processes.

        wait: until it is free, however long that takes.

        Raises:
            StoreBusyError: somebody holds it, and `wait` is false.
        """

    def openers(self) -> tuple[str, ...]:
        """Who has the store open: a line for each live process, this one included."""

    def size(self) -> StoreSize:
        """How large the file is, and how much of it is in use."""

    def held_back(self) -> HeldBack | None:
        """What the oldest snapshot that somebody reads keeps from being used again; None where nothing is.

        What dead processes held is given free first.
        """

    def check_pages(self, *, values: bool) -> Pages | None:
        """Look at every page of the file by plain reads; None where there is no file. Others may write meanwhile.

        values: also at the first page of each chunk.
        """

    def compact(self, *, dry_run: bool = False, progress: Progress = no_progress) -> CompactReport:
        """Rewrite the file without its free pages: alone, or not at all (I6).

        Transactions of this process that come meanwhile wait; it begins once those under way have ended.

        Raises:
            StoreBusyError: others have the store open (`holders`), or it is under maintenance, or this thread has a
                transaction under way. Nothing was done.
            StoreFullError: there is no room for the new file beside the old one. Nothing was done.
            CorruptObjectError: the database is damaged. Nothing was done.
            StoreFailedError: no way to go on with the file; it is whole, and to be opened again.
        """

    def backup(self, destination: str, *, progress: Progress = no_progress) -> BackupReport:
        """Copy the store, as it is now, into a folder that is empty or not there yet, while others read and write.

        The copy holds every change that was acknowledged before this was called. Pages that are freed meanwhile are not
        used again before it is done.

        Raises:
            NotAStoreError: something is there already, or it is a place inside of the store.
            StoreFullError: there is no room for it.
            StoreBusyError: another backup to this place is under way.
        """

    def upgrade(self) -> None:
        """Make it a store of today's format, durably; a later casckpt than those that wrote it is needed from then on.

        Every handle of this process sees it. Nothing where it is one already.

        Raises:
            StoreBusyError: other processes have it open (`holders`), which may know the earlier format only.
            StoreFullError, StoreFailedError
        """

    def close(self) -> None:
        """Wait for the transactions under way, then let go of the store. Twice is once."""
