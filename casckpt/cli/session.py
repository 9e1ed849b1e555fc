"""What all commands share: which store is meant, and what to tell people if they interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from casckpt.errors import RefNotFoundError, StoreNotFoundError

if TYPE_CHECKING:
    from casckpt.history.repository import History
    from casckpt.store.protocol import Store
    from casckpt.tensors.repository import Repository

H = TypeVar("H", bound="History")


class Session:
    """One run of the command line.

    repo: the path that was given, by -C or the environment. json: whether programs read the output. done: what an
    interrupt now leaves behind, in words.
    """

    def __init__(self) -> None:
        self.repo: str | None = None
        self.json = False
        self.done = "nothing was changed"

    def changing(self, what: str) -> None:
        """From here on an interrupt cannot know whether `what` happened."""
        self.done = f"{what} may have happened or not: look with `casckpt log` and `casckpt reflog`"

    def store_path(self) -> str:
        """The store that is meant: by -C or the environment, else the nearest one from the current folder up.

        Raises:
            StoreNotFoundError
        """
        return self.repo if self.repo is not None else str(_nearest(Path.cwd()))

    def history(self, branch: str | None = None) -> AbstractContextManager[History]:
        """The history of the store that is meant; with a branch, bound to that one.

        Raises:
            StoreNotFoundError, RefNotFoundError, and whatever opening a store raises.
        """
        from casckpt.history.repository import History

        return self._open(History, branch)

    def repository(self, branch: str | None = None, *, create: bool = False) -> AbstractContextManager[Repository]:
        """As `history`, for commands through which states pass. create: store and branch need not be there yet."""
        from casckpt.tensors.repository import Repository

        return self._open(Repository, branch, create)

    @contextmanager
    def _open(self, handle: Callable[[Store, str | None], H], branch: str | None, create: bool = False) -> Iterator[H]:
        from casckpt.objects.names import check_ref_name
        from casckpt.store.lmdb_store import open_store

        if branch is not None and create:
            check_ref_name(branch)  # before there is a store
        store = open_store(self.store_path(), create=create)
        try:
            history = handle(store, branch)
            known = create or branch is None
            if not known and not any((ref.kind, ref.name) == ("branch", branch) for ref in history.refs()):
                raise RefNotFoundError(
                    f"there is no branch {branch!r}", ref=str(branch), remedy="look with `casckpt branch`"
                )
            yield history
        finally:
            store.close()


def is_store(path: Path) -> bool:
    """Whether a folder looks like a store; opening it says for sure. `data.mdb` alone is any LMDB environment."""
    return (path / "data.mdb").is_file() and (path / "gate").exists()


def _nearest(folder: Path) -> Path:
    for place in (folder, *folder.parents):
        if is_store(place):
            return place
    raise StoreNotFoundError(
        f"{folder} is in no store",
        remedy="name one with -C PATH or CASCKPT_REPO, or make one with `casckpt init`",
    )
