"""`casckpt salvage` and `casckpt fsck --repair-from` as people and programs meet them."""

from __future__ import annotations

from pathlib import Path

import pytest

from casckpt.cli.commands.salvage import INCOMPLETE
from casckpt.history.repository import History
from casckpt.objects.ids import Kind
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.cli.conftest import Casckpt
from tests.history.test_salvage import lose


def zero(path: str, start: int, end: int) -> None:
    file = Path(path) / "data.mdb"
    data = bytearray(file.read_bytes())
    data[start:end] = bytes(end - start)
    file.write_bytes(data)


def put(history: History, space: Space, key: bytes, value: bytes) -> None:
    with history.store.write(durable=True, room=None) as writer:
        writer.put(space, key, value)


def first(history: History, space: Space) -> bytes:
    with history.store.read() as reader:
        return next(reader.keys(space))


@pytest.fixture
def copy(history: History, tmp_path: Path) -> str:
    history.backup(str(tmp_path / "copy"))
    return str(tmp_path / "copy")


# -- salvage -----------------------------------------------------------------------------------------------------------


def test_a_store_whose_heads_are_gone_comes_back_and_that_is_0(casckpt: Casckpt, history: History) -> None:
    history.close()
    zero(history.path, 0, 8192)
    assert casckpt("-C", history.path, "log").code != 0
    dry = casckpt("salvage", history.path, "new", "--dry-run")
    assert dry.code == 0 and "would make" in dry.out and not Path("new").exists()
    ran = casckpt("salvage", history.path, "new")
    assert (ran.code, ran.err) == (0, "")
    for line in ("7 commits, 7 with all", "branch main at", "tag v1 at", "all that history led to came back"):
        assert line in ran.out
    assert "at 50" in casckpt("-C", "new", "log").out
    report = casckpt("salvage", history.path, "other", "--json").json
    assert report["complete"] and report["commits"] == 7 and report["hurt"] == []
    assert {ref["name"] for ref in report["refs"]} == {"main", "try/lr", "v1"}


def test_what_is_lost_is_told_and_that_is_11(casckpt: Casckpt, history: History, copy: str) -> None:
    newest = history.resolve("main")
    gone, chunk = history.resolve("main~3").id, first(history, Space.CHUNK).hex()
    history.close()
    lose(Path(history.path), Kind.COMMIT, gone)
    lose(Path(history.path), Kind.CHUNK, chunk)
    ran = casckpt("salvage", history.path, "new")
    assert (ran.code, ran.err) == (INCOMPLETE, "")
    for line in ("commits that are lost", "commits with new ids", "NOT ALL of what history led to came back"):
        assert line in ran.out
    assert newest.id[:8] in ran.out
    assert casckpt("-C", "new", "fsck", "--read-data").code == 0
    report = casckpt("salvage", history.path, "third", "--json")
    assert report.code == INCOMPLETE and not report.json["complete"] and report.json["rewritten"]
    ran = casckpt("salvage", history.path, "healed", "--with", copy)
    assert ran.code == 0 and "came from other stores" in ran.out
    assert newest.id[:8] in casckpt("-C", "healed", "log").out


def test_what_cannot_be_is_one_line_and_a_code_of_its_kind(
    casckpt: Casckpt, history: History, copy: str, tmp_path: Path
) -> None:
    (tmp_path / "noise").write_bytes(b"noise" * 1000)
    for arguments, code, named in (
        (["nowhere", "new"], 21, "nowhere"),
        (["noise", "new"], 10, "nothing of a store"),
        ([history.path, "new"], 25, "has it open"),
        ([copy, copy], 22, "elsewhere"),
        (["noise"], 2, "DST"),
    ):
        ran = casckpt("salvage", *arguments)
        assert ran.code == code and named in ran.err, (arguments, ran)
        assert ran.out == ""
    assert not Path("new").exists()


# -- repair ------------------------------------------------------------------------------------------------------------


def test_a_copy_heals_the_store(at: Casckpt, history: History, copy: str) -> None:
    put(history, Space.CHUNK, first(history, Space.CHUNK), b"nonsense")
    put(history, Space.TREE, first(history, Space.TREE), b"nonsense")
    assert at("fsck", "--read-data").code == 10
    dry = at("fsck", "--repair-from", copy, "--dry-run")
    assert dry.code == 0 and f"1 tree would be fetched from {copy}" in dry.out
    assert at("fsck", "--read-data").code == 10
    ran = at("fsck", "--repair-from", copy)
    assert (ran.code, ran.err) == (0, "")
    assert f"1 chunk fetched from {copy}" in ran.out and ran.out.endswith("sound: no errors\n")
    assert "nothing to repair" in at("fsck", "--repair-from", copy).out
    report = at("fsck", "--repair-from", copy, "--json").json
    assert report["ok"] and report["healed"] == {} and report["after"]["findings"] == []


def test_what_the_copy_has_not_got_either_is_told_and_that_is_10(at: Casckpt, history: History, copy: str) -> None:
    chunk = first(history, Space.CHUNK)
    put(history, Space.CHUNK, chunk, b"nonsense")
    with History(open_store(copy, create=False)) as other:
        put(other, Space.CHUNK, chunk, b"nonsense")
    ran = at("fsck", "--repair-from", copy)
    assert ran.code == 10 and f"chunk {chunk.hex()} is not to be had there" in ran.out
    assert "NOT SOUND" in ran.out


def test_a_store_that_does_not_open_is_to_be_salvaged_first(casckpt: Casckpt, history: History, copy: str) -> None:
    history.close()
    zero(history.path, 0, 8192)
    ran = casckpt("-C", history.path, "fsck", "--repair-from", copy)
    assert ran.code != 0 and f"casckpt salvage {history.path} NEW --with {copy}" in ran.err


def test_options_that_contradict_each_other_are_refused(at: Casckpt, history: History, copy: str) -> None:
    assert at("fsck", "--dry-run").code == 2
    assert at("fsck", "--repair-from", copy, "--read-data-subset", "5%").code == 2
    assert at("fsck", "--repair-from", copy, "--accept-loss").code == 2
