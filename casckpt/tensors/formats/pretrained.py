"""Weights in shards with an index, and folders that from_pretrained reads, written as huggingface names them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from casckpt.errors import ExportError
from casckpt.store.filesystem import sync_parent
from casckpt.tensors.formats import safetensors_file
from casckpt.tensors.formats.packing import Packed, Piece
from casckpt.tensors.formats.replace import Progress, already_there, check_room, temporary_name, typed, written
from casckpt.tensors.formats.swap import put_folder
from casckpt.tensors.shards import INDEX, is_side_name

_CONFIGS: Final = ("config.json", "adapter_config.json")
# Shards are numbered by five digits.
_MOST_SHARDS: Final = 99_999


def shards_of(packed: Packed, most: int) -> list[list[Piece]]:
    """The pieces in runs of at most `most` bytes each; one that is larger has a run to itself."""
    shards: list[list[Piece]] = []
    size = 0
    for piece in safetensors_file.in_order(packed.pieces):
        if not shards or (size + piece.nbytes > most and shards[-1]):
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.nbytes
    return shards or [[]]


def shard_names(name: str, count: int) -> list[str]:
    """("model.safetensors", 3) -> ["model-00001-of-00003.safetensors", ...]; of one alone the name itself."""
    if count == 1:
        return [name]
    stem, _, suffix = name.rpartition(".")
    return [f"{stem}-{number:05}-of-{count:05}.{suffix}" for number in range(1, count + 1)]


def plan_weights(
    packed: Packed, name: str, own: Mapping[str, str], most: int | None, folder: Path
) -> list[tuple[str, list[Piece], dict[str, str]]]:
    """What is written for weights: of each file its name, its pieces, and its metadata.

    Raises:
        ExportError: a header would be too long, or there would be too many files.
    """
    shards = [safetensors_file.in_order(packed.pieces)] if most is None else shards_of(packed, most)
    if len(shards) > _MOST_SHARDS:
        raise ExportError(f"{len(shards)} files are too many", file=str(folder / name), remedy="let each be larger")
    plan = []
    for file, pieces in zip(shard_names(name, len(shards)), shards, strict=True):
        here = {piece.name for piece in pieces}
        metadata = {"format": "pt", **own}
        metadata |= {dropped: kept for dropped, kept in packed.ties.items() if kept in here}
        if len(shards) == 1 and not safetensors_file.is_plain(packed):
            metadata[safetensors_file.ENTRY] = safetensors_file.encoded(packed.entry)
        safetensors_file.header(pieces, metadata, str(folder / file))
        plan.append((file, pieces, metadata))
    return plan


def index_of(packed: Packed, plan: Sequence[tuple[str, list[Piece], dict[str, str]]]) -> bytes:
    """The index of weights in several files."""
    places = {piece.name: file for file, pieces, _ in plan for piece in pieces}
    metadata: dict[str, object] = {"total_size": sum(piece.nbytes for piece in packed.pieces)}
    # the order of the tensors is that of the index
    if not packed.flat or any(not piece.nbytes or _is_raw(piece) for piece in packed.pieces):
        metadata[safetensors_file.ENTRY] = safetensors_file.encoded(packed.entry)
    index = {"metadata": metadata, "weight_map": {piece.name: places[piece.name] for piece in packed.pieces}}
    return (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()


def _is_raw(piece: Piece) -> bool:
    return safetensors_file.code_and_shape(piece)[1] != piece.layout.shape


def write_weights(
    folder: Path,
    packed: Packed,
    plan: Sequence[tuple[str, list[Piece], dict[str, str]]],
    name: str,
    progress: Progress | None,
    *,
    overwrite: bool,
) -> list[str]:
    """Write the files of a plan into a folder, the index last; returns their names.

    overwrite: a file that is all of it may replace another.

    Raises:
        ExportError, ExportFullError: the files written so far are gone again.
    """
    total = sum(piece.nbytes for _, pieces, _ in plan for piece in pieces)
    check_room(folder, total)
    made: list[str] = []
    before = 0
    try:
        for file, pieces, metadata in plan:
            step = None if progress is None else _from(progress, before, total)
            size = sum(piece.nbytes for piece in pieces)
            with written(folder / file, size, step, overwrite=overwrite and len(plan) == 1) as writer:
                safetensors_file.write_pieces(writer, pieces, metadata, str(folder / file))
            made.append(file)
            before += writer.written
        if len(plan) > 1:
            raw = index_of(packed, plan)
            with written(folder / f"{name}{INDEX}", len(raw), overwrite=False) as writer:
                writer.write(raw)
            made.append(f"{name}{INDEX}")
    except BaseException:
        if len(plan) > 1:
            for file in made:
                (folder / file).unlink(missing_ok=True)
        raise
    return made


def _from(progress: Progress, before: int, total: int) -> Progress:
    return lambda stage, done, _: progress(stage, before + done, total)


def check_side_files(files: object, target: Path) -> dict[str, bytes]:
    """The files that are kept beside weights, once their names lead nowhere else.

    Raises:
        ExportError
    """
    if not isinstance(files, Mapping):
        raise ExportError('what is under "files" is no mapping', file=str(target), remedy="export a part: part=…")
    for name, raw in files.items():
        if not is_side_name(name) or not isinstance(raw, bytes):
            raise ExportError(
                f'{name!r} under "files" is no file that can stand beside weights',
                file=str(target),
                remedy="export a part: part=…",
            )
    return dict(files)


def weights_name(files: Mapping[str, bytes]) -> str:
    """What the library that wrote the files beside them calls weights: transformers, peft or diffusers."""
    if "adapter_config.json" in files and "config.json" not in files:
        return "adapter_model.safetensors"
    if b'"_diffusers_version"' in files.get("config.json", b""):
        return "diffusion_pytorch_model.safetensors"
    return "model.safetensors"


def has_config(files: Mapping[str, bytes]) -> bool:
    """Whether from_pretrained finds what it needs beside the weights."""
    return any(name in files for name in _CONFIGS)


def write_folder(
    target: Path,
    packed: Packed,
    files: Mapping[str, bytes],
    own: Mapping[str, str],
    most: int | None,
    overwrite: bool,
    progress: Progress | None,
) -> list[str]:
    """Write a whole folder beside its target, and put it there; returns the names of its files.

    Raises:
        ExportError, ExportFullError: what was at the target is untouched.
    """
    weights = weights_name(files)
    plan = plan_weights(packed, weights, own, most, target)
    for name in (*(file for file, _, _ in plan), f"{weights}{INDEX}"):
        if name in files:
            raise ExportError(f'{name!r} under "files" has the name of weights', file=str(target))
    part = temporary_name(target)
    try:
        with typed(target):
            part.mkdir()
        made = write_weights(part, packed, plan, weights, progress, overwrite=False)
        for name, raw in files.items():
            with written(part / name, len(raw), overwrite=False) as writer:
                writer.write(raw)
        check_folder(target, overwrite)  # it took a while
        with typed(target):
            put_folder(part, target, overwrite=overwrite)
            sync_parent(target.parent)
    finally:
        if part.is_dir():  # what was written, or what was replaced
            shutil.rmtree(part, ignore_errors=True)
    return [*made, *files]


def check_folder(target: Path, overwrite: bool) -> Path:
    """The place of a folder that may be written.

    Raises:
        ExportError: it is there already; or what is there is more than weights and files beside them.
    """
    place = Path(os.path.realpath(target))
    if not place.parent.is_dir():
        raise ExportError("its folder is not there", file=str(target), remedy=f"make {place.parent} first")
    if not place.exists():
        return place
    if not place.is_dir():
        raise ExportError("is a file, where a folder is to be written", file=str(target))
    entries = sorted(entry.name for entry in os.scandir(place))
    if entries and not overwrite:
        raise already_there(target)
    weights = any(name.endswith((".safetensors", ".bin")) for name in entries)
    if entries and (not weights or any(not (place / name).is_file() for name in entries)):
        raise ExportError(
            "is no folder of weights alone, and is not replaced", file=str(target), remedy="choose another name"
        )
    return place
