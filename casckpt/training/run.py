"""The state of a run by parts: the named objects, progress, generators and the loader's position. Taken, and put back.

What can be checked is checked before anything is put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from casckpt.errors import CasckptError, RestoreMismatchError
from casckpt.history.commits import Commit, CommitReader
from casckpt.objects.paths import escape
from casckpt.objects.tree import shallow
from casckpt.objects.values import Map
from casckpt.tensors.repository import Repository
from casckpt.training import rng
from casckpt.training.loader import Place, Position
from casckpt.training.states import LOADER, PROGRESS, RNG, capture

_EPOCH_START: Final = "epoch_start"
_KINDS: Final = {None: "no position of a loader", "batches": "a number of batches", "state": "a loader's own state"}


class Progress(msgspec.Struct, frozen=True):
    """How far a run is. best: the monitored metric in the best commit so far. The rest is the loader's position."""

    step: int
    epoch: int
    best: float | None
    loader: str | None
    batches: int
    reuses: bool


# msgspec crashes where two threads are the first to come to a class: it comes to it here.
msgspec.msgpack.Decoder(Progress)


class Run:
    """What a Checkpointer saves. states: live objects by name. position: in the loader, if there is one."""

    def __init__(self, states: Mapping[str, Any], position: Position | None) -> None:
        self._states = states
        self.position = position

    @property
    def names(self) -> list[str]:
        """Every part that can be put back by itself."""
        return [*self._states, PROGRESS, RNG, *([] if self.position is None else [LOADER])]

    def state(self, step: int, best: float | None) -> dict[str, Any]:
        """The state of the run as it is now. Nothing of the named objects is copied."""
        state = {name: capture(item) for name, item in self._states.items()}
        if self.position is None:
            progress = Progress(step, 0, best, None, 0, False)
            generators = rng.capture()
        else:
            place = self.position.place()
            progress = Progress(step, place.epoch, best, self.position.kind, place.batches, place.reuses)
            generators = dict(place.generators or {})
            if place.start is not None:
                generators[_EPOCH_START] = place.start
            if self.position.kind == "state":
                state[LOADER] = place.state
        return {**state, PROGRESS: msgspec.structs.asdict(progress), RNG: generators}

    def put_back(self, repo: Repository, commit: Commit, only: Iterable[str] | None, strict: bool) -> Progress | None:
        """Put the state of a commit back, or the parts of it in `only`; returns its progress, if that is among them.

        Raises:
            RestoreMismatchError, PrunedCommitError, ReleasedPartError, CorruptObjectError, MissingObjectError
        """
        held = _parts(repo, commit)
        wanted = self._wanted(only, held, commit, strict)
        with_loader = LOADER in wanted
        own = [name for name in (PROGRESS, RNG, LOADER) if name in held and (with_loader or name in wanted)]
        saved = repo.load(commit.id, paths=[escape(name) for name in own]) if own else {}
        progress = _progress(saved)
        generators = saved.get(RNG)
        if generators is not None:
            rng.check(generators)
        place = None
        if not strict and progress is not None and progress.loader is None:
            with_loader = False  # like any other part that the commit lacks
        if with_loader and progress is not None and generators is not None:
            place = self._place(progress, generators, saved.get(LOADER), RNG in wanted)
        if place is not None and self.position is not None:
            self.position.check(place)
        repo.restore({name: self._states[name] for name in wanted if name in self._states}, commit.id, strict=strict)
        try:
            if place is not None and self.position is not None:
                self.position.put_back(place)
            if RNG in wanted and generators is not None:
                rng.restore(generators)
        except CasckptError as error:
            error.partly_restored = True
            raise
        return progress if PROGRESS in wanted else None

    def _wanted(self, only: Iterable[str] | None, held: set[str], commit: Commit, strict: bool) -> list[str]:
        chosen = self.names if only is None else [only] if isinstance(only, str) else list(only)
        for name in chosen:
            if name not in self.names:
                raise RestoreMismatchError(
                    "this Checkpointer has no such state", path=name, remedy=f"it has {', '.join(self.names)}"
                )
        missing = [name for name in chosen if name != LOADER and name not in held]
        if missing and strict:
            raise RestoreMismatchError(
                f"commit {commit.id[:12]} has no {', '.join(missing)}",
                path=missing[0],
                remedy="name what is to be restored by only=[...], or take what is there with strict=False",
            )
        return [name for name in chosen if name not in missing]

    def _place(self, progress: Progress, generators: rng.State, state: Any, with_generators: bool) -> Place:
        assert self.position is not None
        if progress.loader != self.position.kind:
            raise RestoreMismatchError(
                f"the commit holds {_KINDS.get(progress.loader, progress.loader)}, and the loader given here needs "
                f"{_KINDS[self.position.kind]}",
                path=LOADER,
                remedy="give a loader of the kind that it was saved with, or leave it out by only=[...]",
            )
        start = generators.get(_EPOCH_START)
        if progress.loader == "batches" and progress.batches and start is None:
            raise RestoreMismatchError(
                f"{progress.batches} batches were delivered, but how their epoch began was not saved",
                path=f"{RNG}.{_EPOCH_START}",
            )
        now = {name: held for name, held in generators.items() if name != _EPOCH_START}
        return Place(
            epoch=progress.epoch,
            batches=progress.batches,
            reuses=progress.reuses,
            start=start,
            state=state,
            generators=now if with_generators else None,
        )


def _parts(repo: Repository, commit: Commit) -> set[str]:
    """The names of the parts that a commit was made with."""

    def names(commits: CommitReader) -> set[str]:
        objects = commits.objects
        state = shallow(objects.tree(bytes.fromhex(commit.tree)), objects.tree)
        return {key for key, _ in state.entries if isinstance(key, str)} if isinstance(state, Map) else set()

    return repo.reading(names) if not commit.pruned else set()


def _progress(saved: Mapping[str, Any]) -> Progress | None:
    if PROGRESS not in saved:
        return None
    try:
        return msgspec.convert(saved[PROGRESS], Progress)
    except msgspec.ValidationError as error:
        raise RestoreMismatchError(f"this is not what a Checkpointer saves there: {error}", path=PROGRESS) from error
