"""Where training is in its data, and how to get there again.

A plain DataLoader knows no position: its workers fetch ahead of what training has seen. So its position is the number
of batches that were delivered in this epoch, with the generators as they were before the epoch's iterator was built.
To come back, these are put back, an iterator is built, and that many batches are skipped: by their indices alone where
the data set can be indexed. Then the generators are put to where they were when the commit was made.

A loader with `state_dict` and `load_state_dict` is asked for its own. It is pulled from here all the same: building its
iterator draws, and only who builds it can put the generators right afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from torch.utils.data import DataLoader, IterableDataset

from casckpt.errors import LoaderError, RestoreMismatchError
from casckpt.training import rng

END: Final = object()
"""What `Position.pull` gives at the end of an epoch."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position as a commit holds it.

    epoch: epochs finished. batches: delivered in this one. reuses: whether the epoch's iterator is that of the epoch
    before, as with persistent workers. start: generators before this epoch's iterator was built, where batches of it
    were delivered. state: of a loader that has its own. generators: as they are to be when the next batch is pulled;
    None: as they happen to be.
    """

    epoch: int
    batches: int
    reuses: bool
    start: rng.State | None
    state: Any
    generators: rng.State | None


class Position(Protocol):
    """A loader and the place in it."""

    kind: str
    epoch: int
    pulled: bool  # whether a batch was asked for since the loader was given, or put back

    def pull(self) -> Any:
        """The next batch, or END, once for each epoch."""

    def place(self) -> Place:
        """Where it is."""

    def check(self, place: Place) -> None:
        """Raise RestoreMismatchError if the loader has other generators than the place; nothing is changed."""

    def put_back(self, place: Place) -> None:
        """Go to a place, from the next pull on. An iterator in use is given up."""


def position_of(loader: Any) -> Position:
    """The position in a loader, at the beginning of its first epoch.

    Raises:
        LoaderError: its position cannot be known.
    """
    if callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None)):
        return _OwnPosition(loader)
    if hasattr(loader, "__next__") or not hasattr(loader, "__iter__"):
        raise LoaderError(
            f"a {type(loader).__name__} cannot be gone through again from its beginning, so its position cannot be "
            "restored",
            remedy="give the DataLoader itself, or a loader with state_dict and load_state_dict",
        )
    if isinstance(loader, DataLoader) and loader.num_workers and not getattr(loader, "in_order", True):
        raise LoaderError(
            "a DataLoader with in_order=False delivers its batches in an order that cannot be repeated",
            remedy="leave in_order out",
        )
    return _CountedPosition(loader)


class _Position(ABC):
    """What both kinds share: epochs, batches, and a place to go to."""

    kind: str

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.epoch = 0
        self.pulled = False
        self._batches = 0
        self._iterator: Iterator[Any] | None = None
        self._pending: Place | None = None

    def pull(self) -> Any:
        self.pulled = True
        if self._iterator is None:
            self._iterator = self._begin(self._pending)
            self._pending = None
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._iterator = None
            self.epoch += 1
            self._batches = 0
            return END
        self._batches += 1
        return batch

    def put_back(self, place: Place) -> None:
        self._iterator = None
        self._pending = place
        self.epoch = place.epoch
        self._batches = place.batches
        self.pulled = False

    @abstractmethod
    def _begin(self, pending: Place | None) -> Iterator[Any]:
        """An iterator that gives the next batch: at the pending place, or at the beginning of an epoch."""

    def _still_there(self, pending: Place) -> Place:
        """The place that was put back and has not been left yet."""
        return replace(pending, generators=pending.generators or self._generators())

    def _own(self) -> list[rng.Own]:
        """The generators of the loader, its samplers and its data set. Asked for anew each time: they may change."""
        loader = self._loader
        batch_sampler = getattr(loader, "batch_sampler", None)
        samplers = (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
        return rng.own_generators((loader, *samplers, getattr(loader, "dataset", None)))

    def _generators(self) -> rng.State:
        return {**rng.capture(), "loader": rng.capture_own(self._own())}

    def _put_generators(self, state: rng.State) -> None:
        rng.restore(state)
        rng.restore_own(self._own(), state.get("loader", []), "rng.loader")


class _CountedPosition(_Position):
    """A loader whose position is counted here."""

    kind = "batches"

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self._start: rng.State | None = None
        self._reuses = False

    def place(self) -> Place:
        if self._pending is not None:
            return self._still_there(self._pending)
        begun = self._iterator is not None
        return Place(
            epoch=self.epoch,
            batches=self._batches,
            reuses=self._reuses if begun else self._would_reuse(),
            start=self._start if begun else None,
            state=None,
            generators=self._generators(),
        )

    def check(self, place: Place) -> None:
        # what is put back before the iterator is built, which may make generators that are not there yet
        if place.batches and place.start is not None:
            rng.check(place.start, "rng.epoch_start")
            rng.check_own(self._own(), place.start.get("loader", []), "rng.epoch_start.loader")
        elif place.generators is not None:
            rng.check_own(self._own(), place.generators.get("loader", []), "rng.loader")

    def put_back(self, place: Place) -> None:
        super().put_back(place)
        if _persists(self._loader):
            self._loader._iterator = None  # its workers are in the middle of another epoch

    def _would_reuse(self) -> bool:
        return _persists(self._loader) and self._loader._iterator is not None

    def _begin(self, pending: Place | None) -> Iterator[Any]:
        if pending is None:
            self._reuses = self._would_reuse()
            self._start = self._generators()
            return iter(self._loader)
        after = pending.generators or self._generators()
        self._reuses = pending.reuses and _persists(self._loader)
        start = self._start = (pending.start if pending.batches else None) or after
        self._put_generators(start)
        # building an iterator draws a seed; where the one of the epoch before is used again, nothing was drawn
        undo = (lambda: self._put_generators(start)) if self._reuses else None
        iterator = self._skip(pending.batches, undo)
        if pending.batches:
            self._put_generators(after)
        return iterator

    def _skip(self, batches: int, undo: Callable[[], None] | None) -> Iterator[Any]:
        loader = self._loader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return _fetch_and_drop(iter(loader), batches, undo)
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        original = getattr(loader, name)
        indices = _Indices(original, batches, undo)
        # a DataLoader refuses this attribute after it was made; it is put back before anybody else can see it
        object.__setattr__(loader, name, indices)
        try:
            iterator: Iterator[Any] = iter(loader)
        finally:
            object.__setattr__(loader, name, original)
        if indices.settle():
            return iterator
        # a subclass that builds its iterator only when it is pulled, with the sampler as it was
        return _fetch_and_drop(iterator, batches, undo)


class _OwnPosition(_Position):
    """A loader that says itself where it is."""

    kind = "state"

    def place(self) -> Place:
        if self._pending is not None:
            return self._still_there(self._pending)
        unused = _builds_when_asked(self._loader) and self._loader._iterator is None
        state = {} if unused else self._loader.state_dict()
        return Place(self.epoch, self._batches, False, None, state, self._generators())

    def check(self, place: Place) -> None:
        if place.generators is None:
            return
        own, saved = self._own(), place.generators.get("loader", [])
        # taking its state and building its iterator come before the generators, and may make some that it lacks now
        if len(own) >= len(saved):
            rng.check_own(own, saved, "rng.loader")

    def put_back(self, place: Place) -> None:
        try:
            self._loader.load_state_dict(place.state)
        except Exception as error:
            raise RestoreMismatchError(
                f"its load_state_dict refused what was saved ({type(error).__name__}: {error})", path="dataloader"
            ) from error
        if place.state == {} and _builds_when_asked(self._loader):
            self._loader.next_iter_state = None  # an empty state does not take back one that was loaded before
        super().put_back(place)

    def _begin(self, pending: Place | None) -> Iterator[Any]:
        if pending is None:
            return iter(self._loader)
        after = pending.generators or self._generators()
        if not _builds_when_asked(self._loader):
            if not pending.batches:
                self._put_generators(after)
                return iter(self._loader)
            iterator: Iterator[Any] = iter(self._loader)
            self._put_generators(after)
            return iterator
        if pending.state != {}:
            self._loader.state_dict()  # builds the iterator that iter() then gives, or goes on from to the next epoch
        self._put_generators(after)
        begun: Iterator[Any] = iter(self._loader)
        return begun


class _Indices:
    """A sampler's indices (or batches of them) without the first ones, once; from then on, the sampler as it is."""

    def __init__(self, sampler: Iterable[Any], skipped: int, undo: Callable[[], None] | None) -> None:
        self._sampler = sampler
        self._skipped = skipped
        self._undo = undo
        self._armed = True
        self._last: _Skipping | None = None

    def __iter__(self) -> Iterator[Any]:
        if not self._armed:
            return iter(self._sampler)
        if self._undo is not None:
            self._undo()
        # an iterator of several processes asks twice, and drops the first
        self._last = _Skipping(iter(self._sampler), self._skipped)
        return self._last

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def settle(self) -> bool:
        """Skip now, if nobody has pulled yet, and never again; returns whether anybody asked for the indices."""
        last, self._last = self._last, None
        self._armed = False
        # a persistent iterator keeps this object; kept in turn, it would only go with the garbage, and torch's workers
        # then wait 5 s for a farewell that does not come
        self._undo = None
        if last is None:
            return False
        last.skip()
        return True


class _Skipping:
    def __init__(self, indices: Iterator[Any], skipped: int) -> None:
        self._indices = indices
        self._left = skipped

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.skip()
        return next(self._indices)

    def skip(self) -> None:
        left, self._left = self._left, 0
        for _ in range(left):
            next(self._indices, None)


def _fetch_and_drop(iterator: Iterator[Any], batches: int, undo: Callable[[], None] | None) -> Iterator[Any]:
    if undo is not None:
        undo()
    for _ in range(batches):
        next(iterator, None)
    return iterator


def _builds_when_asked(loader: Any) -> bool:
    """Whether it is a StatefulDataLoader, which builds its iterator, and draws for it, when its state is asked for."""
    return isinstance(loader, DataLoader) and hasattr(loader, "next_iter_state")


def _persists(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and loader.num_workers > 0 and loader.persistent_workers
