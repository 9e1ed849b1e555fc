"""Which format a file or folder is of: by what is in it; by its name only where that does not say."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

from casckpt.errors import ImportFormatError
from casckpt.limits import MAX_SAFETENSORS_HEADER
from casckpt.tensors.shards import INDEX

FORMATS: Final = ("safetensors", "torch", "npz", "pretrained")
_SUFFIXES: Final = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".npz": "npz",
}
# The first bytes of torch's files before zip: a pickle of protocol 2, of the number by which torch knows them.
_LEGACY: Final = (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",)


def format_of_name(path: Path) -> str | None:
    """The format that a name says."""
    return _SUFFIXES.get(path.suffix.lower())


def recognise(path: Path) -> str:
    """ "safetensors", "torch", "npz", "index", or "folder".

    Raises:
        ImportFormatError: it is none of these.
    """
    if path.is_dir():
        return "folder"
    if path.name.endswith(INDEX):
        return "index"
    try:
        with path.open("rb") as file:
            head = file.read(16)
        size = path.stat().st_size
        if head.startswith(b"PK"):
            return _zip_kind(path)
    except OSError as error:
        raise ImportFormatError(f"cannot be read: {error.strerror}", file=str(path)) from error
    except Exception as error:  # zipfile has errors of many kinds
        raise ImportFormatError(f"no whole zip file: {error}", file=str(path)) from error
    if head.startswith(_LEGACY):
        return "torch"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= min(size - 8, MAX_SAFETENSORS_HEADER):
        return "safetensors"
    named = format_of_name(path)
    if named is None:
        raise ImportFormatError(
            "of no format that is known",
            file=str(path),
            remedy="known are safetensors, files of torch.save, npz, and folders that from_pretrained reads",
        )
    return named


def _zip_kind(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return format_of_name(path) or "torch"
