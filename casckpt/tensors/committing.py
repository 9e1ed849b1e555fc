"""Commits of states, at once or behind training: how a state that was taken becomes the next commit of the branch.

The order of commits is the order of calls. What a commit is compared with is the newest one that is published; what it
follows is known when its turn comes to be published.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from traceback import clear_frames
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from casckpt.errors import AbandonedCommitError, StoreBusyError, StoreSettingsError
from casckpt.history.commits import Commit, present
from casckpt.history.ingest import Ingest
from casckpt.history.records import WHOLE
from casckpt.history.repository import History
from casckpt.limits import CODECS, SAVE_MEMORY
from casckpt.objects.commit import CommitObject
from casckpt.store.protocol import CompactReport, Progress, Store, no_progress
from casckpt.tensors.description import Description
from casckpt.tensors.pending import Lane, PendingCommit, SaveFigures

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from casckpt.tensors.flatten import Flat
    from casckpt.tensors.known import Known
    from casckpt.tensors.save import Save
    from casckpt.tensors.staging import Pool

T = TypeVar("T")


class Committing(History):
    """History that states are added to. Thread-safe; a context manager."""

    def __init__(self, store: Store, branch: str | None = None) -> None:
        super().__init__(store, branch)
        self._remembered: tuple[bytes, Known] | None = None

    def _new_locks(self) -> None:
        super()._new_locks()
        self._calling = threading.Lock()  # whoever takes a state, or moves the branch
        self._caller: int | None = None  # the thread that does
        self._lane = Lane(self.store.path)
        self._pool: Pool | None = None

    # -- committing ----------------------------------------------------------------------------------------------------

    def commit(
        self,
        state: object,
        message: str = "",
        *,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, object] | None = None,
        codec: str | None = None,
        before_publish: Callable[[], object] | None = None,
    ) -> Commit:
        """Save a state as the next commit of the branch; when this returns it is durable.

        state: nested dicts, lists and tuples with tensors, arrays and plain values at the leaves.
        step: completed optimizer updates. metrics: numbers to find and keep commits by. meta: plain values.
        codec: how its chunks are compressed, as for `casckpt.open`; None: as the store says.
        before_publish: called when every byte of the state was read; what it raises keeps the commit from being made.

        Raises:
            UnsupportedTypeError, StateError: something in the state cannot be saved; named by its path.
            StoreSettingsError: no such codec.
            RefMovedError: somebody else moved the branch since this handle last looked.
            StoreFullError: nothing was published.
            StoreFailedError: the outcome is unknown; open the store again and look.
            StoreBusyError: a callback of a commit calls with others behind that one, or a signal handler, or
                `before_publish`, while its own thread is in such a call; nothing was done.
            and whatever a commit in flight before it failed with, if nobody was told: nothing was done then.
        """
        from casckpt.tensors.flatten import flatten

        described = Description.checked(message, step, metrics, meta)
        chosen = self._codec(codec)
        flat = flatten(state)

        def work() -> Commit:
            pending = PendingCommit(self.path, self._lane)
            with _Making(self, flat, described, pending, codec=chosen, limit=SAVE_MEMORY, deferred=False) as made:
                made.take()
                return made.publish(before_publish)

        return self._in_turn(work, tell=True)

    @overload
    def commit_async(
        self,
        state: object,
        message: str = ...,
        *,
        step: int | None = ...,
        metrics: Mapping[str, float] | None = ...,
        meta: Mapping[str, object] | None = ...,
        codec: str | None = ...,
        busy: Literal["wait"] = ...,
        in_flight: int = ...,
        memory: int | None = ...,
    ) -> PendingCommit: ...

    @overload
    def commit_async(
        self,
        state: object,
        message: str = ...,
        *,
        step: int | None = ...,
        metrics: Mapping[str, float] | None = ...,
        meta: Mapping[str, object] | None = ...,
        codec: str | None = ...,
        busy: Literal["wait", "skip"],
        in_flight: int = ...,
        memory: int | None = ...,
    ) -> PendingCommit | None: ...

    def commit_async(
        self,
        state: object,
        message: str = "",
        *,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, object] | None = None,
        codec: str | None = None,
        busy: Literal["wait", "skip"] = "wait",
        in_flight: int = 1,
        memory: int | None = None,
    ) -> PendingCommit | None:
        """Save a state as the next commit of the branch, behind training: returns as soon as the state may be changed.

        What changed is copied; all else happens on other threads. `result()` of what this returns gives the commit once
        it is durable; `wait()` and `close()` wait for every one.

        state, message, step, metrics, meta, codec: as for `commit`.
        busy: if so many commits are in flight already, "wait" until one is done, or "skip" this one and return None.
        in_flight: how many commits may be under way at once, this one among them.
        memory: bytes of host memory that copies in flight may take, at least some 64 MiB; beyond that this call writes
            as it goes, and takes longer. None: as many as what changed.

        Raises:
            ValueError: in_flight is less than 1, or busy is neither.
            UnsupportedTypeError, StateError: something in the state cannot be saved; named by its path.
            StoreSettingsError: no such codec.
            StoreFullError, StoreFailedError: where `memory` had it write as it went; nothing was published.
            StoreBusyError: as for `commit`.
            and whatever a commit before it failed with, if nobody was told: nothing was done then.
        """
        from casckpt.tensors.flatten import flatten

        if busy not in ("wait", "skip") or in_flight < 1:
            raise ValueError(f"busy={busy!r} is neither 'wait' nor 'skip', or in_flight={in_flight!r} less than 1")
        began = time.perf_counter()
        described = Description.checked(message, step, metrics, meta)
        chosen = self._codec(codec)
        if busy == "skip":
            self._lane.go()
            if not self._lane.has_room(in_flight - 1):
                return None

        def work() -> PendingCommit:
            waited = time.perf_counter() - began
            pending = PendingCommit(self.path, self._lane)
            making = _Making(self, flatten(state), described, pending, codec=chosen, limit=memory, deferred=True)
            try:
                making.take()
                pending.figures = making.figures(stall=time.perf_counter() - began, waited=waited)
                making.hand_over()
            except BaseException as error:
                if pending.cancel():  # else it was handed over before the interrupt, and its turn has come
                    making.__exit__(type(error), error, None)
                raise
            return pending

        pending = self._in_turn(work, in_flight - 1, tell=True)
        self._lane.go()  # not in its turn: where no thread can be begun it is done here, and a callback may want one
        return pending

    def _codec(self, codec: str | None) -> str:
        if codec is None:
            return self.store.format.codec
        if codec not in CODECS:
            raise StoreSettingsError(
                f"unknown codec {codec!r}", store=self.path, remedy=f"use one of {', '.join(CODECS)}"
            )
        return codec

    def wait(self) -> None:
        """Return when every commit that was handed over is durable.

        Raises:
            whatever one of them failed with, if nobody was told.
        """
        self._lane.wait()
        self._lane.tell()

    def _in_turn(self, work: Callable[[], T], most: int = 0, *, tell: bool = False) -> T:
        """Do it alone with the branch, and with at most so many commits in flight.

        tell: raise what one of those before failed with.

        Raises:
            StoreBusyError: this thread is doing such a thing already, or is the lane's, with others behind.
        """
        if self._caller == threading.get_ident():
            raise StoreBusyError(
                "this thread is making a commit, or moving the branch, already",
                store=self.path,
                holders=("this thread",),
                remedy="do it when that call has returned; a signal handler can set a flag for it",
            )
        while True:
            self._lane.wait(most)  # not with the lock, which a callback of the commit waited for may want
            with self._calling:
                if self._lane.has_room(most):
                    if tell:
                        self._lane.tell()
                    try:
                        self._caller = threading.get_ident()
                        return work()
                    except BaseException:
                        if self._pool is not None:  # an interrupt may have kept pieces of it from being released
                            self._pool.end()
                            self._pool = None
                        raise
                    finally:
                        self._caller = None

    # -- what moves the branch waits for what is in flight -------------------------------------------------------------

    def switch(self, name: str, *, create: bool = False) -> None:
        self._in_turn(lambda: super(Committing, self).switch(name, create=create))

    def follow(self, commit: Commit) -> None:
        self._in_turn(lambda: super(Committing, self).follow(commit))

    def rollback(self, revision: str, *, dry_run: bool = False) -> Commit:
        return self._in_turn(lambda: super(Committing, self).rollback(revision, dry_run=dry_run))

    def reinstate(
        self, revision: str, *, parts: Iterable[str] | None = None, message: str = "", dry_run: bool = False
    ) -> Commit:
        work = super().reinstate
        return self._in_turn(lambda: work(revision, parts=parts, message=message, dry_run=dry_run))

    def compact(self, *, dry_run: bool = False, progress: Progress = no_progress) -> CompactReport:
        if dry_run:
            return super().compact(dry_run=True)
        # Else a callback of a commit that looks into the store would wait for it, and it for those behind that commit.
        return self._in_turn(lambda: super(Committing, self).compact(progress=progress))

    switch.__doc__ = History.switch.__doc__
    follow.__doc__ = History.follow.__doc__
    rollback.__doc__ = History.rollback.__doc__
    reinstate.__doc__ = History.reinstate.__doc__
    compact.__doc__ = History.compact.__doc__

    def close(self) -> None:
        """Wait for the commits and the gc in flight, then let go of the store. Twice is once.

        Raises:
            whatever a commit in flight failed with, if nobody was told; the store is closed all the same.
        """

        def work() -> None:
            super(Committing, self).close()
            if self._pool is not None:
                self._pool.give_up()
            self._lane.tell()

        self._in_turn(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.close()
        except Exception as late:
            leaving = error[1] if len(error) > 1 else None
            if not isinstance(leaving, BaseException):
                raise
            leaving.add_note(f"and a commit in flight failed: {late}")


class _Making:
    """One commit on its way, from the state to the branch. With `with`: whatever fails, nothing is left behind."""

    def __init__(
        self,
        repo: Committing,
        flat: Flat,
        described: Description,
        pending: PendingCommit,
        *,
        codec: str,
        limit: int | None,
        deferred: bool,
    ) -> None:
        from casckpt.tensors.known import Known
        from casckpt.tensors.save import Save, Settings
        from casckpt.tensors.staging import Pool

        if repo._pool is None:
            repo._pool = Pool()
        self._repo = repo
        self._described = described
        self._pending = pending
        self._time = time.time_ns()
        with repo._lock:
            repo._settle()
            self._branch, parent = repo._branch, repo._tip
            remembered = repo._remembered
        form = repo.store.format
        self._ingest = Ingest(repo.store, repo.scheme)  # after the look: it shows what was seen
        self._pool = repo._pool
        self._pool.work()
        try:
            base = self._base(parent, remembered) or Known({})
            settings = Settings(repo.scheme, form.chunk_size, codec, form.version)
            self._save: Save = Save(self._ingest, flat, settings, base, self._pool, deferred=deferred, limit=limit)
        except BaseException:
            self._ingest.close()
            self._pool.rest()
            raise

    def _base(self, parent: bytes | None, remembered: tuple[bytes, Known] | None) -> Known | None:
        """What to compare with: what the parent holds, as far as the snapshot shows it held (I1)."""
        from casckpt.tensors.known import base_nodes

        base = self._ingest.base(parent)
        if base is None:
            return None
        if remembered is not None and remembered[0] == parent:
            return remembered[1].without_parts(base.released)
        return base_nodes(self._ingest, base)

    def take(self) -> None:
        """Get hold of the state; afterwards it may change."""
        self._save.take()

    def hand_over(self) -> None:
        """Leave the rest to the lane."""
        self._ingest.hand_over()
        self._repo._lane.put(self.run)

    def publish(self, before_publish: Callable[[], object] | None = None) -> Commit:
        """Store what was taken, and make it the newest commit of the branch."""
        repo, described = self._repo, self._described
        saved = self._save.finish()
        with repo._lock:
            parent = repo._tip
        commit = CommitObject(
            tree=saved.tree,
            parents=() if parent is None else (parent,),
            branch=self._branch,
            step=described.step,
            metrics=described.metrics,
            message=described.message,
            time=self._time,
            host=socket.gethostname(),
            meta=described.meta,
        )
        if before_publish is not None:
            before_publish()
        began = time.perf_counter()
        try:
            oid, figures = self._ingest.publish(commit, expected=parent, logical=saved.logical)
        finally:
            repo._in_doubt = self._ingest.published  # interrupted while it was synced, it may be there all the same
        self._save.seconds["publish"] = time.perf_counter() - began
        with repo._lock:
            repo._tip, repo._in_doubt = oid, None
            repo._remembered = (oid, saved.known)
        return present(oid, commit, WHOLE, figures)

    def run(self) -> None:
        """On the lane: publish, and say how it ended; raises nothing."""
        pending, lane = self._pending, self._repo._lane
        commit: Commit | None = None
        failure: BaseException | None = None
        try:
            with self:
                if not pending.set_running_or_notify_cancel():
                    return
                if lane.is_broken:
                    raise AbandonedCommitError(
                        "the commit that it was to follow failed",
                        store=self._repo.path,
                        remedy="find out why by the result of that one, and commit again",
                    )
                commit = self.publish()
        except BaseException as error:
            failure = error
        pending.figures = self.figures(pending.figures.stall, pending.figures.waited)
        if failure is not None:
            clear_frames(failure.__traceback__)  # who keeps the error must not keep what was staged
            lane.lose(pending)
            pending.set_exception(failure)
        elif commit is not None:
            pending.set_result(commit)
        del failure, pending, self  # the error holds on to this frame, and they to the error

    def figures(self, stall: float, waited: float) -> SaveFigures:
        """What it cost so far."""
        save = self._save
        hashed = save.compared + save.copied
        return SaveFigures(stall, waited, hashed, save.copied, self._ingest.stored_bytes, dict(save.seconds))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is not None or self._pending.cancelled():
                self._save.abandon()
        finally:
            self._ingest.close()
            self._pool.rest()
