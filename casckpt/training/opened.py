"""The repository of a Checkpointer: one that is open already, or one that is opened for it."""

from __future__ import annotations

from os import PathLike
from typing import Any

from casckpt.errors import StoreSettingsError
from casckpt.tensors.open import open_repository
from casckpt.tensors.repository import Repository


def opened(repository: str | PathLike[str] | Repository, **settings: Any) -> Repository:
    """The repository itself, or what is at the path. settings: as for `casckpt.open`; None: not given.

    Raises:
        StoreSettingsError: settings for a repository that is open already.
        StoreError: as `casckpt.open`.
    """
    if not isinstance(repository, Repository):
        return open_repository(repository, **settings)
    given = [name for name, value in settings.items() if value is not None]
    if given:
        raise StoreSettingsError(
            f"{', '.join(given)} was given beside a repository that is open already",
            store=repository.path,
            remedy="give it to casckpt.open",
        )
    return repository
