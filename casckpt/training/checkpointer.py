"""The Checkpointer: the state of a whole training run, committed behind it when due, and put back bit for bit.

It must never be the reason that a run's data is lost: a commit that fails leaves store and training as they were, and
what fails behind training is told once, by the next thing that is called.
"""

from __future__ import annotations

import operator
import signal
import warnings
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, Final, Literal, Self

from casckpt.errors import (
    CasckptError,
    LoaderError,
    PolicyError,
    RefExistsError,
    StateError,
)
from casckpt.history.commits import Commit
from casckpt.history.retention import Keep
from casckpt.objects.names import check_ref_name
from casckpt.tensors.repository import Repository
from casckpt.training.behind import Behind, Flight
from casckpt.training.due import Due, Metrics
from casckpt.training.loader import END, Position, position_of
from casckpt.training.opened import opened
from casckpt.training.run import Run
from casckpt.training.signals import Signals, name_of
from casckpt.training.states import checked
from casckpt.training.upkeep import Upkeep, check_compact_above

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Checkpointer:
    """Commits the state of a training run, and brings it back.

        with casckpt.Checkpointer("runs/gpt", model=model, optimizer=opt, dataloader=loader, every_steps=50) as ckpt:
            step = ckpt.resume()
            while step < n:
                for x, y in ckpt.batches():
                    loss = train(x, y)
                    step += 1
                    ckpt.step(step, metrics={"loss": loss})
                    if step >= n:
                        break

    repository: a path, which is opened (and made, where there is none) and closed again; or an open Repository.
    model, optimizer, scheduler, scaler, ema, and further ones by their names: objects with `state_dict` and
        `load_state_dict`, or dicts and lists of tensors and values, which are restored in place.
    dataloader: a DataLoader, or a loader with `state_dict` and `load_state_dict`; either is to be gone through by
        `batches()`.
    every_steps, every_seconds: when `step()` commits; without either, and without monitor, only `save()`, a signal and
        the end of the `with` block do. monitor, mode: commit only where this metric is better ("min", "max") than in
        every commit before.
    busy: where a commit is due while the one before is still being written, "wait" for that one, or "skip" it: the
        next `step()` that finds nothing in the way commits. memory: as for `Repository.commit_async`.
    keep: what is kept; everything else is pruned after each commit, and collected, behind training.
    compact_above: the share of the store's file (between 0 and 1) that may be free, at 64 MiB or more; above it the
        file is rewritten between commits, and the rest of the disk given back, if no other process has it open. A
        commit that is due meanwhile waits.
    signals: those at which the next `step()` commits and then lets the signal take its course; () for none. Only inside
        of the `with` block, and only on the main thread.
    on_error: what happens when a commit that was due fails: "raise", or "warn" and train on. What fails behind training
        is raised, or warned of, by the next `step`, `save`, `wait`, `resume` or `rollback`, or the end of the block.
    meta: plain values that each commit carries.
    branch, hash, chunk_size, codec: as for `casckpt.open`.

    Raises:
        StateError, UnsupportedTypeError: something that cannot be saved, or under a name that is taken.
        LoaderError: a loader whose position cannot be known.
        PolicyError, StoreError: nonsensical settings; or as `casckpt.open`.
    """

    def __init__(
        self,
        repository: str | PathLike[str] | Repository,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        ema: Any = None,
        dataloader: Any = None,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        busy: Literal["wait", "skip"] = "wait",
        memory: int | None = None,
        keep: Keep | None = None,
        compact_above: float | None = None,
        branch: str | None = None,
        signals: Iterable[int] = _SIGNALS,
        on_error: Literal["raise", "warn"] = "raise",
        meta: Mapping[str, object] | None = None,
        hash: str | None = None,
        chunk_size: int | None = None,
        codec: str | None = None,
        **more: Any,
    ) -> None:
        known = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema}
        self._run = Run(checked({**known, **more}), None if dataloader is None else position_of(dataloader))
        self._due = Due(every_steps, every_seconds, monitor, mode)
        if on_error not in ("raise", "warn"):
            raise PolicyError(f"on_error={on_error!r} is neither 'raise' nor 'warn'")
        self._on_error = on_error
        if busy not in ("wait", "skip"):
            raise PolicyError(f"busy={busy!r} is neither 'wait' nor 'skip'")
        self._busy: Literal["wait", "skip"] = busy
        self._memory = memory
        check_compact_above(compact_above)
        self._meta = dict(meta or {})
        self._signals = Signals(signals)
        self.repo = opened(repository, branch=branch, hash=hash, chunk_size=chunk_size, codec=codec)
        self._closes = self.repo is not repository
        self.repo.metric_modes.update(keep.modes if keep is not None else {})
        if monitor is not None:
            self.repo.metric_modes.setdefault(monitor, mode)
        listening = self._signals  # not by way of self: a cycle would keep the loader's workers until gc finds it
        self._upkeep = Upkeep(self.repo, keep, compact_above=compact_above, stopped=lambda: listening.noted is not None)
        self._behind = Behind(self.repo, self._upkeep, on_error)
        self._step = self._began = 0  # _began: the step at which the loader was last known to be untouched
        self._metrics = Metrics(None)
        self._uncommitted = False
        self._torn: Commit | None = None  # the commit that live objects were left partly restored from
        self._last: Commit | None = None

    # -- looking -------------------------------------------------------------------------------------------------------

    @property
    def last(self) -> Commit | None:
        """The newest durable commit that was made, resumed from or rolled back to here."""
        if self._behind.has_landed:
            self._settle()
        return self._last

    @property
    def epoch(self) -> int:
        """Epochs of the loader that `batches()` has finished; 0 without a loader."""
        return 0 if self._run.position is None else self._run.position.epoch

    @property
    def preempted(self) -> bool:
        """Whether a signal to stop has come."""
        return self._signals.came

    # -- training ------------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Any]:
        """The batches of one epoch of the loader; of one that was begun already, what is left of it.

        An epoch that was left by `break` goes on here, as does one that was resumed. After a rollback, also one in the
        middle of this loop, the next batch is the one that followed the commit; the loop then ends with that epoch.

        Raises:
            LoaderError: no loader was given.
        """
        if self._run.position is None:
            raise LoaderError("no dataloader was given", remedy="Checkpointer(..., dataloader=loader)")
        return self._batches(self._run.position)

    @staticmethod
    def _batches(position: Position) -> Iterator[Any]:
        while (batch := position.pull()) is not END:
            yield batch

    def step(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Say that so many optimizer updates are complete; commits if one is due.

        Returns as soon as the state may be changed; the commit is made durable behind training. At a signal, and then
        only, it waits until it is. Call it once for each update, never between accumulation steps: gradients are not
        saved.
        metrics: floats, tensors of one element, or functions that give them; read only when a commit is due.

        Raises:
            LoaderError: the loader that was given is not gone through by `batches()`.
            StateError: a metric that is no number.
            CasckptError, OSError: a commit failed, this one or the one before, and `on_error` is "raise". Where it was
                the one before, this step was not committed; the next one will be, if this one was due.
        """
        self._note(step, metrics)
        self._settle()
        if self._signals.noted is not None:
            self._attempt(f"stopped by {name_of(self._signals.noted)}", durable=True)
            self._behind.tell()
            self._signals.act()
            return
        self._behind.tell()
        if self._busy == "skip" and self._behind.is_busy:
            return
        if self._due.is_due(self._step, self._metrics):
            self._settle(wait=True)
            self._behind.tell()
            self._attempt("")

    def save(
        self, step: int, message: str = "", *, tag: str | None = None, metrics: Mapping[str, Any] | None = None
    ) -> Commit:
        """Commit now, whatever is due, behind what was handed over; the commit is durable when this returns.

        tag: a name that stays with the commit.

        Raises:
            InvalidRefNameError, RefExistsError: of the tag; nothing was committed.
            LoaderError, StateError, UnsupportedTypeError, RefMovedError, StoreFullError, StoreFailedError
            and whatever failed behind training since the last call, if `on_error` is "raise": nothing was done then.
        """
        if tag is not None:
            self._check_tag(tag)
        self._note(step, metrics)
        self._check_loader()
        self._settle(wait=True)
        self._behind.tell()
        commit = self._commit(message)
        if tag is not None:
            self.repo.tag(tag, at=commit.id)
        self._behind.clear_away()
        return commit

    def _note(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        self._step, self._metrics, self._uncommitted = operator.index(step), Metrics(metrics), True

    def _check_tag(self, tag: str) -> None:
        check_ref_name(tag)
        if any((ref.kind, ref.name) == ("tag", tag) for ref in self.repo.refs()):
            raise RefExistsError(
                f"there is a tag {tag!r} already", ref=tag, remedy="choose another name, or delete it first"
            )

    def wait(self) -> None:
        """Return when everything that was handed over is durable, and upkeep is done.

        Raises:
            whatever failed behind training since the last call, if `on_error` is "raise".
        """
        self._drain()
        self._behind.tell()

    def _settle(self, *, wait: bool = False) -> None:
        """Take note of how the commit that was handed over ended, if it has, or once it has."""
        ended = self._behind.settle(wait=wait)
        if ended is None:
            return
        if ended.commit is not None:
            self._last = ended.commit
        else:
            self._uncommitted = True
            self._due.go_back(ended.flight.best)

    def _drain(self) -> None:
        self._settle(wait=True)
        self._behind.drain()

    # -- committing ----------------------------------------------------------------------------------------------------

    def _attempt(self, message: str, *, durable: bool = False) -> None:
        """Commit what `step()` was told, behind training or at once; `on_error` says what a failure does.

        durable: return when it is; there may be no time for upkeep.
        """
        self._check_loader()
        before = self._due.best
        try:
            if durable:
                self._commit(message)
            else:
                self._hand_over(message)
        except (CasckptError, OSError) as error:
            self._due.restart(self._step, before)  # the next try is made when the next commit is due
            if self._on_error == "raise":
                raise
            what = f"step {self._step} was not saved: {type(error).__name__}: {error}"
            warnings.warn(what, RuntimeWarning, stacklevel=3)

    def _hand_over(self, message: str) -> None:
        state, best = self._state()
        before, metrics = self._due.best, self._metrics.all()
        pending = self.repo.commit_async(
            state,
            message,
            step=self._step,
            metrics=metrics,
            meta=self._meta,
            busy=self._busy,
            memory=self._memory,
        )
        if pending is None:  # somebody else's commit is in the way
            return
        self._behind.hand_over(Flight(pending, self._step, before))
        self._uncommitted = False
        self._due.restart(self._step, best)

    def _commit(self, message: str) -> Commit:
        self._settle(wait=True)
        state, best = self._state()
        commit = self.repo.commit(state, message, step=self._step, metrics=self._metrics.all(), meta=self._meta)
        self._last = commit
        self._uncommitted = False
        self._due.restart(self._step, best)
        return commit

    def _state(self) -> tuple[dict[str, Any], float | None]:
        """What is committed, and the best value of the monitored metric in it."""
        if self._torn is not None:
            raise StateError(
                f"going back to commit {self._torn.id[:12]} failed half-way, so the live objects are a mixture",
                remedy="resume() or rollback() to a commit that fits before the next commit",
            )
        best = self._due.better(self._metrics)
        best = self._due.best if best is None else best
        return self._run.state(self._step, best), best

    def _check_loader(self) -> None:
        position = self._run.position
        if position is not None and not position.pulled and self._step != self._began:
            raise LoaderError(
                f"no batch was taken from batches() for step {self._step}, so the dataloader's position is not known",
                remedy="iterate over ckpt.batches() instead of the loader, or leave dataloader= out",
            )

    # -- going back ----------------------------------------------------------------------------------------------------

    def resume(self, ref: str | None = "HEAD", *, only: Iterable[str] | None = None, strict: bool = True) -> int:
        """Put the state of a commit into the live objects; returns its step, or 0 where nothing was committed yet.

        ref: any revision. The branch stays where it is: the next commit follows its tip.
        only: names of states, "progress" (step and epoch), "rng", "dataloader"; the rest stays as it is, and without
            "progress" the step returned is the one that this Checkpointer is at.
        strict: whether it is an error if the commit lacks what is wanted, or if a tensor is only on one side.

        Waits first for what was handed over.

        Raises:
            whatever failed behind training since the last call, if `on_error` is "raise": nothing was done then.
            RestoreMismatchError: something does not fit, or `only` names what there is not.
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError, ReleasedPartError
            CorruptObjectError, MissingObjectError
        """
        self._drain()
        self._behind.tell()
        newest = ref in (None, "HEAD")
        if newest and next(self.repo.log(limit=1), None) is None:
            return self._step
        commit = self.repo.resolve("HEAD" if ref is None else ref)
        self._restore(commit, only, strict)
        if newest:
            self.repo.follow(commit)  # whoever moved the branch there
        return self._step

    def rollback(self, revision: str) -> int:
        """Move the branch to a commit and put its whole state back, in place; returns its step.

        May be called inside of a loop over `batches()`: its next batch is the one that followed the commit. Waits first
        for what was handed over, so that HEAD is the newest commit that `step` made.

        Raises:
            whatever failed behind training since the last call, if `on_error` is "raise": nothing was done then.
            RefMovedError: somebody else moved the branch; `resume()` goes on from where it is.
            RestoreMismatchError: something does not fit.
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError, ReleasedPartError
            CorruptObjectError, MissingObjectError

        After an error the branch is where it was. Where the error's `partly_restored` is set, live objects are not as
        they were, and nothing is committed until a `resume` or `rollback` succeeds.
        """
        self._drain()
        self._behind.tell()
        tip = self.repo.resolve("HEAD").id
        commit = self.repo.rollback(revision)
        try:
            self._restore(commit, None, True)
        except BaseException as error:
            try:
                self.repo.rollback(tip)
            except CasckptError as again:
                error.add_note(f"the branch stays at {commit.id[:12]}: {again}")
            raise
        return self._step

    def _restore(self, commit: Commit, only: Iterable[str] | None, strict: bool) -> None:
        try:
            progress = self._run.put_back(self.repo, commit, only, strict)
        except BaseException as error:
            if not isinstance(error, CasckptError) or error.partly_restored:
                self._torn = commit
            raise
        self._torn = None
        if progress is not None:
            self._step = self._began = progress.step
            self._due.restart(progress.step, progress.best)
        self._uncommitted = False
        self._metrics = Metrics(None)
        self._last = commit

    # -- beginning and end ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._signals.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Left normally, it commits the last step, if that is still to be; left by an exception, it only drains."""
        try:
            try:
                if kind is None:
                    self._settle(wait=True)  # one that failed is made again
                    if self._uncommitted:
                        self._attempt("", durable=True)
                        self._behind.clear_away()
            finally:
                self._finish()
            self._behind.tell()
        except Exception as late:
            if error is None:
                raise
            error.add_note(f"and at the end of the Checkpointer: {type(late).__name__}: {late}")
        finally:
            self._signals.act()

    def close(self) -> None:
        """Wait for what is in flight, give the signals back, close the store if it was opened here. Twice is once.

        Raises:
            whatever failed behind training since the last call, if `on_error` is "raise".
        """
        self._finish()
        self._behind.tell()

    def _finish(self) -> None:
        try:
            self._drain()
        finally:
            self._signals.restore()
            if self._closes:
                self.repo.close()
