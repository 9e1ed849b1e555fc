"""From a file to a commit."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

from casckpt.history.commits import Commit
from casckpt.tensors.formats.read import read_state
from casckpt.tensors.formats.source import source_record

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
) -> Commit:
    """As `Repository.import_file` has it."""
    found = read_state(path)
    source = source_record(path, found.format)
    return repo.commit(
        found.state if part is None else {part: found.state},
        message or f"imported {source['name']}",
        step=found.step if step is None else step,
        metrics=metrics,
        meta={**found.meta, **(meta or {}), "source": source},
    )
