"""Open the store at a path as the handle that people use; `casckpt.open` is this. torch is not imported here."""

from __future__ import annotations

from os import PathLike

from casckpt.tensors.repository import Repository


def open_repository(
    path: str | PathLike[str],
    *,
    create: bool = True,
    branch: str | None = None,
    hash: str | None = None,
    chunk_size: int | None = None,
    codec: str | None = None,
    accept_loss: bool = False,
) -> Repository:
    """Open the store at a path, and make it where there is none.

    create: False: there must be one. branch: bind the handle to this branch instead of the one that HEAD names.
    hash ("xxh3_128", "blake3"), chunk_size (bytes, a power of two), codec ("none", "fast", "auto", "small"): fixed when
    the store is made; opening it with other values is an error.
    accept_loss: open a store from which acknowledged changes are missing, and go on from what is there.

    Raises:
        StoreNotFoundError, NotAStoreError, NewerFormatError, StoreSettingsError, NetworkFilesystemError
        StoreLockLostError, TruncatedStoreError, HistoryLostError, InvalidRefNameError
    """
    from casckpt.store.lmdb_store import open_store

    store = open_store(path, create=create, hash=hash, chunk_size=chunk_size, codec=codec, accept_loss=accept_loss)
    try:
        return Repository(store, branch)
    except BaseException:
        store.close()
        raise
