"""What the index of sharded weights says, and which names a file beside others may have. torch is not imported here.

An index is believed only where it leads to files directly beside it.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from casckpt.errors import ImportFormatError
from casckpt.limits import MAX_INDEX

INDEX: Final = ".index.json"


def read_index(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The metadata of an index, and for each tensor the shard that it is in: a file beside it that is there.

    Raises:
        ImportFormatError
    """
    try:
        found = json.loads(read_bounded(path, MAX_INDEX).decode(), object_pairs_hook=only_once)
        metadata, places = found.get("metadata", {}), found["weight_map"]
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ImportFormatError(f"no index of weights: {error}", file=str(path)) from error
    if not isinstance(places, dict) or not isinstance(metadata, dict) or not places:
        raise ImportFormatError("no index of weights", file=str(path))
    for name, shard in places.items():
        if not is_side_name(shard):
            raise ImportFormatError(f"the tensor {name!r} is said to be in {shard!r}, outside", file=str(path))
        if not (path.parent / shard).is_file():
            raise ImportFormatError(f"its shard {shard!r} is not there", file=str(path))
    return metadata, places


def shards_of(path: Path) -> list[str]:
    """The names of the files that belong to an index; none of a file that is none, or that cannot be read."""
    if not path.name.endswith(INDEX):
        return []
    try:
        return sorted(set(read_index(path)[1].values()))
    except ImportFormatError:
        return []


def is_side_name(name: object) -> bool:
    """Whether a name is that of a file directly in a folder, and no way out of it."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(char in name for char in "/\\\0"):
        return False
    try:
        return len(os.fsencode(name)) <= 255
    except UnicodeEncodeError:
        return False


def read_bounded(path: Path, most: int) -> bytes:
    """A regular file of at most so many bytes.

    Raises:
        ImportFormatError
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe put there must not hold us up
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ImportFormatError("no regular file", file=str(path))
            raw = file.read(most + 1)
    except OSError as error:
        raise ImportFormatError(f"cannot be read: {error.strerror}", file=str(path)) from error
    if len(raw) > most:
        raise ImportFormatError(
            f"has more than the {most} bytes that are kept beside weights", file=str(path), remedy="take it out"
        )
    return raw


def only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as an object_pairs_hook; of two values under one name each reader would take another."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands in it twice")
    return made
