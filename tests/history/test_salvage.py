"""salvage: what comes back, under which names, what is told of the rest; and that nothing is taken for whole before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import casckpt
from casckpt.errors import (
    CorruptObjectError,
    NotAStoreError,
    StoreBusyError,
    StoreNotFoundError,
    StoreSettingsError,
)
from casckpt.history.repository import History
from casckpt.history.salvage import build
from casckpt.history.salvage.lines import REWRITTEN
from casckpt.history.salvage.report import SalvageReport
from casckpt.objects.ids import Kind
from casckpt.objects.values import Map
from casckpt.store.lmdb_store import open_store
from casckpt.store.mark import read_mark
from casckpt.store.protocol import Space
from tests.history.damage import publish, record
from tests.history.pages import SIZE, File
from tests.history.world import commit, drifted, load, noise, release
from tests.processes import PATIENCE, ROOT


def told(path: Path, **settings: object) -> History:
    """Six commits with deltas, a tag, and a branch from the third."""
    history = History(open_store(path, **{"chunk_size": 256, **settings}))  # type: ignore[arg-type]
    run = noise(1, 3000)
    for step in range(6):
        state = {"model": {"w": run}, "optimizer": {"m": noise(step, 700)}}
        commit(history, state, f"at {step}", step=step, codec="auto")
        run = drifted(run, step)
    history.tag("v1", at="HEAD~1")
    history.branch("side", at="HEAD~3")
    return history


@pytest.fixture
def store(tmp_path: Path) -> Path:
    told(tmp_path / "store").close()
    return tmp_path / "store"


def states(path: Path) -> dict[str, object]:
    with History(open_store(path, create=False)) as history:
        return {one.id: load(history, one.id) for one in history.log(None) if not one.pruned}


def refs(path: Path) -> dict[str, str]:
    with History(open_store(path, create=False)) as history:
        assert history.fsck(read_data=True).ok
        return {f"{ref.kind}/{ref.name}": ref.commit for ref in history.refs()}


def lose(path: Path, kind: Kind, oid: str) -> None:
    """Overwrite every frame of an object."""
    data = bytearray((path / "data.mdb").read_bytes())
    key, found = bytes.fromhex(oid), 0
    at = data.find(b"\xf1CKF\x01" + bytes([kind]))
    while at >= 0:
        if data[at + 24 : at + 24 + len(key)] == key:
            data[at : at + 24] = bytes(24)
            found += 1
        at = data.find(b"\xf1CKF\x01" + bytes([kind]), at + 1)
    assert found
    (path / "data.mdb").write_bytes(data)


def zero(path: Path, start: int, end: int) -> None:
    File(path).write(start, bytes(end - start))


def commits(path: Path) -> list[str]:
    with History(open_store(path, create=False)) as history:
        return [one.id for one in history.log("main")]


# -- what comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash", ["xxh3_128", "blake3"])
@pytest.mark.parametrize("pages", [(), (0,), (1,), (0, 1)], ids=str)
def test_without_its_heads_a_store_comes_back_as_it_was(tmp_path: Path, hash: str, pages: tuple[int, ...]) -> None:
    with told(tmp_path / "store", hash=hash) as history:
        history.expire_reflog()
        format, head = history.store.format, history.current_branch
    before, names = states(tmp_path / "store"), refs(tmp_path / "store")
    for page in pages:
        zero(tmp_path / "store", page * SIZE, (page + 1) * SIZE)
    report = casckpt.salvage(tmp_path / "store", tmp_path / "new")
    assert report.complete and report.format_found and report.commits == report.whole == 6
    assert states(tmp_path / "new") == before and refs(tmp_path / "new") == names
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.store.format == format and history.current_branch == head
        assert history.gc().chunks == 0
        commit(history, {"model": {"w": b"more"}})
    assert read_mark(tmp_path / "new" / "mark") is not None


def test_a_data_file_alone_is_enough(store: Path, tmp_path: Path) -> None:
    shutil.copy(store / "data.mdb", tmp_path / "image")
    zero(store, 0, 2 * SIZE)
    assert casckpt.salvage(tmp_path / "image", tmp_path / "new").complete
    assert len(states(tmp_path / "new")) == 6


def test_without_its_format_record_a_store_is_what_its_objects_tell(tmp_path: Path) -> None:
    told(tmp_path / "store", hash="blake3").close()
    file = tmp_path / "store" / "data.mdb"
    file.write_bytes(file.read_bytes().replace(b"chunk_size", b"chunk_siXe"))
    report = casckpt.salvage(file, tmp_path / "new")
    assert not report.format_found and report.commits == 6
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert (history.store.format.hash, history.store.format.chunk_size) == ("blake3", 256)


def test_a_commit_that_lost_a_part_keeps_the_others_and_stays_in_the_log(store: Path, tmp_path: Path) -> None:
    with History(open_store(store, create=False)) as history:
        whole = load(history, "main")
        lost = history.scheme.digest(Kind.CHUNK, whole["optimizer"]["m"][:256]).hex()
        newest = history.resolve("main").id
    lose(store, Kind.CHUNK, lost)
    report = casckpt.salvage(store, tmp_path / "new")
    (hurt,) = report.hurt
    assert (hurt.commit, hurt.step, hurt.parts, hurt.lost) == (newest, 5, ("optimizer",), (f"chunk {lost}",))
    assert not report.complete and report.whole == 5
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.resolve("main").released == ("optimizer",)
        assert load(history, "main") == {"model": whole["model"]}


@pytest.mark.parametrize("kind", [Kind.TREE, Kind.NODE], ids=str)
def test_a_commit_that_lost_its_state_is_marked_as_pruned(store: Path, tmp_path: Path, kind: Kind) -> None:
    with History(open_store(store, create=False)) as history:
        tip = history.resolve("main")
        ids = {Kind.TREE: [tip.tree]}
        with history.store.read() as reader:
            ids[Kind.NODE] = [oid.hex() for oid in reader.keys(Space.NODE)]
    for oid in ids[kind]:
        lose(store, kind, oid)
    report = casckpt.salvage(store, tmp_path / "new")
    assert tip.id in {one.commit for one in report.hurt if not one.parts} and not report.complete
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.resolve(tip.id).pruned
        assert len(list(history.log("main"))) == 6


def test_a_lost_commit_cuts_its_line_and_those_behind_say_which_they_were(store: Path, tmp_path: Path) -> None:
    line, before = commits(store), states(store)
    lose(store, Kind.COMMIT, line[3])
    report = casckpt.salvage(store, tmp_path / "new")
    assert report.lost_commits == (line[3],) and report.rewritten.keys() == set(line[:3]) and not report.complete
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.resolve("main").id == report.rewritten[line[0]]
        assert [one.meta for one in history.log("main")] == [{REWRITTEN: oid} for oid in line[:3]]
        for old, new in report.rewritten.items():
            assert load(history, new) == before[old]
        for oid in line[4:]:  # whole ancestry: the same ids
            assert load(history, oid) == before[oid]
        # the branch that was at the lost commit is in doubt
        assert {ref.name for ref in history.refs()} == {"main", "v1", f"salvaged/{line[4][:8]}"}
    assert report.lost_refs == ("branch/side",)


def test_a_branch_whose_commit_is_lost_goes_back_along_its_reflog_under_another_name(
    store: Path, tmp_path: Path
) -> None:
    line = commits(store)
    lose(store, Kind.COMMIT, line[0])
    report = casckpt.salvage(store, tmp_path / "new")
    (ref,) = [ref for ref in report.refs if ref.was == "branch/main"]
    assert (ref.name, ref.commit) == ("salvaged/main", line[1]) and line[0] in ref.doubt
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.current_branch == "salvaged/main"


def test_commits_that_no_branch_leads_to_come_back_as_branches(store: Path, tmp_path: Path) -> None:
    with History(open_store(store, create=False)) as history:
        line = [one.id for one in history.log("main")]
        history.delete_tag("v1")
        history.rollback("HEAD~2")
        history.expire_reflog()
    report = casckpt.salvage(store, tmp_path / "new")
    assert report.complete
    assert refs(tmp_path / "new") == {
        "branch/main": line[2],
        "branch/side": line[3],
        f"branch/salvaged/{line[0][:8]}": line[0],
    }


def test_what_was_pruned_stays_pruned_and_what_was_given_up_in_part_is_left_out(store: Path, tmp_path: Path) -> None:
    with History(open_store(store, create=False)) as history:
        line = [one.id for one in history.log("main")]
        release(history, [history.resolve(line[1])])
        history.rollback("HEAD~2")
        history.delete_tag("v1")
        history.expire_reflog()
        release(history, [history.resolve(line[0])])
    report = casckpt.salvage(store, tmp_path / "new")
    assert report.complete and set(report.left) == {line[0], line[1]} and report.commits == 4
    zero(store, 0, 2 * SIZE)
    (store / "mark").unlink()
    casckpt.salvage(store, tmp_path / "other")
    with History(open_store(tmp_path / "other", create=False)) as history:
        pruned = {one.id for one in history.log(None) if one.pruned}
    assert pruned <= {line[0], line[1]}


def test_another_store_gives_what_is_lost(store: Path, tmp_path: Path) -> None:
    line, before, names = commits(store), states(store), refs(store)
    with History(open_store(store, create=False)) as history:
        history.backup(str(tmp_path / "copy"))
        with history.store.read() as reader:
            lost = {
                kind: [oid.hex() for oid in reader.keys(space)]
                for kind, space in ((Kind.CHUNK, Space.CHUNK), (Kind.NODE, Space.NODE), (Kind.TREE, Space.TREE))
            }
    lose(store, Kind.COMMIT, line[0])
    lose(store, Kind.COMMIT, line[2])
    for kind, ids in lost.items():
        for oid in ids[::3]:
            lose(store, kind, oid)
    report = casckpt.salvage(store, tmp_path / "new", others=[tmp_path / "copy"])
    assert report.complete and report.taken > 4
    assert states(tmp_path / "new") == before and refs(tmp_path / "new") == names


# -- what is refused, and what never happens ---------------------------------------------------------------------------


def test_a_dry_run_says_the_same_and_makes_nothing(store: Path, tmp_path: Path) -> None:
    zero(store, 0, 2 * SIZE)
    dry = casckpt.salvage(store, tmp_path / "new", dry_run=True)
    assert not (tmp_path / "new").exists()
    real = casckpt.salvage(store, tmp_path / "new")

    def fields(report: SalvageReport) -> tuple[object, ...]:
        return report.commits, report.chunks, report.trees, report.nodes, report.stored_bytes, report.refs

    assert fields(dry) == fields(real) and dry.dry_run


def test_the_damaged_store_is_never_written_to(store: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in store.iterdir() if path.is_file()}
    casckpt.salvage(store, tmp_path / "new")
    assert {path.name: path.read_bytes() for path in store.iterdir() if path.is_file()} == before


def test_a_store_that_somebody_has_open_is_refused(store: Path, tmp_path: Path) -> None:
    with History(open_store(store, create=False)), pytest.raises(StoreBusyError, match="has it open"):
        casckpt.salvage(store, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_places_that_are_none_are_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for place in (tmp_path / "full", store, store / "data.mdb", store / "new"):
        with pytest.raises(NotAStoreError):
            casckpt.salvage(store, place)
    with pytest.raises(StoreNotFoundError):
        casckpt.salvage(tmp_path / "nowhere", tmp_path / "new")
    (tmp_path / "noise").write_bytes(noise(3, 100_000))
    (tmp_path / "empty").touch()
    for source in ("noise", "empty"):
        with pytest.raises(CorruptObjectError, match="nothing of a store"):
            casckpt.salvage(tmp_path / source, tmp_path / "new")
    with History(open_store(tmp_path / "blake", hash="blake3")) as other, pytest.raises(StoreSettingsError):
        casckpt.salvage(store, tmp_path / "new", others=[other.path])
    assert not (tmp_path / "new").exists()


def test_the_damaged_store_is_no_other_one_under_no_name(store: Path, tmp_path: Path) -> None:
    File(store).write(0, bytes(2 * SIZE))
    (tmp_path / "link").symlink_to(store)
    for name in ("hard", "soft"):
        (tmp_path / name).mkdir()
    (tmp_path / "hard" / "data.mdb").hardlink_to(store / "data.mdb")
    (tmp_path / "soft" / "data.mdb").symlink_to(store / "data.mdb")
    for other in (store, tmp_path / "link", tmp_path / "hard", tmp_path / "soft"):
        for source in (store, store / "data.mdb"):
            with pytest.raises(NotAStoreError, match="what is to be salvaged"):
                casckpt.salvage(source, tmp_path / "new", others=[other])
    with pytest.raises(StoreNotFoundError):
        casckpt.salvage(store, tmp_path / "new", others=[tmp_path / "nowhere"])
    assert not (tmp_path / "new").exists()


KILLED = """
import os, signal, sys
import casckpt
from {package} import {module} as module
real = module.{name}
def killed(*args, **more):
    found = real(*args, **more) if {after} else None
    os.kill(os.getpid(), signal.SIGKILL)
