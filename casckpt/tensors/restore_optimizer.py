"""Restore of optimizers, exactly. `Optimizer.load_state_dict` alone would round fp32 moments of bf16 parameters.

Where the live state has the form of the saved one, it is written in place. Elsewhere (a new optimizer has no state yet)
`load_state_dict` takes the saved state, and what it converted is put back as it was saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from casckpt.errors import RestoreMismatchError
from casckpt.objects.paths import child
from casckpt.objects.tree import canonical
from casckpt.objects.values import MAPPINGS, METADATA, Map, TensorRecord, Typed, Value
from casckpt.tensors.restore_plan import Plan, Resolve, Slot, mapping_type
from casckpt.tensors.torch_leaves import DTYPES

Entries = Mapping[bytes, tuple[Value, Value]]
Plain = Callable[[Any, Value, str, bool], Slot]

# State that torch's optimizers keep for each element of a parameter, so that its shape is the parameter's.
_ELEMENTWISE: Final = (
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "acc_delta"),
    *("prev", "step_size", "ax", "sum"),
)
_PARAMS: Final = "params"


def plan_optimizer(
    plan: Plan, plain: Plain, optimizer: torch.optim.Optimizer, saved: Entries, value: Value, path: str
) -> None:
    """Plan the restore of an optimizer.

    plain: plans plain data. saved: the entries of its part. value: the whole part, expanded.

    Raises:
        RestoreMismatchError: other groups or parameters, or state of another shape than its parameter.
    """
    state = _mapping(_part(saved, "state", path), child(path, "state"))
    groups = _part(saved, "param_groups", path)
    _check_groups(optimizer, groups, path)
    live = optimizer.state_dict()
    _check_shapes(optimizer, state, child(path, "state"))
    if (
        not _loads_plainly(optimizer)
        or not _is_own(optimizer, live)
        or not _same_form(live["state"], _part(saved, "state", path))
    ):
        slot = plan.load(value, path)

        def load(resolve: Resolve) -> None:
            loaded = resolve(slot)
            held = loaded["state"]
            optimizer.load_state_dict(loaded)
            _put_back(optimizer, held)

        plan.call(path, load)
        return
    for key, item in state.values():
        plain(live["state"][key], item, child(child(path, "state"), key), False)
    assert isinstance(groups, list)
    for index, (group, item) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        _plan_group(plan, plain, group, item, child(child(path, "param_groups"), index))


def _plan_group(plan: Plan, plain: Plain, group: dict[str, Any], saved: Value, path: str) -> None:
    """Everything but the parameters; what only the live group has stays, as `load_state_dict` would default it."""
    slots: list[tuple[str, Slot]] = []
    for key, item in _mapping(saved, path).values():
        if isinstance(key, str) and key != _PARAMS:
            inner_path = child(path, key)
            slots.append(
                (key, plain(group[key], item, inner_path, False) if key in group else plan.load(item, inner_path))
            )
    plan.settle(lambda resolve: group.update({key: resolve(slot) for key, slot in slots}))


def _check_groups(optimizer: torch.optim.Optimizer, groups: Value, path: str) -> None:
    live = [len(group[_PARAMS]) for group in optimizer.param_groups]
    found: list[int] = []
    for group in groups if isinstance(groups, list) else []:
        params = _part(_mapping(group, path), _PARAMS, path)
        found.append(len(params) if isinstance(params, (list, tuple)) else -1)
    if found != live:
        raise RestoreMismatchError(
            f"the saved optimizer has groups of {_counts(found)} parameters, the live one of {_counts(live)}",
            path=child(path, "param_groups"),
        )


def _counts(counts: list[int]) -> str:
    return ", ".join(map(str, counts)) or "no"


def _check_shapes(optimizer: torch.optim.Optimizer, state: Entries, path: str) -> None:
    params = _numbered(optimizer)
    for number, item in state.values():
        entries = _entries(item)
        param = params.get(number) if isinstance(number, int) else None
        if param is None or entries is None:
            continue
        for name, record in entries.values():
            if (
                name in _ELEMENTWISE
                and isinstance(record, TensorRecord)
                and record.shape not in ((), tuple(param.shape))
            ):
                raise RestoreMismatchError(
                    f"the saved state has shape {record.shape}, its live parameter {tuple(param.shape)}",
                    path=child(child(path, number), name),
                )


def _numbered(optimizer: torch.optim.Optimizer) -> dict[int, torch.Tensor]:
    """Parameters by the numbers that `state_dict` gives them."""
    params = [param for group in optimizer.param_groups for param in group[_PARAMS]]
    return dict(enumerate(params))


def _loads_plainly(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `load_state_dict` is torch's own, and nobody has hooked anything into it."""
    return (
        getattr(optimizer.load_state_dict, "__func__", None) is torch.optim.Optimizer.load_state_dict
        and not optimizer._optimizer_load_state_dict_pre_hooks
        and not optimizer._optimizer_load_state_dict_post_hooks
    )


