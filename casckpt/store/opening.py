"""Opens a store that this process does not have open, in the one order that is safe against every other opener.

It must change nothing in a folder that is not a store of ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from casckpt.errors import (
    HistoryLostError,
    NotAStoreError,
    StoreNotFoundError,
)
from casckpt.store import filesystem, openers
from casckpt.store.datafile import damaged, do_follow, is_last, look_into, transactions
from casckpt.store.destination import WHOLE, left_folders, refuse_left
from casckpt.store.environment import Environment
from casckpt.store.examined import Watch, is_known, note_good
from casckpt.store.folder import COMPACTING, CREATING, DATA, FILES, GATE, LOCK, MARK, OPENERS, check_sorts
from casckpt.store.format import (
    COUNTER_KEY,
    FORMAT_KEY,
    LATER_SPACES,
    check_settings,
    decode_format,
    encode_format,
    new_format,
)
from casckpt.store.layout import UnreadableError
from casckpt.store.lmdb_lock import refuse_lost_lock
from casckpt.store.lmdb_open import MAX_READERS, open_error, open_lmdb
from casckpt.store.locks import FileLock
from casckpt.store.mark import Mark, read_mark, reset_mark
from casckpt.store.protocol import PageFault, Space, StoreFormat

if TYPE_CHECKING:
    from lmdb import _Database

# What there may be without a data file. What compact left may be the only copy, so nothing is made beside that.
_WITHOUT_DATA: Final = FILES | {OPENERS, CREATING}
_ACCEPT: Final = (
    "restore it from a backup, or go on with what is there: open it with accept_loss=True, or run "
    "`casckpt fsck --accept-loss`; of what is given up by that, `casckpt salvage` may get out less afterwards"
)
# Bytes of lock.mdb: a head, and a line of 64 bytes for each reader.
_LOCK_ROOM: Final = 4096 + 64 * MAX_READERS


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller of `open_store` asked for; None asks for nothing."""

    create: bool
    hash: str | None
    chunk_size: int | None
    codec: str | None
    accept_loss: bool

    def check(self, store: str, held: StoreFormat) -> None:
        """Raise unless an existing store is what was asked for."""
        check_settings(store, held, hash=self.hash, chunk_size=self.chunk_size, codec=self.codec)


def open_environment(path: Path, wanted: Wanted, know: Callable[[Environment], None]) -> Environment:
    """The environment of the store at `path`. Never where this process has it open: LMDB's lock on it would fall.

    know: called with it while it would still be shut again, so that no interrupt leaves one that nobody knows of.
    """
    held = _Held()
    try:
        environment = _open(path, wanted, held)
        know(environment)
        return environment
    except BaseException:
        held.let_go()
        raise
    finally:
        held.open_gate()


class _Held:
    """What an opening holds by now. It is let go from further out, since an interrupt may come just where it would be
    within; and whoever handles that may open the store there and then."""

    def __init__(self) -> None:
        self.gate: FileLock | None = None
        self.raw: lmdb.Environment | None = None
        self.opener: FileLock | None = None

    def let_go(self) -> None:
        """All but the gate."""
        if self.opener is not None:
            openers.unregister(self.opener)
        if self.raw is not None:
            self.raw.close()

    def open_gate(self) -> None:
        if self.gate is not None:
            self.gate.release()


def _open(path: Path, wanted: Wanted, held: _Held) -> Environment:
    filesystem.refuse_network(path)
    fresh = new_format(str(path), hash=wanted.hash, chunk_size=wanted.chunk_size, codec=wanted.codec)
    _check_place(path, wanted)
    path.mkdir(parents=True, exist_ok=True)
    held.gate = FileLock(path / GATE)
    held.gate.acquire()
    refuse_lost_lock(path)
    found = _look(path, wanted)
    if found is not None:
        wanted.check(str(path), found)
        clear_compacting(path)  # whoever makes one has the gate until it is in place
        _clear(path / CREATING)
        alone = not openers.live(path)
        if alone:
            _examine(path, found, accept_loss=wanted.accept_loss)
    else:
        alone = True
        # Before there is a store in it: a store is never without its gate, by which it is known, nor its place.
        filesystem.sync_folder(path)
        filesystem.sync_place(path)
        _create(path, fresh)
    # LMDB maps it, and a reader that needs a page of it which a full disk does not have is killed (SIGBUS).
    filesystem.reserve(path / LOCK, _LOCK_ROOM)
    format = fresh if found is None else found
    held.raw = open_lmdb(path, format)
    watch = Watch(path / DATA, held.raw.info()["last_txnid"] if alone else -1)
    held.opener = openers.register(path)
    held.open_gate()
    # Whoever made its files may have died before he could see to it.
    filesystem.sync_folder(path)
    filesystem.sync_parent(path.parent)
    databases = open_databases(path, held.raw, format)  # past the gate, because this waits for whoever is writing
    held.raw.reader_check()
    _check_mark(path, held.raw, databases, format, accept_loss=wanted.accept_loss)
    if alone:
        _heal_heads(path, held.raw, databases, watch)
    return Environment(path, held.raw, held.opener, format, databases, watch)


