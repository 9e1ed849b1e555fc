"""A handle on one store, and what is done to the store as a whole: counting, pruning, collecting.

`casckpt.history.repository` adds the history that people move in.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Self

from casckpt.history.gc import GcReport, collect
from casckpt.history.prune import PruneReport, prune
from casckpt.history.retention import Keep
from casckpt.history.stats import Stats, stats
from casckpt.objects.commit import CommitObject
from casckpt.objects.ids import id_scheme
from casckpt.store.protocol import Progress, Store, no_progress


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
        return stats(self.store, self.scheme)

    def prune(self, keep: Keep, *, dry_run: bool = False) -> PruneReport:
        """Release the states, or parts of them, that a policy does not keep; says why each commit is kept.

        Bytes come back with the next `gc`. Commits stay in the log, marked as pruned.
        """
        return prune(self.store, self.scheme, self._known, keep, dry_run=dry_run)

    def gc(self, *, dry_run: bool = False, progress: Progress = no_progress) -> GcReport:
        """Delete what nothing refers to. Others may read and write meanwhile.

        Raises:
            StoreBusyError: it is under way elsewhere.
            MissingObjectError, CorruptObjectError: the store is damaged; nothing live was deleted.
        """
        with self._collecting:
            return collect(self.store, self.scheme, dry_run=dry_run, progress=progress)


def _after_fork_in_child() -> None:
    for handle in list(_handles):
        handle._new_locks()


# Every handle, for the child of a fork to find.
_handles: weakref.WeakSet[Maintained] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
