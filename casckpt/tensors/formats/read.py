"""Read one checkpoint, whatever its format. What is read lies in maps of the files as far as the format allows."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from casckpt.tensors.formats.folder import read_folder, read_weights
from casckpt.tensors.formats.metadata import kept_metadata
from casckpt.tensors.formats.npz_file import read_npz
from casckpt.tensors.formats.recognise import recognise
from casckpt.tensors.formats.safetensors_file import read_contents, to_state
from casckpt.tensors.formats.source import Imported
from casckpt.tensors.formats.torch_read import read_torch


def read_state(path: str | PathLike[str]) -> Imported:
    """The state in a file or folder.

    A file: safetensors, of torch.save, npz, or the `.index.json` of sharded weights; known by what is in it. A folder:
    one that from_pretrained reads, or a checkpoint of transformers' Trainer.

    Raises:
        ImportFormatError: it cannot be read; it is named.
        NewerFormatError, UnsupportedTypeError: as when a store is loaded.
    """
    place = Path(path)
    kind = recognise(place)
    if kind == "folder":
        return read_folder(place)
    if kind == "npz":
        return Imported(read_npz(place), "npz")
    if kind == "torch":
        return Imported(read_torch(place), "torch")
    if kind == "index":
        state, meta, _ = read_weights(place)
        return Imported(state, "safetensors" if ".safetensors" in place.name else "torch", meta)
    contents = read_contents(place)
    return Imported(to_state(contents, str(place)), "safetensors", kept_metadata(contents))
