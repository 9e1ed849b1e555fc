"""What came out of a file, and the record of that file that goes into a commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from casckpt.errors import ImportFormatError


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


def source_record(path: str | PathLike[str], format: str) -> dict[str, object]:
    """What a commit says of the file or folder that it was taken from: name, bytes, mtime_ns, format.

    Of a folder the bytes of all its files, and the time of the newest.

    Raises:
        ImportFormatError: it is not there.
    """
    place = Path(path)
    try:
        files = sorted(item for item in place.rglob("*") if item.is_file()) if place.is_dir() else [place]
        found = [item.stat() for item in files]
    except OSError as error:
        raise ImportFormatError(f"cannot be read: {error.strerror}", file=str(path)) from error
    return {
        "name": place.resolve().name,
        "bytes": sum(item.st_size for item in found),
        "mtime_ns": max((item.st_mtime_ns for item in found), default=0),
        "format": format,
    }
