"""From a commit to a file: what is asked for is read out of the store, and written as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casckpt.errors import ExportError, ReleasedPartError
from casckpt.history.records import check_not_pruned, get_mark
from casckpt.objects.paths import Globs, child, escape, select
from casckpt.objects.tree import expand, shallow
from casckpt.objects.values import METADATA, Map, Typed, Value
from casckpt.tensors.formats.metadata import metadata_of
from casckpt.tensors.formats.replace import Progress
from casckpt.tensors.formats.write import ExportReport, choose_format, write_state
from casckpt.tensors.load import read, read_value

if TYPE_CHECKING:
    from casckpt.history.commits import CommitReader
    from casckpt.tensors.repository import Repository


def export(
    repo: Repository,
    revision: str,
    path: str | PathLike[str],
    *,
    format: str | None,
    part: str | None,
    paths: Iterable[str] | str | None,
    max_shard_size: int | None,
    overwrite: bool,
    progress: Progress | None,
) -> ExportReport:
    """As `Repository.export` has it."""
    target = Path(path)
    chosen = choose_format(target, format)
    globs = Globs.of(paths)
    commit = repo.resolve(revision)

    def work(commits: CommitReader) -> object:
        objects = commits.objects
        oid = bytes.fromhex(commit.id)
        check_not_pruned(objects.reader, oid)
        root = commits.stored(oid).tree
        released = get_mark(objects.reader, oid).released
        if part is not None:
            return read(objects, _part(objects, root, released, globs, part))
        if chosen == "pretrained" and globs is None:
            return read(objects, _weights_and_files(objects, root, released))
        return read(objects, read_value(objects, root, released, globs))

    state = repo.reading(work)
    return write_state(
        state,
        target,
        chosen,
        metadata=metadata_of(commit.meta),
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        progress=progress,
    )


def _entries(value: Value) -> Map | None:
    """The entries of a state, whatever kind of mapping it is."""
    while isinstance(value, Typed):
        value = value.value
    return value if isinstance(value, Map) else None


def _part(objects: Any, root: bytes, released: tuple[str, ...], globs: Globs | None, part: str) -> Value:
    """The expanded value under one key of the state, by the key itself or as it stands in paths."""
    top = shallow(objects.tree(root), objects.tree)
    entries = _entries(shallow(top.value, objects.tree) if isinstance(top, Typed) else top)
    if part in released:
        raise ReleasedPartError(f"retention released {part} of this commit", parts=(part,), remedy="export another")
    for key, value in () if entries is None else entries.entries:
        if key != METADATA and part in (key, child("", key)):
            if globs is not None:
                chosen = _entries(select(Map(((key, value),)), globs, objects.tree))
                if chosen is None or not chosen.entries:
                    return Map(())
                value = chosen.entries[0][1]
            return expand(value, objects.tree)
    raise ExportError(f"there is no part {part!r} in this commit", remedy="look with `casckpt show`")


def _weights_and_files(objects: Any, root: bytes, released: tuple[str, ...]) -> Value:
    """Only "model" and "files" of a state that has a model; of any other all of it."""
    top = _entries(shallow(objects.tree(root), objects.tree))
    keys = () if top is None else tuple(key for key, _ in top.entries)
    if "model" not in keys:
        return read_value(objects, root, released, None)
    kept = Globs([pattern for key in ("model", "files") for pattern in (escape(key), f"{escape(key)}.*")])
    return read_value(objects, root, released, kept)
