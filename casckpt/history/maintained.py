"""A handle on one store, and what is done to the store as a whole: counting, pruning, collecting.

`casckpt.history.repository` adds the history that people move in. What few need is imported where it is used, here and
there, so that opening a store does not wait for it.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Self

from casckpt.objects.commit import CommitObject
from casckpt.objects.ids import id_scheme
from casckpt.store.protocol import BackupReport, CompactReport, Progress, Store, no_progress

if TYPE_CHECKING:
    from casckpt.history.codec_stats import CodecStats
    from casckpt.history.fsck.report import FsckReport
    from casckpt.history.gc import GcReport
    from casckpt.history.prune import PruneReport
    from casckpt.history.repair import RepairReport
    from casckpt.history.retention import Keep
    from casckpt.history.stats import Stats


class Maintained:
    """One store through a handle. Thread-safe; a context manager. store: closed with the handle."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.scheme = id_scheme(store.format.hash)
        self._known: dict[bytes, CommitObject] = {}
        self._new_locks()
        _handles.add(self)

    def _new_locks(self) -> None:
        """Fresh locks. In a forked child, a thread that is not there any more may hold those it inherited."""
        self._collecting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def path(self) -> str:
        """Where the store is."""
        return self.store.path

    def close(self) -> None:
        """Wait for what is in flight, then let go of the store. Twice is once."""
        with self._collecting:
            self.store.close()

    def stats(self) -> Stats:
        """How much the store holds, and in how many bytes."""
        from casckpt.history.stats import stats

        return stats(self.store, self.scheme)

    def codec_stats(self, *, progress: Progress = no_progress) -> CodecStats:
        """How the chunks are stored: by codec, by what they hold, by commit, and over how many deltas they lie.

        progress: as for `gc`. Of each chunk the head of its frame is read.

        Raises:
            MissingObjectError, CorruptObjectError
        """
        from casckpt.history.codec_stats import codec_stats

        return codec_stats(self.store, self.scheme, progress=progress)

    def prune(self, keep: Keep, *, dry_run: bool = False) -> PruneReport:
        """Release the states, or parts of them, that a policy does not keep; says why each commit is kept.

        Bytes come back with the next `gc`. Commits stay in the log, marked as pruned. dry_run: only say it.
        """
        from casckpt.history.prune import prune

        return prune(self.store, self.scheme, self._known, keep, dry_run=dry_run)

    def gc(self, *, dry_run: bool = False, progress: Progress = no_progress) -> GcReport:
        """Delete what nothing refers to. Others may read and write meanwhile.

        What is kept and stored as a delta of something that goes is stored anew.

        dry_run: only count it; what would be stored anew is encoded, to tell its size. progress: called with the stage,
        how much of it is done, and of how much (0: not known), here as in `fsck`, `compact`, `repack` and `backup`.

        Raises:
            StoreBusyError: it is under way elsewhere.
            MissingObjectError, CorruptObjectError: the store is damaged; nothing live was deleted.
        """
        from casckpt.history.gc import collect

        with self._collecting:
            return collect(self.store, self.scheme, dry_run=dry_run, progress=progress)

    def fsck(
        self, *, read_data: bool = False, subset: str | None = None, progress: Progress = no_progress
    ) -> FsckReport:
        """Check the store, and say of each thing that is wrong what it is, what it hurts and what to do.

        Others may read, write and collect meanwhile; nothing is changed. Without data: every page of the database,
        every commit, tree, node and record, and that every chunk is there.

        read_data: read every chunk too, and hold it against its id. subset: only a share of them: "5%" or "500M" at
        random, or "2/7", the second of seven groups that together are all.

        Raises:
            ValueError: the subset is none.
            StoreFailedError, StoreClosedError, ForkedStoreError: the store cannot be read at all.
        """
        from casckpt.history.fsck.check import fsck
        from casckpt.history.fsck.subset import parse_subset

        chosen = None if subset is None else parse_subset(subset)
        return fsck(self.store, self.scheme, read_data=read_data, subset=chosen, progress=progress)

    def repair(
        self, other: str | os.PathLike[str], *, dry_run: bool = False, progress: Progress = no_progress
    ) -> RepairReport:
        """Heal the store by another one that holds the same objects, such as a backup, whatever else that holds.

        Every object that a check of all data finds bad or missing is fetched by its id, checked and put, and so is what
        it leads to. Records of deltas that contradict the frames are mended. The other store is only read. Others may
        read and write meanwhile.

        other: its path. dry_run: only say what would be fetched. progress: as for `gc`.

        Raises:
            StoreNotFoundError, NotAStoreError: at `other`; or it is this store.
            StoreSettingsError: the other names its objects by another hash.
            StoreBusyError: gc, repack or compact is under way elsewhere.
            StoreFullError: what was put is put.
        """
        from casckpt.history.repair import repair
        from casckpt.store.lmdb_store import open_store

        with self._collecting:
            source = open_store(other, create=False)
            try:
                return repair(self.store, self.scheme, source, dry_run=dry_run, progress=progress)
            finally:
                source.close()

    def compact(self, *, dry_run: bool = False, progress: Progress = no_progress) -> CompactReport:
        """Give the free pages of the file back to the disk, by rewriting it; this process must have the store alone.

        Its other threads wait at their next commit or load until it is done. dry_run: only say what it would give back,
        and who is in the way.

        Raises:
            StoreBusyError: other processes have it open (`holders` names them), gc or a compact is under way elsewhere,
                or this thread has a transaction under way; nothing was done.
            StoreFullError: there is no room for the new file beside the old one; nothing was done.
            CorruptObjectError: the database is damaged; nothing was done.
            StoreFailedError: open the store again; old or new, its file is whole.
        """
        with self._collecting:
            return self.store.compact(dry_run=dry_run, progress=progress)

    def backup(self, destination: str | os.PathLike[str], *, progress: Progress = no_progress) -> BackupReport:
        """Copy the store, as it is now, into another folder, also on a network file system, while others use it.

        destination: a folder that is empty, or not there yet. Nothing of it looks like a store before all is on the
        disk. Pages that are freed meanwhile are not used again before the copy is done.

        Raises:
            NotAStoreError: something is there already, or it is a place inside of the store.
            StoreFullError: there is no room for the copy.
            StoreBusyError: another backup to this place is under way, or this thread has a transaction under way.
            CorruptObjectError: the database is damaged.
        """
        return self.store.backup(os.fspath(destination), progress=progress)


def _after_fork_in_child() -> None:
    for handle in list(_handles):
        handle._new_locks()


# Every handle, for the child of a fork to find.
_handles: weakref.WeakSet[Maintained] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
