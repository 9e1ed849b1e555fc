"""From a file to a commit. What was read counts only if the file is as it was before."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

from casckpt.errors import ImportFormatError
from casckpt.history.commits import Commit
from casckpt.tensors.formats.read import read_state
from casckpt.tensors.formats.source import source_record
from casckpt.tensors.look import look

if TYPE_CHECKING:
    from casckpt.tensors.repository import Repository


def import_file(
    repo: Repository,
    path: str | PathLike[str],
    message: str,
    *,
    step: int | None,
    metrics: Mapping[str, float] | None,
    meta: Mapping[str, object] | None,
    part: str | None,
    codec: str | None,
) -> Commit:
    """As `Repository.import_file` has it."""
    try:
        before = look(path)
    except OSError as error:
        raise ImportFormatError(f"cannot be read: {error.strerror}", file=str(path)) from error
    if before is None:
        raise ImportFormatError("there is no such file or folder", file=str(path))
    found = read_state(path)

    def check() -> None:
        if look(path) != before:
            raise ImportFormatError(
                "it was written to while it was read", file=str(path), remedy="import it again when it is finished"
            )

    source = source_record(path, before, found.format)
    if part is not None:
        source["part"] = part
    return repo.commit(
        found.state if part is None else {part: found.state},
        message or f"imported {source['name']}",
        step=found.step if step is None else step,
        metrics=metrics,
        meta={**found.meta, **(meta or {}), "source": source},
        codec=codec,
        before_publish=check,
    )
