"""Plain metadata of commits: what JSON knows, and bytes and tuples, to values and back."""

from __future__ import annotations

from collections.abc import Mapping

from casckpt.errors import StateError, UnsupportedTypeError
from casckpt.limits import MAX_COMMIT_META, MAX_DEPTH
from casckpt.objects.paths import child
from casckpt.objects.tree import canonical
from casckpt.objects.values import Map, Value


def to_map(meta: Mapping[str, object]) -> Map:
    """Metadata as a value.

    Raises:
        UnsupportedTypeError: something in it is not plain, named by its path.
        StateError: it is larger than MAX_COMMIT_META bytes.
    """
    value = _to_value(dict(meta), "meta", 0)
    assert isinstance(value, Map)
    if len(canonical(value)) > MAX_COMMIT_META:
        raise StateError(
            f"a commit's metadata may have {MAX_COMMIT_META} bytes",
            path="meta",
            remedy="put what is large into the state itself",
        )
    return value


def _to_value(item: object, path: str, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise StateError(f"nested deeper than {MAX_DEPTH} levels", path=path)
    if item is None or type(item) in (bool, int, float, str, bytes):
        return item  # type: ignore[return-value]  # narrowed by exact type, which mypy does not follow
    if type(item) is list:
        return [_to_value(inner, child(path, index), depth + 1) for index, inner in enumerate(item)]
    if type(item) is tuple:
        return tuple([_to_value(inner, child(path, index), depth + 1) for index, inner in enumerate(item)])
    if type(item) is dict:
        for key in item:
            if type(key) is not str:
                raise UnsupportedTypeError(f"a key of type {type(key).__name__}", path=path, remedy="use str keys")
        return Map(tuple([(key, _to_value(inner, child(path, key), depth + 1)) for key, inner in item.items()]))
    raise UnsupportedTypeError(
        f"metadata cannot hold a {type(item).__name__}",
        path=path,
        remedy="use None, bool, int, float, str, bytes, list, tuple and dict; tensors belong in the state",
    )


def from_value(value: Value) -> object:
    """Plain Python of a value made by `to_map`."""
    if isinstance(value, Map):
        return {key: from_value(item) for key, item in value.entries if isinstance(key, str)}
    if isinstance(value, list):
        return [from_value(item) for item in value]
    if isinstance(value, tuple):
        return tuple([from_value(item) for item in value])
    return value
