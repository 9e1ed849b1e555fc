"""Restore: a saved state into live objects, in place. Everything is checked before anything is written.

What the target has decides how a value comes back. Mappings with live objects in them, and the root mapping, choose:
only their keys are restored. Every other dict or list is plain data and is made equal to the saved one, in place.
Tensors and arrays are written where they are; what cannot change (a number, a text) is replaced in what holds it.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from casckpt.errors import ReleasedPartError, RestoreMismatchError
from casckpt.history.fetch import Objects
from casckpt.objects.paths import child
from casckpt.objects.tree import canonical, expand, shallow, write_tree
from casckpt.objects.values import MAPPINGS, METADATA, ArrayRecord, Map, TensorRecord, Typed, Value
from casckpt.tensors.flatten import flatten, flatten_plain
from casckpt.tensors.restore_module import plan_module
from casckpt.tensors.restore_optimizer import plan_optimizer
from casckpt.tensors.restore_plan import Filled, Joined, Kept, Plan, Slot, mapping_type


def restore(objects: Objects, root: bytes, released: tuple[str, ...], target: Any, *, strict: bool = True) -> Any:
    """Write the state under a root tree into live objects; returns the target.

    target: a mapping from keys of the state to live objects or plain containers, or one of these for the whole state.
    released: parts that the commit no longer has. strict: whether a tensor that only one side has is an error.

    Raises:
        RestoreMismatchError: something does not fit, and nothing was written; or a `load_state_dict` refused what it
            got, after tensors were written.
        ReleasedPartError: the target asks for a part that was released.
        CorruptObjectError, MissingObjectError: live objects may be partly restored.
    """
    restorer = _Restorer(objects, strict)
    value = objects.tree(root)
    if isinstance(target, Mapping) and not is_live(target):
        restorer.choose(target, value, "", released)
    elif released:
        raise _released(released)
    else:
        restorer.item(target, value, "", fixed=True)
    restorer.plan.run()
    return target


def is_live(item: object) -> bool:
    """Whether an object keeps a state of its own, given and taken by `state_dict` and `load_state_dict`."""
    return callable(getattr(item, "state_dict", None)) and callable(getattr(item, "load_state_dict", None))


class _Restorer:
    """One walk over the target beside the saved value; what is to be done ends up in `plan`.

    `fixed`: what stands here cannot be replaced by another object, only changed itself.
    """

    def __init__(self, objects: Objects, strict: bool) -> None:
        self._fetch = objects.tree
        self.plan = Plan(objects, strict)

    def item(self, live: Any, value: Value, path: str, fixed: bool) -> Slot:
        """Anything, beside a value whose references need not have been followed yet."""
        if is_live(live):
            self._object(live, expand(value, self._fetch), path)
            return Kept(live)
        if not _holds_live(live, set()):
            return self.plain(live, expand(value, self._fetch), path, fixed)
        if isinstance(live, Mapping):
            self.plan.change(live, value, path)
            self.choose(live, value, path)
            return Kept(live)
        self.plan.change(live, value, path)
        saved = shallow(value, self._fetch)
        if not isinstance(saved, (list, tuple)) or len(saved) != len(live):
            raise RestoreMismatchError(
                f"{len(live)} live objects and values stand here, and {_what(saved)} in the commit", path=path
            )
        slots = [
            self.item(item, inner, child(path, index), fixed and isinstance(live, tuple))
            for index, (item, inner) in enumerate(zip(live, saved, strict=True))
        ]
        return self._sequence(live, slots)

    def choose(self, live: Mapping[Any, Any], value: Value, path: str, released: tuple[str, ...] = ()) -> None:
        """A mapping whose keys say what is wanted."""
        value = shallow(value, self._fetch)
        while isinstance(value, Typed) and _is_mapping(value):
            value = shallow(value.value, self._fetch)
        found = _entries(value, path)
        slots: list[tuple[Any, Slot]] = []
        for key, item in live.items():
            stored = _stored(key)
            inner_path = child(path, stored)
            if stored in released:
                raise _released((str(key),))
            saved = found.get(canonical(stored))
            if saved is None:
                raise RestoreMismatchError(
                    f"the commit has nothing there, only {_listed([child('', name) for name, _ in found.values()])}",
                    path=inner_path,
                    remedy="leave it out of what is restored",
                )
            slots.append((key, self.item(item, saved[1], inner_path, not isinstance(live, MutableMapping))))
        if isinstance(live, MutableMapping):
            self.plan.settle(lambda resolve: _set_items(live, [(key, resolve(slot)) for key, slot in slots]))

    def _object(self, live: Any, value: Value, path: str) -> None:
        self.plan.change(live, value, path)
        if isinstance(live, torch.nn.Module):
            plan_module(self.plan, live, _entries(value, path), value, path)
        elif isinstance(live, torch.optim.Optimizer):
            plan_optimizer(self.plan, self.plain, live, _entries(value, path), value, path)
        else:
            state = self.plan.load(value, path)
            self.plan.call(path, lambda resolve: live.load_state_dict(resolve(state)))

    # -- plain data ----------------------------------------------------------------------------------------------------

    def plain(self, live: Any, value: Value, path: str, fixed: bool) -> Slot:
        """Containers, tensors and values, beside an expanded value."""
        if isinstance(live, torch.Tensor) and isinstance(value, TensorRecord) and live.layout is torch.strided:
            self.plan.write(live, value, path)
            return Kept(live)
        if isinstance(live, dict) and _is_mapping(value):
            return self._dict(live, value, path, fixed)
        if isinstance(live, list) and isinstance(value, list):
            self.plan.change(live, value, path)
            slots = [
                self.plain(live[index], item, child(path, index), False)
                if index < len(live)
                else self.plan.load(item, child(path, index))
                for index, item in enumerate(value)
            ]
            return self._sequence(live, slots)
        if type(live) is tuple and isinstance(value, tuple) and len(live) == len(value) and _holds_place(live):
            return self._sequence(
                live,
                [
                    self.plain(item, inner, child(path, index), fixed)
                    for index, (item, inner) in enumerate(zip(live, value, strict=True))
                ],
            )
        if isinstance(live, np.ndarray) and isinstance(value, ArrayRecord) and not value.scalar:
            return self._array(live, value, path, fixed)
        if isinstance(live, set) and isinstance(value, Typed) and value.name == "set":
            return self._set(live, value, path)
        return self._leaf(live, value, path, fixed)

    def _dict(self, live: dict[Any, Any], value: Value, path: str, fixed: bool) -> Slot:
        self.plan.change(live, value, path)
        here = {canonical(_stored(key)): key for key in live}
        slots: list[tuple[Slot, Slot]] = []
        for name, (key, item) in _entries(value, path).items():
            inner_path = child(path, key)
            if name in here:
                slots.append((Kept(here[name]), self.plain(live[here[name]], item, inner_path, False)))
            else:
                slots.append((self.plan.load(key, inner_path), self.plan.load(item, inner_path)))
        kind = mapping_type(value)
        assert kind is not None
        empty = self.plan.load(_emptied(value), path)
        if type(live) is not kind:
            if fixed:
                raise RestoreMismatchError(
                    f"a {type(live).__name__} stands here and cannot be replaced, and a {kind.__name__} was saved",
                    path=path,
                    remedy="put it into a dict or a list and restore that",
                )
            return Filled(empty, slots)

        def settle(resolve: Callable[[Slot], Any]) -> None:
            _dress(live, resolve(empty))
            wanted = [(resolve(key), resolve(item)) for key, item in slots]
            if [canonical(_stored(key)) for key, _ in wanted] != list(here):
                live.clear()
            _set_items(live, wanted)

        self.plan.settle(settle)
        return Kept(live)

    def _sequence(self, live: Any, slots: list[Slot]) -> Slot:
        if isinstance(live, list):
            self.plan.settle(lambda resolve: live.__setitem__(slice(None), [resolve(slot) for slot in slots]))
            return Kept(live)
        return Kept(live) if all(isinstance(slot, Kept) for slot in slots) else Joined(type(live), slots)

    def _array(self, live: np.ndarray[Any, Any], value: ArrayRecord, path: str, fixed: bool) -> Slot:
        if not live.flags.writeable:
            return self._leaf(live, value, path, fixed)
        self.plan.claim_array(live, value, path)
        slot = self.plan.load(value, path)

        def check(resolve: Callable[[Slot], Any]) -> None:
            saved = resolve(slot)
            if (saved.shape, saved.dtype) != (live.shape, live.dtype):
                raise RestoreMismatchError(
                    f"the saved array has shape {saved.shape} and dtype {saved.dtype}, the live one {live.shape} and "
                    f"{live.dtype}",
                    path=path,
                )

        self.plan.verify(check)
        self.plan.settle(lambda resolve: live.__setitem__(..., resolve(slot)))
        return Kept(live)

    def _set(self, live: set[Any], value: Value, path: str) -> Slot:
        self.plan.change(live, value, path)
        slot = self.plan.load(value, path)

        def settle(resolve: Callable[[Slot], Any]) -> None:
            live.clear()
            live.update(resolve(slot))

        self.plan.settle(settle)
        return Kept(live)

    def _leaf(self, live: Any, value: Value, path: str, fixed: bool) -> Slot:
        slot = self.plan.load(value, path)
        if not fixed:
            return slot

        def check(resolve: Callable[[Slot], Any]) -> None:
            if _fingerprint(live) != _fingerprint(resolve(slot)):
                raise RestoreMismatchError(
                    f"the live {type(live).__name__} cannot be changed in place, and the saved value differs",
                    path=path,
                    remedy="put it into a dict or a list and restore that",
                )

        self.plan.verify(check)
        return Kept(live)


def _set_items(live: MutableMapping[Any, Any], wanted: Iterable[tuple[Any, Any]]) -> None:
    for key, item in wanted:
        if key not in live or live[key] is not item:
            live[key] = item


def _dress(live: dict[Any, Any], saved: dict[Any, Any]) -> None:
    """Give a mapping what belongs to it as a whole, from one of the same type."""
    if isinstance(live, defaultdict):
        live.default_factory = saved.default_factory  # type: ignore[attr-defined]  # of the same type
    elif isinstance(live, OrderedDict):
        vars(live).pop("_metadata", None)
        vars(live).update(vars(saved))


def _emptied(value: Value) -> Value:
    """A saved mapping without its items, but with what belongs to it as a whole."""
    if isinstance(value, Typed):
        return replace(value, value=_emptied(value.value))
    assert isinstance(value, Map)
    return Map(tuple([(key, item) for key, item in value.entries if key == METADATA]))


def _stored(key: Any) -> Value:
    """A key of a live mapping as a tree holds it."""
    return key if key is None or type(key) in (str, int, bool, float, bytes) else flatten_plain(key)


def _is_mapping(value: Value) -> bool:
    if isinstance(value, Typed):
        return value.name.partition(":")[0] in MAPPINGS
    return isinstance(value, Map)


def _entries(value: Value, path: str) -> dict[bytes, tuple[Value, Value]]:
    """Keys and items of a saved mapping, by the canonical bytes of the keys."""
    while isinstance(value, Typed) and _is_mapping(value):
        value = value.value
    if not isinstance(value, Map):
        raise RestoreMismatchError(f"a mapping is wanted, and {_what(value)} was saved", path=path)
    return {canonical(key): (key, item) for key, item in value.entries if key != METADATA}


def _holds_live(item: object, seen: set[int]) -> bool:
    if is_live(item):
        return True
    if not isinstance(item, (Mapping, list, tuple)) or id(item) in seen:
        return False
    seen.add(id(item))
    return any(_holds_live(inner, seen) for inner in (item.values() if isinstance(item, Mapping) else item))


def _holds_place(item: object) -> bool:
    """Whether there is anything in a tuple that is changed in place."""
    if isinstance(item, tuple):
        return any(map(_holds_place, item))
    return isinstance(item, (torch.Tensor, np.ndarray, dict, list, set))


def _fingerprint(item: object) -> bytes:
    """Equal for equal states only, types included."""
    flat = flatten(item)
    storages = [bytes(span.host()) for span in flat.spans]
    parts: list[bytes] = []

    def emit(encoded: bytes) -> bytes:
        parts.append(encoded)
        return b""

    write_tree(flat.value, storages, emit)
    return b"".join(parts)


def _what(value: Value) -> str:
    if isinstance(value, TensorRecord):
        return "a tensor"
    if isinstance(value, ArrayRecord):
        return "an array"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if _is_mapping(value):
        return "a mapping"
    return f"a value of type {value.name if isinstance(value, Typed) else type(value).__name__}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def _released(parts: tuple[str, ...]) -> ReleasedPartError:
    return ReleasedPartError(
        f"retention released {', '.join(parts)} of this commit",
        parts=parts,
        remedy="leave that out of what is restored, or restore another commit",
    )
