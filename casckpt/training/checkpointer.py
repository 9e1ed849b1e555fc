"""The Checkpointer: the state of a whole training run, committed when due, and put back bit for bit.

It must never be the reason that a run's data is lost: a commit that fails leaves store and training as they were.
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
    StoreSettingsError,
)
from casckpt.history.commits import Commit
from casckpt.history.retention import Keep
from casckpt.objects.names import check_ref_name
from casckpt.tensors.open import open_repository
from casckpt.tensors.repository import Repository
from casckpt.training.due import Due, Metrics
from casckpt.training.loader import END, Position, position_of
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
    keep: what is kept; everything else is pruned after each commit, and collected.
    compact_above: the share of the store's file (between 0 and 1) that may be free, at 64 MiB or more; above it the
        file is rewritten between commits, and the rest of the disk given back, if no other process has it open.
    signals: those at which the next `step()` commits and then lets the signal take its course; () for none. Only inside
        of the `with` block, and only on the main thread.
    on_error: what happens when a commit that was due fails: "raise", or "warn" and train on.
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
        check_compact_above(compact_above)
        self._meta = dict(meta or {})
        self._signals = Signals(signals)
        settings = {"branch": branch, "hash": hash, "chunk_size": chunk_size, "codec": codec}
        self._closes = not isinstance(repository, Repository)
        if isinstance(repository, Repository):
            given = [name for name, value in settings.items() if value is not None]
            if given:
                raise StoreSettingsError(
                    f"{', '.join(given)} was given beside a repository that is open already",
                    store=repository.path,
                    remedy="give it to casckpt.open",
                )
            self.repo = repository
        else:
            self.repo = open_repository(repository, branch=branch, hash=hash, chunk_size=chunk_size, codec=codec)
        self.repo.metric_modes.update(keep.modes if keep is not None else {})
        if monitor is not None:
            self.repo.metric_modes.setdefault(monitor, mode)
        listening = self._signals  # not by way of self: a cycle would keep the loader's workers until gc finds it
        self._upkeep = Upkeep(self.repo, keep, compact_above=compact_above, stopped=lambda: listening.noted is not None)
        self._step = self._began = 0  # _began: the step at which the loader was last known to be untouched
        self._metrics = Metrics(None)
        self._uncommitted = False
        self._torn: Commit | None = None  # the commit that live objects were left partly restored from
        self.last: Commit | None = None
        """The newest commit that was made, resumed from or rolled back to here."""

    # -- looking -------------------------------------------------------------------------------------------------------

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

        Call it once for each update, never between accumulation steps: gradients are not saved.
        metrics: floats, tensors of one element, or functions that give them; read only when a commit is due.

        Raises:
            LoaderError: the loader that was given is not gone through by `batches()`.
            StateError: a metric that is no number.
            CasckptError, OSError: the commit failed, and `on_error` is "raise".
        """
        self._step, self._metrics, self._uncommitted = operator.index(step), Metrics(metrics), True
        if self._signals.noted is not None:
            self._attempt(f"stopped by {name_of(self._signals.noted)}", upkeep=False)
            self._signals.act()
        elif self._due.is_due(self._step, self._metrics):
            self._attempt("")

    def save(
        self, step: int, message: str = "", *, tag: str | None = None, metrics: Mapping[str, Any] | None = None
    ) -> Commit:
        """Commit now, whatever is due; the commit is durable when this returns.

        tag: a name that stays with the commit.

        Raises:
            InvalidRefNameError, RefExistsError: of the tag; nothing was committed.
            LoaderError, StateError, UnsupportedTypeError, RefMovedError, StoreFullError, StoreFailedError
        """
        if tag is not None:
            self._check_tag(tag)
        self._step, self._metrics, self._uncommitted = operator.index(step), Metrics(metrics), True
        self._check_loader()
        commit = self._commit(message)
        if tag is not None:
            self.repo.tag(tag, at=commit.id)
        self._upkeep.run()
        return commit

    def _check_tag(self, tag: str) -> None:
        check_ref_name(tag)
        if any((ref.kind, ref.name) == ("tag", tag) for ref in self.repo.refs()):
            raise RefExistsError(
                f"there is a tag {tag!r} already", ref=tag, remedy="choose another name, or delete it first"
            )

    def wait(self) -> None:
        """Return when everything that was handed over is durable. Commits are made before `step()` returns: at once."""

    # -- committing ----------------------------------------------------------------------------------------------------

    def _attempt(self, message: str, *, upkeep: bool = True) -> None:
        """Commit what `step()` was told; a failure is raised or warned of, as `on_error` says.

        upkeep: False where there may be no time for it.
        """
        self._check_loader()
        before = self._due.best
        try:
            self._commit(message)
            if upkeep:
                self._upkeep.run()
        except (CasckptError, OSError) as error:
            if self._uncommitted:
                self._due.restart(self._step, before)  # the next try is made when the next commit is due
            if self._on_error == "raise":
                raise
            done = "was not saved" if self._uncommitted else "was saved, but old commits could not be cleared away"
            warnings.warn(f"step {self._step} {done}: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=3)

    def _commit(self, message: str) -> Commit:
        if self._torn is not None:
            raise StateError(
                f"going back to commit {self._torn.id[:12]} failed half-way, so the live objects are a mixture",
                remedy="resume() or rollback() to a commit that fits before the next commit",
            )
        best = self._due.better(self._metrics)
        best = self._due.best if best is None else best
        commit = self.repo.commit(
            self._run.state(self._step, best), message, step=self._step, metrics=self._metrics.all(), meta=self._meta
        )
        self.last = commit
        self._uncommitted = False
        self._due.restart(self._step, best)
        return commit

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

        Raises:
            RestoreMismatchError: something does not fit, or `only` names what there is not.
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError, ReleasedPartError
            CorruptObjectError, MissingObjectError
        """
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

        May be called inside of a loop over `batches()`: its next batch is the one that followed the commit.

        Raises:
            RefMovedError: somebody else moved the branch; `resume()` goes on from where it is.
            RestoreMismatchError: something does not fit.
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError, ReleasedPartError
            CorruptObjectError, MissingObjectError

        After an error the branch is where it was. Where the error's `partly_restored` is set, live objects are not as
        they were, and nothing is committed until a `resume` or `rollback` succeeds.
        """
        self.wait()
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
        self.last = commit

    # -- beginning and end ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._signals.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Left normally, it commits the last step, if that is still to be; left by an exception, it only drains."""
        try:
            if kind is None and self._uncommitted:
                self._attempt("")
        finally:
            self.close()
            self._signals.act()

    def close(self) -> None:
        """Wait for what is in flight, give the signals back, close the store if it was opened here. Twice is once."""
        self.wait()
        self._signals.restore()
        if self._closes:
            self.repo.close()
