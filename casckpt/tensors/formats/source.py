"""What came out of a file, and the record of that file that goes into a commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from casckpt.tensors.look import Look


@dataclass(frozen=True, slots=True)
class Imported:
    """A state that was read from a file or folder. Its tensors may lie in a map of the file, which must stay as it is.

    format: "safetensors", "torch", "npz", "pretrained" or "trainer". meta: what the commit should say of it; the
    file's own metadata under "file_metadata". step: completed optimizer updates, where the file says so.
    """

    state: Any
    format: str
    meta: dict[str, object] = field(default_factory=dict)
    step: int | None = None


def source_record(path: str | PathLike[str], seen: Look, format: str) -> dict[str, object]:
    """What a commit says of the file or folder that it was taken from, as it was `seen`: name, bytes, mtime_ns, format.

    Of a folder the bytes of all its files, and the time of the newest.
    """
    return {"name": Path(path).resolve().name, "bytes": seen.nbytes, "mtime_ns": seen.mtime_ns, "format": format}
