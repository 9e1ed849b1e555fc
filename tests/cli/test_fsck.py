"""`casckpt fsck` as people and programs meet it: what it says, and its exit codes."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from casckpt.cli.commands import fsck
from casckpt.errors import CasckptError
from casckpt.history.fsck.findings import OPENING, SORTS
from casckpt.history.repository import History
from casckpt.objects.ids import Kind
from casckpt.store.format import FORMAT_VERSION
from casckpt.store.layout import PAGE, read_head
from casckpt.store.lmdb_store import open_store
from casckpt.store.mark import Mark, read_mark, reset_mark
from casckpt.store.protocol import Space
from tests.cli.conftest import Casckpt
from tests.cli.stores import commit, make_history
from tests.history import damage, test_fsck, test_fsck_bases, test_fsck_pages
from tests.processes import ROOT, Program

GOLDEN = sorted((ROOT / "tests" / "compat").glob("v*-*"))


def put(history: History, space: Space, key: bytes, value: bytes | None) -> None:
    damage.put(history.store, space, key, value)


def test_a_sound_store_is_0_and_says_what_was_looked_at(at: Casckpt, history: History) -> None:
    ran = at("fsck")
    assert (ran.code, ran.err) == (0, "")
    for line in ("history  7 commits, 3 refs", "chunks there, none read", "sound: no errors"):
        assert line in ran.out
    chunks = history.stats().chunks
    assert f"{chunks} of {chunks} chunks read and hashed" in at("fsck", "--read-data").out
    assert re.search(rf"\d of {chunks} chunks read and hashed \(2/3\)", at("fsck", "--read-data-subset", "2/3").out)
    report = at("fsck", "--read-data", "--json").json
    assert report["ok"] and report["findings"] == [] and report["counts"] == {} and report["stopped"] == ""
    assert report["looked"]["chunks_read"] == report["looked"]["chunks"] == chunks
    assert report["path"] == history.path and report["bytes"] > 10_000 and report["seconds"] > 0
    assert at("fsck", "--read-data-subset", "5%", "--json").json["subset"] == "5%"


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_every_golden_store_is_sound(casckpt: Casckpt, tmp_path: Path, golden: Path) -> None:
    shutil.copytree(golden, tmp_path / "golden")
    report = casckpt("-C", tmp_path / "golden", "fsck", "--read-data", "--json").json
    assert report["ok"]
    assert [one for one in report["findings"] if one["severity"] != "info"] == []


def test_damage_is_10_and_says_what_it_hurts_and_what_to_do(at: Casckpt, history: History) -> None:
    shared = history.scheme.digest(Kind.CHUNK, b"the same" * 512)
    put(history, Space.CHUNK, shared, b"nonsense")
    assert at("fsck").code == 0
    ran = at("fsck", "--read-data")
    assert (ran.code, ran.err) == (10, "")
    assert "error: damaged-chunk (1)" in ran.out
    assert shared.hex() in ran.out
    newest = history.resolve("main")
    assert f"hurts {newest.id[:8]} (step 50)" in ran.out and "and 1 more" in ran.out
    assert "at model.weight" in ran.out
    assert "What to do: " in ran.out
    assert ran.out.endswith("NOT SOUND: 1 error\n")
    assert max(map(len, ran.out.splitlines())) <= 80
    ran = at("fsck", "--read-data", "--json")
    assert ran.code == 10
    (found,) = ran.json["findings"]
    assert found["id"] == "damaged-chunk" and found["severity"] == "error" and found["object"] == shared.hex()
    assert found["hurt"]["paths"] == ["model.weight"]
    assert {one["step"] for one in found["hurt"]["commits"]} == {0, 10, 20, 30, 40, 50}
    assert not ran.json["ok"]


def test_what_is_no_error_is_0(at: Casckpt, history: History) -> None:
    put(history, Space.CHUNK, b"short", b"x")
    put(history, Space.REF, b"HEAD", b"nowhere")
    ran = at("fsck")
    assert ran.code == 0
    assert ran.out.index("warning: stray-key (1)") < ran.out.index("info: unborn-head (1)")
    assert ran.out.endswith("sound: no errors, 1 warning, 1 note\n")


def test_people_are_shown_a_few_of_many_and_programs_all(at: Casckpt, history: History) -> None:
    with history.store.read() as reader:
        chunks = list(reader.keys(Space.CHUNK))
    for oid in chunks:
        put(history, Space.CHUNK, oid, None)
    ran = at("fsck")
    assert f"error: missing-chunk ({len(chunks)})" in ran.out
    assert ran.out.count("is missing from") == fsck._SHOWN
    assert f"- {len(chunks) - fsck._SHOWN} more; --json names them" in ran.out
    assert len(at("fsck", "--json").json["findings"]) == len(chunks)


def test_a_damaged_head_does_not_keep_the_rest_from_being_checked(at: Casckpt, history: History) -> None:
    put(history, Space.REF, b"HEAD", b"\xff")
    assert at("log").code == 10
    ran = at("fsck")
    assert ran.code == 10 and "error: damaged-ref (1)" in ran.out and "7 commits" in ran.out


def test_nothing_that_a_store_holds_is_obeyed_by_the_terminal(casckpt: Casckpt, tmp_path: Path) -> None:
    with make_history(tmp_path / "s") as history:
        commit(history, {"\x1b[31mred": b"x" * 5000})
        put(history, Space.CHUNK, history.scheme.digest(Kind.CHUNK, b"x" * 4096), None)
        put(history, Space.REF, b"branch/\x1b[2J", b"x")
        ran = casckpt("-C", history.path, "fsck")
    assert ran.code == 10 and "\x1b" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--read-data-subset", "most"], "'most'"),
        (["--read-data-subset", "3/2"], "'3/2'"),
        (["--read-data-subset", "0%"], "'0%'"),
        (["--read-data", "--read-data-subset", "5%"], "--read-data-subset"),
    ],
)
def test_wrong_usage_is_2(at: Casckpt, arguments: list[str], named: str) -> None:
    ran = at("fsck", *arguments)
    assert ran.code == 2 and named in ran.err and "Usage: casckpt fsck" in ran.err


# -- a store that cannot be opened


def truncated(store: Path) -> None:
    with (store / "data.mdb").open("rb+") as file:
        file.truncate(5 * 4096)


def lost(store: Path) -> None:
    mark = read_mark(store / "mark")
    assert mark is not None
    reset_mark(store / "mark", Mark(mark.store, mark.counter + 5))


def damaged(store: Path) -> None:
    data = bytearray((store / "data.mdb").read_bytes())
    head = max((read_head(bytes(data[at:])) for at in (0, 4096)), key=lambda one: one.transaction)
    struct.pack_into("=H", data, head.main.root * 4096 + PAGE.size - 6, 0)
    (store / "data.mdb").write_bytes(data)


def foreign(store: Path) -> None:
    (store / "mark").unlink()
    (store / "data.mdb").write_bytes(b"something else" * 1000)


def newer(store: Path) -> None:
    data = (store / "data.mdb").read_bytes()
    (store / "data.mdb").write_bytes(data.replace(b"\xa7version" + bytes((FORMAT_VERSION,)), b"\xa7version\x7f"))


BREAKS: dict[str, Callable[[Path], None]] = {
    "truncated-store": truncated,
    "history-lost": lost,
    "corrupt-object": damaged,
    "not-a-store": foreign,
    "newer-format": newer,
}


def code_of(kind: str, error: type[CasckptError] = CasckptError) -> int:
    """The exit code of the errors of a kind."""
    return next(
        (error.exit_code for _ in "x" if error.kind == kind),
        next((code for code in (code_of(kind, one) for one in error.__subclasses__()) if code), 0),
    )


@pytest.mark.parametrize("kind", BREAKS)
def test_a_store_that_cannot_be_opened_is_a_finding_with_the_code_of_the_error(
    casckpt: Casckpt, tmp_path: Path, kind: str
) -> None:
    store = tmp_path / "s"
    with make_history(store) as history:
        commit(history, {"m": b"x" * 50_000})
    BREAKS[kind](store)
    ran = casckpt("-C", store, "fsck", "--json")
    assert ran.code == casckpt("-C", store, "log").code == code_of(kind) != 0
    id = "damaged-page" if kind == "corrupt-object" else kind  # where pages are damaged, these are told
    found = next(found for found in ran.json["findings"] if found["id"] == id)
    assert (found["severity"], found["remedy"]) == ("error", SORTS[id].remedy)
    assert not ran.json["ok"] and ran.json["stopped"]
    ran = casckpt("-C", store, "fsck")
    assert f"error: {id} (1)" in ran.out and "NOT SOUND: " in ran.out


def test_a_lost_lock_is_a_finding_and_a_store_that_is_not_there_is_an_error(casckpt: Casckpt, tmp_path: Path) -> None:
    ran = casckpt("-C", tmp_path / "none", "fsck")
    assert (ran.code, ran.out) == (21, "")
    holds = """
    import sys
    from casckpt.store.lmdb_store import open_store
    store = open_store(sys.argv[1])
    open(sys.argv[1] + "/lock.mdb").close()  # drops the locks of the process
    print("held", flush=True)
    sys.stdin.readline()
    """
    with Program(holds, tmp_path / "s") as program:
        assert program.line() == "held"
        ran = casckpt("-C", tmp_path / "s", "fsck", "--json")
        assert ran.code == 26 and ran.json["findings"][0]["id"] == "store-lock-lost"


def test_a_loss_that_is_accepted_is_said_and_does_not_come_again(casckpt: Casckpt, tmp_path: Path) -> None:
    store = tmp_path / "s"
    with make_history(store) as history:
        commit(history, {"m": b"x" * 5000})
    assert casckpt("-C", store, "fsck", "--accept-loss", "--json").json["findings"] == []  # there is none
    lost(store)
    ran = casckpt("-C", store, "log")
    assert ran.code == 30 and "casckpt fsck --accept-loss" in ran.err
    ran = casckpt("-C", store, "fsck", "--accept-loss")
    assert ran.code == 0
    assert "warning: loss-accepted (1)" in ran.out and "changes were acknowledged" in " ".join(ran.out.split())
    assert casckpt("-C", store, "fsck", "--json").json["findings"] == []
    assert casckpt("-C", store, "log").code == 0


# -- the list of all findings


def test_every_finding_is_documented_as_it_is_said() -> None:
    page = (ROOT / "docs" / "reference" / "findings.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == list(SORTS)
    assert {row[0]: row[1:] for row in rows} == {
        id: (sort.severity, sort.meaning, sort.remedy) for id, sort in SORTS.items()
    }


def test_every_finding_is_made_by_a_test() -> None:
    deltas = {id for id, _ in test_fsck_bases.BREAKS}
    made = {*test_fsck.BREAKS, *deltas, *(id for _, id in test_fsck_pages.BREAKS), *BREAKS}
    others = {"store-lock-lost", "loss-accepted", "damaged-database", "damaged-format"}  # tests of their own
    assert made | others == set(SORTS)
    assert {*BREAKS, "store-lock-lost"} == OPENING


def test_an_interrupt_says_that_nothing_was_changed(
    casckpt: Casckpt, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("casckpt.history.fsck.check.check_data", interrupted)
    ran = casckpt("-C", history.path, "fsck", "--read-data")
    assert ran.code == 130 and "nothing was changed" in ran.err
    open_store(history.path).close()