def clear_compacting(path: Path) -> None:
    """Remove what compact left; call under the gate."""
    _clear(path / COMPACTING)


def _clear(folder: Path) -> None:
    """Remove a folder of ours in which a data file was made. A store that somebody put there has more in it than that,
    and a link leads elsewhere: those stay."""
    with contextlib.suppress(OSError):
        if not folder.is_symlink() and {entry.name for entry in folder.iterdir()} <= {DATA}:
            (folder / DATA).unlink(missing_ok=True)
            folder.rmdir()


def _check_place(path: Path, wanted: Wanted) -> None:
    """Refuse, before anything is made, what is no place for a store.

    A store is known by its gate file; without one, only an empty folder or a whole data file of ours will do.
    """
    store = str(path)
    if not path.exists():
        names = set()
    elif path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        check_sorts(path)
    else:
        raise NotAStoreError("this is a file", store=store, remedy="give the path of a folder")
    if DATA in names:
        if GATE not in names and look_into(path / DATA).format is None:
            raise NotAStoreError(f"its {DATA} was not written by casckpt", store=store, remedy="give another path")
        return
    refuse_left(path, names)
    if names and (GATE not in names or names - {*_WITHOUT_DATA, *left_folders(path, names)}):
        raise NotAStoreError("this folder holds other things", store=store, remedy="give an empty one, or a new one")
    if not wanted.create and MARK not in names:  # which tells of one
        raise StoreNotFoundError("there is no store here", store=store, remedy="create one with casckpt init")


def _look(path: Path, wanted: Wanted) -> StoreFormat | None:
    """The format record of the store, or None where one is to be created; nothing is changed."""
    store = str(path)
    data = path / DATA
    if data.exists() and data.stat().st_size:
        try:
            contents = look_into(data)
        except NotAStoreError as error:
            if read_mark(path / MARK) is None:
                raise
            raise damaged(path, error.problem) from error  # it was one, or nothing would be acknowledged
        if contents.format is not None:
            return decode_format(store, contents.format)
        if not contents.blank and read_mark(path / MARK) is not None:
            raise damaged(path, "its format record is not there")
        if not contents.blank:
            raise NotAStoreError(f"its {DATA} was not written by casckpt", store=store, remedy="give another path")
    mark = read_mark(path / MARK)
    if mark is not None and not wanted.accept_loss:
        left = left_folders(path, {one.name for one in path.iterdir()})
        spare = next(
            (f"{one}/{WHOLE}, which may be its file, or " for one in left if (path / one / WHOLE).exists()), ""
        )
        raise HistoryLostError(
            f"{mark.counter} changes were acknowledged, and its {DATA} is empty, or is not there",
            store=store,
            remedy=f"restore it from {spare}a backup, or begin anew with create=True and accept_loss=True",
        )
    if not wanted.create:
        what = "a store was begun here, but never finished" if mark is None else f"its {DATA} is empty, or is not there"
        raise StoreNotFoundError(what, store=store, remedy="create it again")
    return None


def _examine(path: Path, format: StoreFormat, *, accept_loss: bool) -> None:
    """Look at every page of the database, unless the file is the one that was last known to be good; call under the
    gate, where nobody else has the store open. LMDB would follow a damaged page into a crash, or into a lie.

    Raises:
        CorruptObjectError: naming the first page that is damaged.
        HistoryLostError: a head is damaged, so that LMDB may go on from the one before it.
    """
    data = path / DATA
    even, odd = transactions(data)
    last = max(even, odd)
    if is_known(path, format.uuid, last):
        return
    if not (accept_loss or do_follow(even, odd) or is_last(data)):
        raise HistoryLostError(
            f"its heads are of transactions {even} and {odd}, so one is damaged, and the last change may be missing",
            store=str(path),
            remedy=_ACCEPT,
        )
    from casckpt.store.pages import examine  # here, since few need it

    found = examine(data)
    faults = [fault for fault in found.faults if not _is_harmless(fault, format)]
    if faults or found.found > len(found.faults):
        first = (faults or found.faults)[0]
        more = f", and {found.found - 1} more things" if found.found > 1 else ""
        raise damaged(path, f"page {first.page} ({first.tree}): {first.problem}{more}")
    note_good(path, format.uuid, last)


