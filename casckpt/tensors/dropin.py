"""`casckpt.save` and `casckpt.load`: near drop-ins for torch.save and torch.load, on one store named by a path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casckpt.history.commits import Commit
from casckpt.objects.names import check_ref_name
from casckpt.tensors.open import open_repository

if TYPE_CHECKING:
    import torch


def save(
    obj: object,
    target: str | PathLike[str],
    message: str = "",
    *,
    step: int | None = None,
    metrics: Mapping[str, float] | None = None,
    meta: Mapping[str, object] | None = None,
) -> Commit:
    """Commit a state: `casckpt.save(state, "runs/gpt@main")`. When this returns it is durable.

    target: the path of a store, made where there is none; behind "@" a branch, which begins with this commit where
    there is none. Without "@" it is the current branch. The rest is as for `Repository.commit`, and so are the errors.

    Raises:
        InvalidRefNameError: what stands behind "@" can be no branch.
    """
    path, branch = split(target)
    with open_repository(path, branch=None if branch is None else check_ref_name(branch)) as repo:
        return repo.commit(obj, message, step=step, metrics=metrics, meta=meta)


def load(
    target: str | PathLike[str],
    map_location: str | torch.device | None = None,
    *,
    paths: Iterable[str] | str | None = None,
) -> Any:
    """The state of a commit: `casckpt.load("runs/gpt@main~2")`. There must be such a store.

    target: the path of a store; behind "@" a revision, HEAD unless given. map_location: the device for every tensor,
    None for the CPU; a function or a dict, which torch.load takes too, is not taken. paths: globs, as for
    `Repository.load`, which also says what is raised.

    Raises:
        StoreNotFoundError
    """
    path, revision = split(target)
    with open_repository(path, create=False) as repo:
        return repo.load("HEAD" if revision is None else revision, paths=paths, device=map_location)


def split(target: str | PathLike[str]) -> tuple[str, str | None]:
    """A path, and what stands behind its last "@" that is not the one of "main@{1}", nor in the name of a folder that
    the path leads through.

    "runs/gpt" -> ("runs/gpt", None); "runs/a@b@main~2" -> ("runs/a@b", "main~2"); "r@main@{1}" -> ("r", "main@{1}")
    """
    text = os.fspath(target)
    at = len(text)
    while (at := text.rfind("@", 0, at)) >= 0:
        end = text.find("/", at)
        if not text.startswith("@{", at) and (end < 0 or not Path(text[:end]).is_dir()):
            return text[:at], text[at + 1 :]
    return text, None
