"""What a restore is going to do, gathered while it is checked: new values, tensors to write, containers, calls."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from casckpt.errors import CasckptError, RestoreMismatchError, UnsupportedTypeError
from casckpt.history.fetch import Objects
from casckpt.objects.tree import canonical
from casckpt.objects.values import ArrayRecord, Map, TensorRecord, Typed, Value
from casckpt.tensors import in_place
from casckpt.tensors.load import read
from casckpt.tensors.restore_overlap import Claim, claim_array, claim_tensor, refuse_overlaps


@dataclass(frozen=True, slots=True)
class Kept:
    """The live object stays where it is; whatever changes, changes in it."""

    live: Any


@dataclass(frozen=True, slots=True)
class Fresh:
    """A loaded object takes the place; `index` in the order of loading."""

    index: int


@dataclass(frozen=True, slots=True)
class Joined:
    """A new tuple takes the place, of live and of loaded objects."""

    kind: type
    slots: list[Slot]


@dataclass(frozen=True, slots=True)
class Filled:
    """A new mapping takes the place: an empty one that is loaded, with live and with loaded objects put in."""

    empty: Fresh
    slots: list[tuple[Slot, Slot]]


Slot: TypeAlias = Kept | Fresh | Joined | Filled
Resolve: TypeAlias = Callable[[Slot], Any]
Step: TypeAlias = Callable[[Resolve], None]

# Names of MAPPINGS.
_TYPES: Final[dict[str, type]] = {"counter": Counter, "ordered_dict": OrderedDict, "default_dict": defaultdict}


@dataclass(frozen=True, slots=True)
class _Write:
    live: torch.Tensor
    record: TensorRecord
    path: str
    by_call: bool


class Plan:
    """Steps of a restore. Nothing live is touched before `run`, and in `run` not before every check has passed."""

    def __init__(self, objects: Objects, strict: bool) -> None:
        self.strict = strict
        self._objects = objects
        self._values: list[tuple[Value, str]] = []
        self._writes: dict[object, _Write] = {}
        self._claims: list[Claim] = []
        self._changed: dict[int, tuple[object, Value, str]] = {}
        self._checks: list[Step] = []
        self._settles: list[Step] = []
        self._calls: list[tuple[str, Step]] = []

    def load(self, value: Value, path: str) -> Fresh:
        """Have an expanded value loaded, as a new object, before anything is written."""
        self._values.append((value, path))
        return Fresh(len(self._values) - 1)

    def write(self, live: torch.Tensor, record: TensorRecord, path: str, *, by_call: bool = False) -> None:
        """Have a record written into a live tensor. by_call: a planned call will write it, and it is only checked.

        Raises:
            RestoreMismatchError: it does not fit; or the same memory is to hold two different tensors.
        """
        in_place.check_fits(live, record, path)
        write = _Write(live, record, path, by_call)
        before = self._writes.setdefault(_place(live), write)
        if before is write:
            self._claims += claim_tensor(live, record, path)
        elif before.record == record or in_place.equal_bytes(self._objects, before.record, record):
            return
        else:
            raise RestoreMismatchError(
                f"the live tensor shares its memory with the one at {before.path}, and they were saved with different "
                "contents",
                path=path,
                remedy="untie them before restoring",
            )

    def claim_array(self, live: np.ndarray[Any, Any], record: ArrayRecord, path: str) -> None:
        """Say that a live array is going to be written, as `write` does for tensors."""
        self._claims += claim_array(live, record, path)

    def change(self, live: object, value: Value, path: str) -> None:
        """Say that a live container or object is going to be made equal to a saved value.

        Raises:
            RestoreMismatchError: it stands in another place too, for which something else was saved.
        """
        _, before, where = self._changed.setdefault(id(live), (live, value, path))
        if before is not value and canonical(before) != canonical(value):
            raise RestoreMismatchError(
                f"the live {type(live).__name__} is also the one at {where or 'the root'}, and they were saved with "
                "different contents",
                path=path,
                remedy="put a copy in one of the two places before restoring",
            )

    def verify(self, check: Step) -> None:
        """Have a check made on what was loaded, before anything is written."""
        self._checks.append(check)

    def settle(self, change: Step) -> None:
        """Have a live container changed."""
        self._settles.append(change)

    def call(self, path: str, function: Step) -> None:
        """Have a live object's own `load_state_dict` called, after everything else."""
        self._calls.append((path, function))

    def run(self) -> None:
        """Load, check, write, settle, call; in this order.

        Raises:
            RestoreMismatchError, UnsupportedTypeError, CorruptObjectError, MissingObjectError
        """
        refuse_overlaps(self._claims)
        loaded = self._loaded()

        def resolve(slot: Slot) -> Any:
            if isinstance(slot, Kept):
                return slot.live
            if isinstance(slot, Fresh):
                return loaded[slot.index]
            if isinstance(slot, Filled):
                made = loaded[slot.empty.index]
                for key, item in slot.slots:  # not update(), which in a Counter adds up
                    made[resolve(key)] = resolve(item)
                return made
            return slot.kind([resolve(inner) for inner in slot.slots])

        for step in self._checks:
            step(resolve)
        try:
            self._carry_out(resolve)
        except CasckptError as error:
            error.partly_restored = True
            raise

    def _carry_out(self, resolve: Resolve) -> None:
        writes = [(write.live, write.record) for write in self._writes.values() if not write.by_call]
        in_place.write(self._objects, writes)
        for step in self._settles:
            step(resolve)
        for path, step in self._calls:
            try:
                step(resolve)
            except Exception as error:
                raise RestoreMismatchError(
                    f"its load_state_dict refused what was saved ({type(error).__name__}: {error})",
                    path=path,
                    remedy="what does not go through load_state_dict is restored already: mend the object and restore "
                    "again, or restore another commit",
                ) from error

    def _loaded(self) -> list[Any]:
        if not self._values:
            return []
        try:
            loaded = read(self._objects, [value for value, _ in self._values])
        except UnsupportedTypeError as error:
            index, _, rest = error.path.partition(".")
            path = ".".join(filter(None, (self._values[int(index)][1], rest)))
            problem = error.problem.removeprefix(f"at {error.path}: ")
            raise UnsupportedTypeError(problem, path=path, remedy=error.remedy) from error
        assert isinstance(loaded, list)
        return loaded


def mapping_type(value: Value) -> type | None:
    """The type of the mapping that a saved value is, None for anything else."""
    if isinstance(value, Map):
        return dict
    return _TYPES.get(value.name.partition(":")[0]) if isinstance(value, Typed) else None


def _place(live: torch.Tensor) -> object:
    """The same for tensors that show the same memory in the same way."""
    try:
        start = live.data_ptr()
    except RuntimeError:  # a tensor of a kind that has no memory of its own
        start = 0
    if not start:
        return id(live)
    return (start, tuple(live.shape), live.stride(), live.dtype, live.device, live.is_conj(), live.is_neg())
