"""The environments that this process has open, one for each data file, by whatever path it was opened.

It must never have LMDB open the same file twice in one process: POSIX locks fall when any descriptor of their file is
closed. Whoever gives the last handle back has the environment shut; what is shut is never given out.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from casckpt.errors import StoreBusyError, StoreError, StoreFailedError
from casckpt.store import filesystem
from casckpt.store.environment import Environment
from casckpt.store.folder import DATA
from casckpt.store.lmdb_lock import refuse_locked
from casckpt.store.lmdb_open import open_lmdb
from casckpt.store.opening import Wanted, open_databases, open_environment
from casckpt.store.transaction import Handle

_lock = threading.Lock()
_by_file: dict[tuple[int, int], Environment] = {}


def acquire(path: Path, wanted: Wanted, handle: Handle) -> Environment:
    """The environment of the store at `path`, opened or shared, for a handle; `release` gives it back."""
    with _lock, filesystem.system_errors(path, "it cannot be opened"):
        environment = _by_file.get(_identity(path) or (0, 0))
        # Without a handle where an interrupt came while the first one was given out, or the last one given back: it may
        # be shut, or half so.
        if environment is not None and (environment.failed or not environment.handles):
            if not _forget(environment):
                raise StoreBusyError(
                    "it failed, and transactions on it are still under way in this process",
                    store=str(path),
                    holders=("this process",),
                    remedy="end them, then open it again",
                )
            environment = None
        if environment is None:
            environment = open_environment(path, wanted, _know)
        else:
            wanted.check(str(path), environment.format)
        environment.handles.add(handle)
        return environment


def release(environment: Environment, handle: Handle) -> None:
    """Give a handle back; the last one shuts the environment. Twice is once; in a forked child it touches nothing."""
    with _lock:
        if environment.forked:
            return
        environment.handles.discard(handle)
        if not environment.handles and environment in _by_file.values():
            _forget(environment)


def give_up(handle: Handle) -> None:
    """As `release`, for a handle that an interrupt kept from whoever asked for it, if it was given out at all."""
    with _lock:
        of = [environment for environment in _by_file.values() if handle in environment.handles]
    for environment in of:
        release(environment, handle)


def exchange(environment: Environment, copy: Path, transaction: int) -> None:
    """Put the file `copy`, which is on the disk, in the place of the data file of an environment, and go on with that.

    Call under the store's gate, with the environment alone. No deadlock: whoever holds `_lock` waits for a gate only to
    open a store that this process does not have open, and this one it has, as long as its file is the one that lies
    there.

    transaction: LMDB's number of the last one in the copy.

    Raises:
        StoreBusyError, StoreError: the old file is in use as before.
        StoreFailedError: the environment is of no use any more; old or new, the file is whole.
    """
    path = environment.path
    check_current(environment)
    with _lock:
        check_current(environment)
        environment.let_go()
        try:
            refuse_locked(path)
            with filesystem.system_errors(path, "its file cannot be exchanged"):
                copy.replace(path / DATA)
        except BaseException:
            _take_up(environment, None)
            raise
        try:
            filesystem.sync_folder(path)
        except OSError as error:  # after a crash the old file might be back, without what is acknowledged from here on
            failed = environment.abandon_file(f"its file was exchanged, but the folder could not be synced: {error}")
            _register(environment)
            raise failed from error
        _take_up(environment, transaction)


def _take_up(environment: Environment, transaction: int | None) -> None:
    """Open the data file again; transaction: the last one that it must show, if that is known."""
    try:
        raw = open_lmdb(environment.path, environment.format)
        try:
            databases = open_databases(environment.path, raw, environment.format)
            with raw.begin() as reader:
                # Of a lock file that somebody else made for another data file, readers would see an old state.
                if transaction is not None and reader.id() != transaction:
                    raise StoreError(f"its lock file is at transaction {reader.id()}, not {transaction}")
        except BaseException:
            raw.close()
            raise
    except BaseException as error:
        failed = environment.abandon_file(f"its file was let go for compact, and cannot be opened again: {error}")
        _register(environment)
        raise failed from error
    environment.take_up(raw, databases)
    _register(environment)


def _know(environment: Environment) -> None:
    """Know an environment that was just opened."""
    identity = _identity(environment.path)
    assert identity is not None
    _by_file[identity] = environment


def _register(environment: Environment) -> None:
    """Know the environment by the file that it has now."""
    for old in [key for key, value in _by_file.items() if value is environment]:
        del _by_file[old]
    identity = _identity(environment.path)
    if identity is not None:
        _by_file[identity] = environment


def _forget(environment: Environment) -> bool:
    """Shut an environment, unless a transaction of it is under way; returns whether it was shut.

    Also where it is interrupted: what was shut is known no more, and what was not is asked for again by `acquire`.
    """
    try:
        return environment.shut()
    finally:
        if environment.is_shut:
            for identity in [key for key, value in _by_file.items() if value is environment]:
                del _by_file[identity]


def check_current(environment: Environment) -> None:
    """Raise unless the file of the environment is still the one that lies at its path. Takes no lock.

    Raises:
        StoreFailedError: what is written goes into a file that nobody will open.
    """
    if _by_file.get(_identity(environment.path) or (0, 0)) is not environment:
        raise StoreFailedError(
            "its file was exchanged by somebody else", store=str(environment.path), remedy="close it, and open it again"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells one data file from another, by whatever path; not given again while an environment has it open."""
    try:
        stat = (path / DATA).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, which report nothing
    global _lock
    _lock = threading.Lock()
    _by_file.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
