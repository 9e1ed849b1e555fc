"""Folders that from_pretrained reads, checkpoints of transformers' Trainer, and weights in shards with an index.

Only files that stand directly in the folder are read; what an index names is checked to be one of them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from casckpt.errors import ImportFormatError
from casckpt.limits import MAX_SIDE_FILE, MAX_SIDE_FILES
from casckpt.tensors.formats import safetensors_file
from casckpt.tensors.formats.metadata import kept_metadata
from casckpt.tensors.formats.safetensors_file import Contents, read_contents, to_state
from casckpt.tensors.formats.source import Imported
from casckpt.tensors.formats.torch_read import read_torch
from casckpt.tensors.shards import INDEX, is_side_name, read_bounded, read_index

# Weights by the names that from_pretrained looks for, in its order.
_WEIGHTS: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
)
# The same weights once more, for other frameworks or as they were saved before safetensors.
_AGAIN: Final = re.compile(
    r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|"
    r"tf_model(-\d+-of-\d+)?\.h5(\.index\.json)?|flax_model(-\d+-of-\d+)?\.msgpack(\.index\.json)?|"
    r"rust_model\.ot|model\.onnx"
)
TRAINER_STATE: Final = "trainer_state.json"
# What Trainer saves beside the weights, by the keys under which it is taken in.
_TRAINING: Final = {"optimizer": "optimizer.pt", "scheduler": "scheduler.pt", "scaler": "scaler.pt"}
_RNG: Final = "rng_state.pth"


def read_folder(path: Path) -> Imported:
    """A folder as {"model": …, "files": {…}}, and of a Trainer's checkpoint also "optimizer", "scheduler", "rng", ….

    Raises:
        ImportFormatError: it holds no weights, or something in it cannot be read.
    """
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        names = [entry.name for entry in entries if Path(entry).is_file()]
    except OSError as error:
        raise ImportFormatError(f"cannot be read: {error.strerror}", file=str(path)) from error
    weights = next((name for name in _WEIGHTS if name in names), None)
    if weights is None:
        raise ImportFormatError(
            "a folder without weights", file=str(path), remedy=f"looked for were {', '.join(_WEIGHTS)}"
        )
    read, meta, used = read_weights(path / weights)
    state: dict[str, Any] = {"model": read}
    trainer = TRAINER_STATE in names
    if trainer:
        used |= _read_training(path, names, state)
    state["files"] = _side_files(path, [name for name in names if name not in used and not _AGAIN.fullmatch(name)])
    taken = used | set(state["files"])
    left_out = [entry.name for entry in entries if entry.name not in taken]
    if left_out:
        meta["left_out"] = left_out
    step = _step(path / TRAINER_STATE, state["files"]) if trainer else None
    return Imported(state, "trainer" if trainer else "pretrained", meta, step)


def _read_training(path: Path, names: list[str], state: dict[str, Any]) -> set[str]:
    used = set()
    for key, name in _TRAINING.items():
        if name in names:
            state[key] = read_torch(path / name)
            used.add(name)
    rng = [name for name in names if name == _RNG or (name.startswith("rng_state_") and name.endswith(".pth"))]
    if rng == [_RNG]:
        state["rng"] = read_torch(path / _RNG)
    elif rng:
        state["rng"] = {name.removesuffix(".pth"): read_torch(path / name) for name in rng}
    return used | set(rng)


def _side_files(path: Path, names: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    left = MAX_SIDE_FILES
    for name in names:
        if not is_side_name(name):
            raise ImportFormatError("a file name that cannot be kept", file=str(path / name), remedy="rename it")
        raw = read_bounded(path / name, min(left, MAX_SIDE_FILE))
        left -= len(raw)
        found[name] = raw
    return found


def _step(path: Path, files: dict[str, bytes]) -> int | None:
    try:
        found = json.loads(files[path.name].decode())
    except (ValueError, RecursionError) as error:
        raise ImportFormatError(f"no JSON: {error}", file=str(path)) from error
    step = found.get("global_step") if isinstance(found, dict) else None
    return step if type(step) is int and 0 <= step < 1 << 63 else None


# -- weights -----------------------------------------------------------------------------------------------------------


def read_weights(path: Path) -> tuple[Any, dict[str, object], set[str]]:
    """Weights in one file or, if it is an index, in several: the state, what a commit should say, the names used.

    Raises:
        ImportFormatError
    """
    if not path.name.endswith(INDEX):
        if path.suffix == ".safetensors":
            contents = read_contents(path)
            return to_state(contents, str(path)), kept_metadata(contents), {path.name}
        return read_torch(path), {}, {path.name}
    metadata, places = read_index(path)
    shards = sorted(set(places.values()))
    if all(name.endswith(".safetensors") for name in shards):
        contents = _joined(path, metadata, places)
        return to_state(contents, str(path)), kept_metadata(contents), {path.name, *shards}
    state: dict[str, Any] = {}
    for shard in shards:
        part = read_torch(path.parent / shard)
        if not isinstance(part, dict):
            raise ImportFormatError("a shard that is no dict of tensors", file=str(path.parent / shard))
        twice = sorted(str(name) for name in part.keys() & state.keys())
        if twice:
            raise ImportFormatError(f"the tensor {twice[0]!r} is in two shards", file=str(path))
        state.update(part)
    _check_complete(path, places, set(state))
    return {name: state[name] for name in dict.fromkeys((*places, *state))}, {}, {path.name, *shards}


def _joined(path: Path, metadata: dict[str, Any], places: dict[str, str]) -> Contents:
    """All shards as if they were one file."""
    tensors: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for shard in dict.fromkeys(places.values()):
        contents = read_contents(path.parent / shard)
        for name, stored in contents.tensors.items():
            if places.get(name) != shard:
                raise ImportFormatError(f"the index does not say that {name!r} is in {shard}", file=str(path))
            tensors[name] = stored
        notes |= contents.metadata
    _check_complete(path, places, set(tensors))
    entry = metadata.get(safetensors_file.ENTRY)
    notes.pop(safetensors_file.ENTRY, None)
    if isinstance(entry, str):
        notes[safetensors_file.ENTRY] = entry
    return Contents({name: tensors[name] for name in places}, notes)


def _check_complete(path: Path, places: dict[str, str], found: set[str]) -> None:
    missing = sorted(set(places) - found)
    if missing:
        raise ImportFormatError(f"the tensor {missing[0]!r} is in no shard", file=str(path))
