"""`casckpt status`: a store at a glance, without a scan and without getting in anybody's way."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from casckpt.cli.commands import status
from casckpt.history.repository import History
from casckpt.store.lmdb_store import LmdbStore
from casckpt.store.lmdb_transactions import LmdbReader
from casckpt.store.locks import is_seen_held
from casckpt.store.protocol import Space, StoreSize
from tests.cli.conftest import Casckpt
from tests.cli.stores import make_history
from tests.processes import Program


def fields(out: str) -> dict[str, str]:
    return {name: rest for name, _, rest in ((line[:9].strip(), "", line[9:].strip()) for line in out.splitlines())}


def test_status_tells_what_there_is(at: Casckpt, history: History) -> None:
    told = at("status", "--json").json
    assert (told["branch"], told["commit"]["step"]) == ("main", 50)
    assert (told["commits"], told["branches"], told["tags"]) == (7, 2, 1)
    assert told["settings"]["hash"] == "xxh3_128"
    assert (told["openers"], told["maintenance"]) == ([], None)
    out = fields(at("status").out)
    assert out["holds"] == "7 commits, 2 branches, 1 tag"
    assert out["open in"] == "no other process"
    assert "step 50" in out["newest"]
    assert "under way" not in out


def test_an_empty_store(casckpt: Casckpt, tmp_path: Path) -> None:
    make_history(tmp_path / "s").close()
    assert fields(casckpt("-C", tmp_path / "s", "status").out)["newest"] == "no commit yet"
    assert casckpt("-C", tmp_path / "s", "status", "--json").json["commit"] is None


def test_no_value_is_looked_at_but_the_newest_commits(at: Casckpt, monkeypatch: pytest.MonkeyPatch) -> None:
    items = LmdbReader.items

    def no_scan(self: LmdbReader, space: Space, *more: object, **options: object) -> object:
        assert space not in (Space.CHUNK, Space.NODE, Space.TREE, Space.COMMIT)
        return items(self, space, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LmdbReader, "items", no_scan)
    assert at("status").code == 0


OTHER = """
    import sys
    from casckpt.store.lmdb_store import open_store
    store = open_store(sys.argv[1])
    with store.maintenance():
        print("ready", flush=True)
        sys.stdin.readline()
    print("done", flush=True)
    sys.stdin.readline()
    store.close()
"""


def test_others_who_have_it_open_and_who_collects_are_named(at: Casckpt, history: History) -> None:
    with Program(OTHER, history.path) as other:
        assert other.line() == "ready"
        told = at("status", "--json").json
        who = f"process {other.process.pid} on {socket.gethostname()} "
        assert [line.startswith(who) for line in told["openers"]] == [True]
        assert told["maintenance"].startswith(who)
        assert "under way  gc, repack or compact, by process" in at("status").out
        other.say()
        assert other.line() == "done"
        told = at("status", "--json").json
        assert (len(told["openers"]), told["maintenance"]) == (1, None)
        other.end()
    assert at("status", "--json").json["openers"] == []


def test_asking_who_collects_touches_no_lock(at: Casckpt, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a shared lock, held for a moment, would turn away a gc that begins just then."""
    path = Path(history.path) / "maintenance"
    assert is_seen_held(path) is False
    with history.store.maintenance(), monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *arguments: pytest.fail("a lock was touched"))
        assert is_seen_held(path) is True
    assert is_seen_held(path) is False


def test_compact_is_offered_where_it_pays(at: Casckpt, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, pays in (
        (StoreSize(100 << 20, 40 << 20, 60 << 20), True),
        (StoreSize(1000 << 20, 980 << 20, 20 << 20), False),
        (StoreSize(2 << 20, 1 << 20, 1 << 20), False),
        (StoreSize(0, 0, 0), False),
    ):
        monkeypatch.setattr(LmdbStore, "size", lambda self, size=size: size)
        assert ("casckpt compact" in at("status").out) is pays
        assert at("status", "--json").json["compact_pays"] is pays


def test_only_this_process_is_left_out() -> None:
    mine = f"process {os.getpid()} on {socket.gethostname()} (casckpt) since now"
    twin = mine.replace("now", "then")
    assert status._others((mine, "process 1 on other (x) since")) == ("process 1 on other (x) since",)
    assert status._others((mine, twin)) == (twin,)