def _is_own(optimizer: torch.optim.Optimizer, live: Mapping[str, Any]) -> bool:
    """Whether what `state_dict` shows is the optimizer's own state, and not a copy of it."""
    params = _numbered(optimizer)
    return set(live) == {"state", "param_groups"} and all(
        optimizer.state.get(params.get(number, number)) is held for number, held in live["state"].items()
    )


def _same_form(live: Any, saved: Value) -> bool:
    """Whether the saved value can be written into the live one without any tensor being replaced."""
    if isinstance(live, torch.Tensor):
        return (
            isinstance(saved, TensorRecord)
            and tuple(live.shape) == saved.shape
            and live.dtype is DTYPES.get(saved.dtype)
            and live.layout is torch.strided
        )
    if isinstance(live, dict):
        entries = _entries(saved)
        return (
            entries is not None
            and type(live) is mapping_type(saved)  # or else another would have to take its place
            and {canonical(key) for key in live} == set(entries)
            and all(_same_form(live[key], item) for key, item in entries.values())
        )
    if isinstance(live, (list, tuple)):
        return (
            isinstance(saved, (list, tuple))
            and len(live) == len(saved)
            and all(_same_form(item, inner) for item, inner in zip(live, saved, strict=True))
        )
    return not isinstance(saved, TensorRecord)


def _put_back(optimizer: torch.optim.Optimizer, saved: Mapping[Any, Any]) -> None:
    params = _numbered(optimizer)
    for number, held in saved.items():
        param = params.get(number)
        if param is not None and param in optimizer.state:
            optimizer.state[param] = _exact(optimizer.state[param], held)


def _exact(live: Any, saved: Any) -> Any:
    """What `load_state_dict` made of a saved value, with the dtypes that were saved."""
    if isinstance(live, torch.Tensor) and isinstance(saved, torch.Tensor):
        return live if live.dtype is saved.dtype else saved.to(live.device)
    if isinstance(live, dict) and isinstance(saved, dict):
        return {key: _exact(item, saved[key]) if key in saved else item for key, item in live.items()}
    if type(live) in (list, tuple) and isinstance(saved, (list, tuple)) and len(live) == len(saved):
        return type(live)([_exact(item, inner) for item, inner in zip(live, saved, strict=True)])
    return live


def _part(entries: Entries, name: str, path: str) -> Value:
    found = entries.get(canonical(name))
    if found is None:
        raise RestoreMismatchError(f"this is no optimizer's state: it has no {name!r}", path=path)
    return found[1]


def _mapping(value: Value, path: str) -> Entries:
    entries = _entries(value)
    if entries is None:
        raise RestoreMismatchError("this is no optimizer's state: a mapping is wanted here", path=path)
    return entries


def _entries(value: Value) -> Entries | None:
    while isinstance(value, Typed) and value.name.partition(":")[0] in MAPPINGS:
        value = value.value
    if not isinstance(value, Map):
        return None
    return {canonical(key): (key, item) for key, item in value.entries if key != METADATA}