module.{name} = killed
casckpt.salvage(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("module", "name"),
    [("build", "_put_objects"), ("build", "_put_history"), ("build", "_check"), ("destination", "mark_copy")],
)
def test_a_salvage_that_is_killed_leaves_no_store_or_a_whole_one(
    store: Path, tmp_path: Path, module: str, name: str, after: bool
) -> None:
    before = states(store)
    zero(store, 0, 2 * SIZE)
    package = "casckpt.store" if module == "destination" else "casckpt.history.salvage"
    source = KILLED.format(package=package, module=module, name=name, after=after)
    program = [sys.executable, "-c", source, str(store), str(tmp_path / "new")]
    ended = subprocess.run(program, cwd=ROOT, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "new").iterdir()
    for again in (partial(open_store, tmp_path / "new"), partial(casckpt.salvage, store, tmp_path / "new")):
        with pytest.raises(
            NotAStoreError, match=f"was killed; nothing in {left.name} was acknowledged; .*remove {left}"
        ):
            again()
    shutil.rmtree(left)
    assert casckpt.salvage(store, tmp_path / "new").complete
    assert states(tmp_path / "new") == before


def test_a_state_that_contradicts_itself_is_in_the_log_without_its_bytes(store: Path, tmp_path: Path) -> None:
    """No save makes such; a check of the new store finds it, and it is marked before that is handed over."""
    with History(open_store(store, create=False)) as history:
        states = Map((("a", record(3, b"abc", alias=0)), ("b", record(3, b"xyz", alias=0))))
        publish(history, Map((("model", states),)))
        wrong = history.resolve("main").id
        assert {found.id for found in history.fsck().findings} == {"impossible-state"}
    report = casckpt.salvage(store, tmp_path / "new")
    (hurt,) = report.hurt
    assert hurt.commit == wrong and hurt.lost == ("impossible-state",) and not report.complete
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.resolve("main").pruned and history.fsck(read_data=True).ok