def _is_harmless(fault: PageFault, format: StoreFormat) -> bool:
    """Whether LMDB, and we, get along with it: what later casckpts may have, and what earlier ones had not."""
    later = {space.value.decode() for space in LATER_SPACES} if format.version == 1 else set()
    return fault.kind == "unknown-database" or (fault.kind == "missing-database" and fault.tree in later)


def _create(path: Path, format: StoreFormat) -> None:
    """Make the data file of an empty store beside its place, and put it there once it is on the disk: a loss of power
    leaves all of it or none. The mark comes last, since a mark without its database is a loss."""
    beside = path / CREATING
    _clear(beside)
    if beside.exists() or beside.is_symlink():
        raise NotAStoreError(f"something else is in its folder {CREATING}", store=str(path), remedy="move that away")
    try:
        beside.mkdir(mode=0o700)
        with open_lmdb(beside, format, lock=False) as raw:
            with raw.begin(write=True) as transaction:
                databases = {space: raw.open_db(space.value, txn=transaction) for space in Space}
                transaction.put(FORMAT_KEY, encode_format(format), db=databases[Space.META])
                transaction.put(COUNTER_KEY, (1).to_bytes(8, "big"), db=databases[Space.META])
            raw.sync(True)
        if not _is_blank(path / DATA):  # asked anew, and last: what is renamed over is gone
            raise damaged(path, f"{DATA} holds something, and was taken for one that does not")
        (beside / DATA).rename(path / DATA)
    except lmdb.Error as error:  # no write of it went through, or no sync
        raise open_error(path, error) from error
    finally:
        _clear(beside)
    filesystem.sync_folder(path)
    reset_mark(path / MARK, Mark(format.uuid, 1))


def _is_blank(data: Path) -> bool:
    return not data.exists() or not data.stat().st_size or look_into(data).blank


def open_databases(path: Path, raw: lmdb.Environment, format: StoreFormat) -> dict[Space, _Database]:
    """The sub-databases of a store. None is made, but for those that its format has not got: one that is missing is
    damage, and a new one would bury it."""
    later = LATER_SPACES if format.version == 1 else ()
    try:
        with raw.begin(write=True) as transaction:
            there = [bytes(name) for name in transaction.cursor().iternext(values=False)]
            missing = [space for space in later if space.value not in there]
            found = {space: raw.open_db(space.value, txn=transaction, create=space in missing) for space in Space}
            if missing:
                _count(transaction, found)
            return found
    except lmdb.Error as error:
        raise damaged(path, error) from error


def _count(transaction: lmdb.Transaction, databases: dict[Space, _Database]) -> None:
    """Every change counts; this one is not acknowledged, so the mark may stay behind."""
    meta = databases[Space.META]
    counter = int.from_bytes(transaction.get(COUNTER_KEY, db=meta) or b"", "big")
    transaction.put(COUNTER_KEY, (counter + 1).to_bytes(8, "big"), db=meta)


def _heal_heads(path: Path, raw: lmdb.Environment, databases: dict[Space, _Database], watch: Watch) -> None:
    """Write the head that is damaged anew, where somebody has accepted what it cost, or it cost nothing. Else each
    opening of a file that is not known would find it damaged, until somebody commits.

    A transaction writes the head that LMDB did not take. That may be the whole one, where the number of the other does
    not belong into its page; then the next writes that.
    """
    try:
        for _ in range(2):
            if do_follow(*transactions(path / DATA)):
                return
            with raw.begin(write=True) as transaction:
                number = transaction.id()
                watch.before(number - 1)
                _count(transaction, databases)
            raw.sync(True)
            watch.after(number)
    except UnreadableError as error:
        raise damaged(path, str(error)) from error
    except lmdb.Error as error:
        raise open_error(path, error) from error


def _check_mark(
    path: Path, raw: lmdb.Environment, databases: dict[Space, _Database], format: StoreFormat, *, accept_loss: bool
) -> None:
    mark = read_mark(path / MARK)  # before the database, which others may move on meanwhile
    with raw.begin() as transaction:
        try:
            held = transaction.get(COUNTER_KEY, db=databases[Space.META])
        except lmdb.Error as error:
            raise damaged(path, error) from error
    counter = 0 if held is None else int.from_bytes(held, "big")
    if mark is None or (mark.store == format.uuid and mark.counter <= counter):
        return
    if accept_loss:
        reset_mark(path / MARK, Mark(format.uuid, counter))
        return
    if mark.store != format.uuid:
        raise HistoryLostError(
            f"its mark is that of another store ({mark.store}, not {format.uuid}): the data file was exchanged",
            store=str(path),
            remedy=_ACCEPT,
        )
    raise HistoryLostError(
        f"{mark.counter} changes were acknowledged, and its file holds {counter}", store=str(path), remedy=_ACCEPT
    )
