"""What programs read: one JSON document on stdout, whatever the command. Bytes and times as numbers and ISO 8601."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from casckpt.history.commits import Commit
    from casckpt.history.records import Figures


# Bits of an integer that is written as one: Python refuses to write out more than 4300 digits.
_LONGEST: Final = 14_000


def dumps(item: object) -> str:
    """One line of JSON as the standard has it: nan, infinities and integers of thousands of digits are strings."""
    return json.dumps(_plain(item), allow_nan=False)


def write(item: object) -> None:
    """The whole document."""
    print(dumps(item))


def write_list(items: Iterable[object]) -> None:
    """A list, each item on a line of its own and written when it comes."""
    before = "["
    for item in items:
        sys.stdout.write(f"{before}\n{dumps(item)}")
        before = ","
    print("[]" if before == "[" else "\n]")


def commit_fields(commit: Commit, refs: Iterable[str] | None = None) -> dict[str, object]:
    """Every field of a commit. refs: as "branch/main" and "tag/v1"; left out where nobody looked for them."""
    return {
        "id": commit.id,
        "parents": commit.parents,
        "tree": commit.tree,
        "branch": commit.branch,
        **({} if refs is None else {"refs": list(refs)}),
        "step": commit.step,
        "metrics": commit.metrics,
        "message": commit.message,
        "time": commit.time,
        "host": commit.host,
        "meta": commit.meta,
        "pruned": commit.pruned,
        "released": commit.released,
        "bytes": None if commit.figures is None else figures_fields(commit.figures),
    }


def figures_fields(figures: Figures) -> dict[str, int]:
    """Bytes and chunks of a commit. shared: bytes of the state that the store had before."""
    return {
        "logical": figures.logical,
        "new": figures.new,
        "stored": figures.stored,
        "shared": figures.logical - figures.new,
        "chunks": figures.chunks,
        "new_chunks": figures.new_chunks,
    }


def _plain(item: object) -> object:
    if isinstance(item, float) and not math.isfinite(item):
        return "NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"
    if isinstance(item, datetime):
        return item.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(item, bytes):
        return {"base64": base64.b64encode(item).decode()}
    if isinstance(item, dict):
        return {str(key): _plain(inner) for key, inner in item.items()}
    if isinstance(item, (list, tuple)):
        return [_plain(inner) for inner in item]
    if isinstance(item, int) and item.bit_length() > _LONGEST:
        return hex(item)
    return item