def test_a_store_that_is_not_sound_is_not_handed_over(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "set_head", lambda writer, name: writer.put(Space.REF, b"HEAD", b"no check"))
    with pytest.raises(CorruptObjectError, match="damaged-ref"):
        casckpt.salvage(store, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("golden", sorted((ROOT / "tests" / "compat").glob("v*-*")), ids=lambda path: path.name)
def test_every_golden_store_comes_back_without_its_heads(tmp_path: Path, golden: Path) -> None:
    """Every kind of state, codec and record of any released format; compacted, collected and copied ones too."""
    shutil.copytree(golden, tmp_path / "golden")
    zero(tmp_path / "golden", 0, 2 * SIZE)
    report = casckpt.salvage(tmp_path / "golden", tmp_path / "new")
    shutil.copytree(golden, tmp_path / "sound")
    with History(open_store(tmp_path / "sound")) as before, History(open_store(tmp_path / "new")) as after:
        there = {one.id: one for one in after.log(None)}
        for one in before.log(None):
            assert repr(there[one.id]) == repr(one)  # nan is not itself
            if not one.pruned:
                assert after.ls(one.id) == before.ls(one.id)
        assert after.fsck(read_data=True).ok and after.store.format.uuid == before.store.format.uuid
        assert {(ref.name, ref.commit) for ref in before.refs()} <= {
            (ref.name.removeprefix("salvaged/").removeprefix("tag/"), ref.commit) for ref in after.refs()
        }
    assert report.format_found and not report.hurt
