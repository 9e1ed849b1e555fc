"""Restore of modules: matched key by key, written in place where `state_dict` shows the module's own memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch

from casckpt.errors import RestoreMismatchError
from casckpt.objects.paths import child
from casckpt.objects.values import TensorRecord, Value
from casckpt.tensors.in_place import check_fits
from casckpt.tensors.restore_plan import Plan, Resolve

_EXTRA = "_extra_state"
_COMPILED = "_orig_mod"
_WRAPPED = "module."


def plan_module(
    plan: Plan, module: torch.nn.Module, saved: Mapping[bytes, tuple[Value, Value]], value: Value, path: str
) -> None:
    """Plan the restore of a module.

    saved: keys and items of its part, by whatever tells keys apart. value: the whole part, expanded.

    Raises:
        RestoreMismatchError: keys that only one side has, where the plan is strict; another shape or dtype.
    """
    live: dict[str, Any] = module.state_dict()
    metadata = getattr(live, "_metadata", None)
    items = {key: item for key, item in saved.values() if isinstance(key, str)}
    names = match_keys(live, items)
    if plan.strict:
        _refuse_unmatched(live, names, [child("", key) for key, _ in saved.values() if key not in names.values()], path)
    tensors: list[tuple[torch.Tensor, TensorRecord, str]] = []
    extra: dict[str, Value] = {}
    own = _Own(module)
    in_place = not own.lazy and _loads_plainly(module)
    for key, name in names.items():
        item, inner_path = items[name], child(path, key)
        held = live[key]
        if not isinstance(held, torch.Tensor) or key.endswith(_EXTRA):
            extra[key] = item
        elif own.is_lazy(held):
            continue
        elif held.layout is not torch.strided:
            in_place = False
        elif not isinstance(item, TensorRecord):
            raise RestoreMismatchError("a tensor is wanted, and something else was saved", path=inner_path)
        else:
            check_fits(held, item, inner_path)
            in_place = in_place and own.holds(held)
            tensors.append((held, item, inner_path))
    if not in_place:
        for held, record, inner_path in tensors:
            if own.holds(held):
                plan.write(held, record, inner_path, by_call=True)
        slot = plan.load(value, path)

        def load_all(resolve: Resolve) -> None:
            loaded = resolve(slot)
            found = OrderedDict((key, loaded[name]) for key, name in names.items())
            found._metadata = getattr(loaded, "_metadata", metadata)  # type: ignore[attr-defined]  # as torch does
            if plan.strict and not _is_torchs(module.load_state_dict):  # which may not know of `strict`
                module.load_state_dict(found)
            else:
                module.load_state_dict(found, strict=False)

        plan.call(path, load_all)
        return
    for held, record, inner_path in tensors:
        plan.write(held, record, inner_path)
    if extra:
        slots = {key: plan.load(item, child(path, key)) for key, item in extra.items()}

        def load_extra(resolve: Resolve) -> None:
            found = OrderedDict((key, resolve(slot)) for key, slot in slots.items())
            found._metadata = metadata  # type: ignore[attr-defined]  # as torch does
            module.load_state_dict(found, strict=False)

        plan.call(path, load_extra)


def _loads_plainly(module: torch.nn.Module) -> bool:
    """Whether `load_state_dict` would do no more than copy tensors: nobody has put anything of his own into it."""
    return all(
        _is_torchs(part.load_state_dict)
        and _is_torchs(part._load_from_state_dict)
        and not part._load_state_dict_pre_hooks
        and not part._load_state_dict_post_hooks
        for part in module.modules()
    )


def _is_torchs(method: Callable[..., Any]) -> bool:
    return str(getattr(method, "__module__", "")).startswith("torch.")


def without_compiled(key: str) -> str:
    """A key without the names that torch.compile puts in: "block._orig_mod.weight" -> "block.weight"."""
    return ".".join([part for part in key.split(".") if part != _COMPILED])


def _without_wrappers(key: str) -> str:
    return without_compiled(key).removeprefix(_WRAPPED)


_FORMS: tuple[Callable[[str], str], ...] = (str, without_compiled, _without_wrappers)


def match_keys(live: Iterable[str], saved: Iterable[str]) -> dict[str, str]:
    """Live keys to the saved keys that stand for them.

    `_orig_mod.` (torch.compile) anywhere, and with it a leading `module.` (DistributedDataParallel), are seen through
    where that makes more keys match, on whichever side they are.
    """
    best: dict[str, str] = {}
    wanted, found = list(live), list(saved)
    for form in _FORMS:
        forms = {form(key): key for key in found}
        if len(forms) < len(found) or len({form(key) for key in wanted}) < len(wanted):
            continue
        names = {key: forms[form(key)] for key in wanted if form(key) in forms}
        if len(names) > len(best):
            best = names
    return best


def _refuse_unmatched(live: Iterable[str], names: Mapping[str, str], unexpected: list[str], path: str) -> None:
    missing = [key for key in live if key not in names]
    said = [
        f"{len(keys)} {what} ({', '.join(keys[:4])}{', …' if len(keys) > 4 else ''})"
        for keys, what in ((missing, "keys are missing from the commit"), (unexpected, "saved keys are unexpected"))
        if keys
    ]
    if said:
        raise RestoreMismatchError(
            ", and ".join(said), path=path, remedy="restore with strict=False to take what matches"
        )


class _Own:
    """The memory of a module's parameters and buffers."""

    def __init__(self, module: torch.nn.Module) -> None:
        held = list(chain(module.parameters(), module.buffers()))
        self.lazy = any(map(self.is_lazy, held))
        self._places = {_memory(tensor) for tensor in held if not self.is_lazy(tensor)}

    @staticmethod
    def is_lazy(tensor: torch.Tensor) -> bool:
        """Whether its shape is not known before the module is first used."""
        return bool(torch.nn.parameter.is_lazy(tensor))

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether writing to the tensor writes to the module."""
        return tensor.numel() == 0 or (_memory(tensor) or None) in self._places


def _memory(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor of a kind that has no memory of its own
        return 0
