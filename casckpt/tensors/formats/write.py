"""Write one state as a file or folder of another format. It is there whole in the end, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casckpt.errors import ExportError
from casckpt.limits import DEFAULT_SHARD_SIZE
from casckpt.store.filesystem import sync_parent
from casckpt.tensors.flatten import flatten
from casckpt.tensors.formats import npz_file, safetensors_file
from casckpt.tensors.formats.packing import Packed, pack
from casckpt.tensors.formats.pretrained import (
    check_folder,
    check_side_files,
    has_config,
    plan_weights,
    write_folder,
    write_weights,
)
from casckpt.tensors.formats.recognise import FORMATS, format_of_name
from casckpt.tensors.formats.replace import Progress, check_target, typed, written
from casckpt.tensors.formats.torch_write import write_torch
from casckpt.tensors.shards import INDEX

_NO_CONFIG = (
    "from_pretrained needs a config.json beside the weights: save the model's with model.config.save_pretrained"
)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote. files: paths. bytes: of all of them. tensors: how many are in them. notes: for people."""

    files: tuple[str, ...]
    bytes: int
    tensors: int
    notes: tuple[str, ...] = ()


def choose_format(path: Path, format: str | None) -> str:
    """The format that was asked for, by its name or else by the suffix of the path; without one, "pretrained".

    Raises:
        ExportError: no such format, or a suffix that says none.
    """
    known = ", ".join(FORMATS)
    if format is not None:
        if format not in FORMATS:
            raise ExportError(f"there is no format {format!r}", file=str(path), remedy=f"there are {known}")
        return format
    found = format_of_name(path)
    if found is None and path.suffix and not path.is_dir():
        raise ExportError(f"the suffix {path.suffix} says no format", file=str(path), remedy=f"give one of {known}")
    return found or "pretrained"


def write_state(
    state: Any,
    path: Path,
    format: str,
    *,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a state.

    metadata: the file's own, for formats that have it. max_shard_size: bytes of tensors in one file.

    Raises:
        UnsupportedTypeError: the format cannot hold something in the state; named by its path.
        ExportError, ExportFullError
    """
    if max_shard_size is not None and (format not in ("safetensors", "pretrained") or max_shard_size < 1):
        raise ExportError("only safetensors are written in shards, of a byte or more", file=str(path))
    own = dict(metadata or {})
    if format == "pretrained":
        return _write_pretrained(state, path, own, max_shard_size, overwrite, progress)
    target = check_target(path, overwrite)
    if format == "torch":
        size, tensors = write_torch(state, target, progress, overwrite=overwrite)
        return ExportReport((str(target),), size, tensors)
    reserved = npz_file.RESERVED if format == "npz" else safetensors_file.RESERVED
    packed = pack(flatten(state), reserved)
    if format == "npz":
        npz_file.check(packed)
        with written(target, npz_file.size_of(packed), progress, overwrite=overwrite) as writer:
            npz_file.write_npz(writer, packed)
        return ExportReport((str(target),), writer.written, len(packed.pieces))
    return _write_safetensors(packed, target, own, max_shard_size, overwrite, progress)


def _write_safetensors(
    packed: Packed, target: Path, own: dict[str, str], most: int | None, overwrite: bool, progress: Progress | None
) -> ExportReport:
    plan = plan_weights(packed, target.name, own, most, target.parent)
    if len(plan) > 1:
        for name in (*(file for file, _, _ in plan), f"{target.name}{INDEX}"):
            if (target.parent / name).exists():
                raise ExportError(
                    "is there already, and several files cannot be replaced at once",
                    file=str(target.parent / name),
                    remedy="choose another name, or export a whole folder by format='pretrained'",
                )
    made = write_weights(target.parent, packed, plan, target.name, progress, overwrite=overwrite)
    if len(plan) > 1 and overwrite and target.exists():
        with typed(target):
            target.unlink(missing_ok=True)  # readers would take the old file for the weights
            sync_parent(target.parent)
    return _report(target.parent, made, packed)


def _write_pretrained(
    state: Any, path: Path, own: dict[str, str], most: int | None, overwrite: bool, progress: Progress | None
) -> ExportReport:
    target = check_folder(path, overwrite)
    files: dict[str, bytes] = {}
    weights = state
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        weights = state["model"]
        files = check_side_files(state.get("files", {}), target)
    own.pop("format", None)  # here it is torch's
    packed = pack(flatten(weights), safetensors_file.RESERVED)
    made = write_folder(target, packed, files, own, DEFAULT_SHARD_SIZE if most is None else most, overwrite, progress)
    return _report(target, made, packed, () if has_config(files) else (_NO_CONFIG,))


def _report(folder: Path, made: list[str], packed: Packed, notes: tuple[str, ...] = ()) -> ExportReport:
    paths = [folder / name for name in made]
    return ExportReport(tuple(map(str, paths)), sum(path.stat().st_size for path in paths), len(packed.pieces), notes)
