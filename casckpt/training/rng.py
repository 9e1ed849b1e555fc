"""Random number generators: the global ones, and those that an object such as a data loader keeps for itself.

Capturing draws nothing and starts nothing: a generator of a device that is not in use yet is left alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from casckpt.errors import RestoreMismatchError

State: TypeAlias = dict[str, Any]
Own: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

_GLOBAL: Final[dict[str, Callable[[Any], object]]] = {
    "python": random.setstate,
    "numpy": np.random.set_state,
    "torch": torch.set_rng_state,
}
_OWN: Final = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def capture() -> State:
    """The states of the generators of python, numpy and torch: of the CPU, and of devices that are in use."""
    state: State = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = [torch.cuda.get_rng_state(device) for device in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore(state: State, path: str = "rng") -> None:
    """Put the global generators back. Those of devices that are not here are passed over.

    Raises:
        RestoreMismatchError: one of them does not take its state.
    """
    for name, setter in _GLOBAL.items():
        if name not in state:
            raise RestoreMismatchError("the state of this generator was not saved", path=f"{path}.{name}")
        _put(f"{path}.{name}", setter, state[name])
    if torch.cuda.is_available():
        for device, held in enumerate(state.get("cuda", ())[: torch.cuda.device_count()]):
            _put(f"{path}.cuda.{device}", partial(torch.cuda.set_rng_state, device=device), held)
    if "mps" in state and torch.backends.mps.is_available():
        _put(f"{path}.mps", torch.mps.set_rng_state, state["mps"])


def check(state: State, path: str = "rng") -> None:
    """Raise RestoreMismatchError where `restore` would; the generators stay as they are."""
    before = capture()
    try:
        restore(state, path)
    finally:
        restore(before)


def own_generators(owners: Iterable[object]) -> list[Own]:
    """The generators that objects have as attributes, each once, in the order in which they are met."""
    found: dict[int, Own] = {}
    for owner in owners:
        for held in getattr(owner, "__dict__", {}).values():
            if isinstance(held, _OWN):
                found.setdefault(id(held), held)
    return list(found.values())


def capture_own(generators: Iterable[Own]) -> list[Any]:
    """The state of each."""
    return [_own_state(generator) for generator in generators]


def restore_own(generators: list[Own], states: list[Any], path: str) -> None:
    """Put each back.

    Raises:
        RestoreMismatchError: there are others than were saved.
    """
    if len(generators) != len(states):
        raise RestoreMismatchError(
            f"{len(states)} generators of the loader were saved, and it has {len(generators)}",
            path=path,
            remedy="build the loader as it was when it was saved",
        )
    for index, (generator, state) in enumerate(zip(generators, states, strict=True)):
        _put(f"{path}.{index}", _setter(generator), state)


def check_own(generators: list[Own], states: list[Any], path: str) -> None:
    """Raise RestoreMismatchError where `restore_own` would; the generators stay as they are."""
    before = capture_own(generators)
    try:
        restore_own(generators, states, path)
    finally:
        restore_own(generators, before, path)


def _own_state(generator: Own) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def _setter(generator: Own) -> Callable[[Any], object]:
    if isinstance(generator, np.random.Generator):
        return lambda state: setattr(generator.bit_generator, "state", state)
    if isinstance(generator, random.Random):
        return generator.setstate
    return generator.set_state


def _put(path: str, setter: Callable[[Any], object], state: Any) -> None:
    try:
        setter(state)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise RestoreMismatchError(f"the generator does not take the saved state: {error}", path=path) from error
