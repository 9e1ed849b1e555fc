"""The named objects whose states make up a commit: what may be one, and how its state is taken."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import torch

from casckpt.errors import StateError, UnsupportedTypeError
from casckpt.tensors.restore import is_live
from casckpt.tensors.restore_module import without_compiled

PROGRESS: Final = "progress"
RNG: Final = "rng"
LOADER: Final = "dataloader"
_RESERVED: Final = (PROGRESS, RNG, "ranks", LOADER)


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The objects that were given, without those that are None.

    Raises:
        StateError: a name that means something else.
        UnsupportedTypeError: an object without a state.
    """
    found = {name: item for name, item in given.items() if item is not None}
    for name, item in found.items():
        if name in _RESERVED:
            raise StateError(
                f"{name!r} is the name of what a Checkpointer saves by itself",
                path=name,
                remedy="choose another one",
            )
        if not is_live(item) and type(item) not in (dict, list):
            raise UnsupportedTypeError(
                f"a {type(item).__qualname__} has no state_dict and load_state_dict, and is no dict or list",
                path=name,
                remedy="give it both, or keep its state in a dict that is changed in place",
            )
    return found


def capture(item: Any) -> Any:
    """The state of an object as it is now. Nothing is copied."""
    if isinstance(item, torch.nn.Module):
        return _module_state(item)
    return item.state_dict() if is_live(item) else item


def _module_state(module: torch.nn.Module) -> Any:
    """Without the names that compiling and wrapping for many devices put in, which commits must not depend on."""
    while isinstance(module, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
        module = module.module
    state = module.state_dict()
    names = {key: without_compiled(key) for key in state}
    if all(key == name for key, name in names.items()) or len(set(names.values())) < len(names):
        return state
    plain = OrderedDict((names[key], held) for key, held in state.items())
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        # of a compiled module and the one inside it, the inner one says how the state is to be read
        plain._metadata = {without_compiled(key): held for key, held in metadata.items()}  # type: ignore[attr-defined]
    return plain
