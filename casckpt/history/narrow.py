"""The part of a state that is compared, and which part of a commit a file of weights alone stands for."""

from __future__ import annotations

from casckpt.errors import RestoreMismatchError
from casckpt.history.diff import Side
from casckpt.objects.paths import child
from casckpt.objects.tree import canonical
from casckpt.objects.values import MAPPINGS, Map, Typed, Value


def fit(commit: Side, file: Side, part: str | None) -> tuple[Side, Side, str | None]:
    """The commit and the file, both from the part on that is to be compared; and that part, None for all.

    Raises:
        RestoreMismatchError
    """
    if part is None:
        part = _fitting_part(commit, file)
    if part is None:
        return commit, file, None
    return narrowed(commit, part), narrowed(file, part, whole_if_absent=True), part


def _fitting_part(commit: Side, file: Side) -> str | None:
    """The part of a commit that a file stands for: it has none of the commit's parts, but keys of that one at its top.

    Raises:
        RestoreMismatchError: it could be one of several.
    """
    parts, keys = _entries(commit, commit.root), _entries(file, file.root).keys()
    if keys & parts.keys():
        return None
    fits = [key for key, item in parts.values() if isinstance(key, str) and _entries(commit, item).keys() & keys]
    if len(fits) > 1:
        raise RestoreMismatchError(
            f"the file could stand for several parts of the commit: {', '.join(fits)}",
            path="",
            remedy="say which one with part=, or --part at the command line",
        )
    return fits[0] if fits else None


def narrowed(side: Side, part: str, *, whole_if_absent: bool = False) -> Side:
    """The side from a part of its state on. whole_if_absent: a state that has no such part is that part.

    Raises:
        RestoreMismatchError: it has no such part.
    """
    held = _entries(side, side.root)
    found = held.get(canonical(part))
    if found is not None and (not whole_if_absent or _entries(side, found[1])):
        return Side(side.objects, found[1])
    if whole_if_absent:
        return side
    raise RestoreMismatchError(
        "there is no such part", path=child("", part), remedy=f"there is {', '.join(part_names(held)) or 'no part'}"
    )


def part_names(entries: dict[bytes, tuple[Value, Value]]) -> list[str]:
    """The keys by which parts can be asked for, as they are asked for: without the escapes of paths."""
    return [key for key, _ in entries.values() if isinstance(key, str)]


def _entries(side: Side, value: Value) -> dict[bytes, tuple[Value, Value]]:
    """Key and value of each entry of a mapping, by the key's bytes; nothing where it is no mapping."""
    value = side.shallow(value)
    while isinstance(value, Typed) and value.name.partition(":")[0] in MAPPINGS:
        value = side.shallow(value.value)
    if not isinstance(value, Map):
        return {}
    return {canonical(key): (key, item) for key, item in value.entries}
