"""What is said of an object whose type has no codec: what it is, where it is, and what to do instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from types import BuiltinFunctionType, MethodType, ModuleType

import numpy as np
import torch

from casckpt.errors import UnsupportedTypeError

_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset)


def refusal(item: object, path: str) -> UnsupportedTypeError:
    """The error for an item that cannot be saved, with the remedy that fits it best."""
    cls = type(item)
    return UnsupportedTypeError(
        f"{cls.__module__}.{cls.__qualname__} cannot be saved", path=path, remedy=_remedy(item, cls)
    )


def _remedy(item: object, cls: type) -> str:
    if isinstance(item, (type, ModuleType, BuiltinFunctionType, MethodType)):
        return "code is not saved: leave it out, and give it again when the state is loaded"
    if isinstance(item, torch.Generator):
        return "save generator.get_state()"
    if isinstance(item, torch.Tensor):
        return _tensor_remedy(item, cls)
    if isinstance(item, np.ndarray):
        return "save numpy.asarray(...) of it"
    if isinstance(item, Enum) or dataclasses.is_dataclass(item):
        return f"casckpt.register({cls.__name__}) before saving and before loading"
    if callable(getattr(item, "state_dict", None)):
        return "save its state_dict() instead"
    other = f"casckpt.register({cls.__name__}, encode=..., decode=...) teaches casckpt the type"
    if isinstance(item, Mapping):
        return f"save dict(...) of it, or {other}"
    for plain in _PLAIN:
        if isinstance(item, plain):
            return f"save {plain.__name__}(...) of it, or {other}"
    return f"{other}; or leave it out"


def _tensor_remedy(item: torch.Tensor, cls: type) -> str:
    if hasattr(item, "full_tensor"):
        return "save its full_tensor() or to_local()"
    if hasattr(item, "materialize"):
        return "run a first batch through the module, so that its lazy parameters take their shapes"
    return f"save the plain tensors in it, or casckpt.register({cls.__name__}, encode=..., decode=...)"
