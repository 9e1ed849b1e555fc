"""A store whose head of an empty database counts by mistake is damaged, never taken for one that was only begun."""

from __future__ import annotations

import shutil
from pathlib import Path

import lmdb
import pytest

from casckpt.errors import CorruptObjectError, NotAStoreError, StoreNotFoundError
from casckpt.store import opening
from casckpt.store.datafile import look_into, transactions
from casckpt.store.format import new_format
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space

NUMBER = 16 + 128
"""Where in its page a head has the number of its transaction."""


@pytest.fixture(params=["backup", "new"])
def path(request, tmp_path) -> Path:
    """A store whose first head is still that of the empty database."""
    store = open_store(tmp_path / "store")
    if request.param == "backup":
        with store.write(durable=True, room=None) as writer:
            for number in range(50):
                writer.put(Space.CHUNK, b"%d" % number, bytes([number]) * 9000)
        store.backup(tmp_path / "copy")
        store.close()
        shutil.rmtree(tmp_path / "store")
        (tmp_path / "copy").rename(tmp_path / "store")
    else:
        store.close()
    assert transactions(tmp_path / "store/data.mdb") == (0, 1)
    return tmp_path / "store"


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name != "gate"}


@pytest.mark.parametrize("kept", ["all", "no mark", "data file"])
@pytest.mark.parametrize(("head", "number"), [(1, 0), (0, 2), (0, 256)])
def test_one_flipped_bit_of_a_head_loses_nothing_whatever_is_asked_for(path, head, number, kept) -> None:
    if kept == "no mark":
        (path / "mark").unlink()
    elif kept == "data file":
        for name in ("mark", "gate", "examined"):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / "openers", ignore_errors=True)
        (path / "lock.mdb").unlink(missing_ok=True)
    with (path / "data.mdb").open("rb+") as file:
        file.seek(head * 4096 + NUMBER)
        file.write(number.to_bytes(8, "little"))
    before = files(path)
    for create in (False, True):
        for accept_loss in (False, True):
            with pytest.raises(CorruptObjectError, match=r"damaged.*casckpt salvage"):
                open_store(path, create=create, accept_loss=accept_loss)
            assert files(path) == before


def test_creating_renames_over_nothing_that_may_hold_anything(path, monkeypatch) -> None:
    """Whatever the look before it made of the file."""
    monkeypatch.setattr(opening, "_look", lambda *_: None)
    before = files(path)
    with pytest.raises(CorruptObjectError, match=r"salvage"):
        open_store(path)
    assert files(path) == before
    with pytest.raises(CorruptObjectError):
        opening._create(path, new_format(str(path), hash=None, chunk_size=None, codec=None))
    assert files(path) == before


@pytest.mark.parametrize("longer", [0, 100])
def test_an_environment_without_a_transaction_is_begun_again_only_if_nothing_else_can_be_in_it(
    tmp_path, longer
) -> None:
    path = tmp_path / "store"
    with lmdb.open(str(path)):
        pass
    (path / "gate").touch()
    with (path / "data.mdb").open("ab") as file:
        file.write(b"x" * 4096 * longer)
    before = (path / "data.mdb").read_bytes()
    assert look_into(path / "data.mdb").blank is not bool(longer)
    if not longer:
        with pytest.raises(StoreNotFoundError):
            open_store(path, create=False)
        open_store(path).close()
        return
    for create in (False, True):
        with pytest.raises((NotAStoreError, CorruptObjectError)):
            open_store(path, create=create, accept_loss=True)
    assert (path / "data.mdb").read_bytes() == before


def test_another_s_database_that_was_emptied_is_left_alone_behind_a_gate_too(tmp_path) -> None:
    path = tmp_path / "foreign"
    with lmdb.open(str(path)) as env:
        for value in (b"1", b"2"):
            with env.begin(write=True) as transaction:
                transaction.put(b"key", value)
        with env.begin(write=True) as transaction:
            transaction.delete(b"key")
    before = (path / "data.mdb").read_bytes()
    for gate in (False, True):
        if gate:
            (path / "gate").touch()
        for create in (False, True):
            with pytest.raises(NotAStoreError, match="not written by casckpt"):
                open_store(path, create=create, accept_loss=True)
    assert (path / "data.mdb").read_bytes() == before
