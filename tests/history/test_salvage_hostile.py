"""Files that were made to cost salvage time or memory: what it does is bounded by their size, counted in calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import casckpt
from casckpt.errors import CorruptObjectError
from casckpt.history.fsck import findings
from casckpt.history.fsck.report import FsckReport
from casckpt.history.repository import History
from casckpt.history.salvage import build
from casckpt.history.salvage.lines import ancestors_first, line_up, tips
from casckpt.history.salvage.plan import _leave
from casckpt.history.salvage.states import Hurt
from casckpt.objects.commit import CommitObject
from casckpt.objects.frame import Codec, FrameHead, pack_head
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.values import Map
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from casckpt.store.scan import Scanned
from casckpt.store.trees import Trees
from tests.history.damage import publish, record
from tests.history.world import commit, noise


def lies(oid: bytes, count: int) -> bytes:
    """Heads of a commit with nothing behind them."""
    return pack_head(FrameHead(Kind.COMMIT, Codec.RAW, oid, 0, 0)) * count


def test_of_one_id_few_frames_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(lies(bytes(16), 5000))
    counter = Counter(32)
    real = Scanned.candidate

    def counted(self: Scanned, at: int) -> bytes | None:
        counter.ask()
        return real(self, at)

    monkeypatch.setattr(Scanned, "candidate", counted)
    with pytest.raises(CorruptObjectError, match="not one commit"):
        casckpt.salvage(tmp_path / "file", tmp_path / "new")
    assert counter.count


@pytest.mark.parametrize("place", ["before", "behind"])
def test_frames_that_lie_on_one_side_of_a_good_one_do_not_push_it_out(tmp_path: Path, place: str) -> None:
    with History(open_store(tmp_path / "store")) as history:
        for step in range(5):
            commit(history, {"model": {"w": noise(step, 300)}}, step=step)
        ids = {one.id for one in history.log()}
    data = (tmp_path / "store" / "data.mdb").read_bytes()
    flood = b"".join(lies(bytes.fromhex(oid), 100) for oid in sorted(ids))
    flood = flood.ljust(-len(flood) % 4096 + len(flood), b"\0")
    (tmp_path / "file").write_bytes(flood + data if place == "before" else data + flood)
    assert casckpt.salvage(tmp_path / "file", tmp_path / "new").whole == 5
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert {one.id for one in history.log()} == ids


def test_however_many_states_contradict_themselves_the_new_store_is_checked_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with History(open_store(tmp_path / "store")) as history:
        for number in range(9):
            parts = Map((("a", record(3, b"abc", alias=0)), ("b", record(3, b"xyz", alias=0)), ("n", number)))
            publish(history, Map((("model", parts),)))
    monkeypatch.setattr(findings, "MAX_FINDINGS", 2)
    monkeypatch.setattr(build, "MAX_FINDINGS", 2)
    counter = Counter(2)
    real = build.fsck

    def counted(*args: Any, **more: Any) -> FsckReport:
        counter.ask()
        return real(*args, **more)

    monkeypatch.setattr(build, "fsck", counted)
    report = casckpt.salvage(tmp_path / "store", tmp_path / "new")
    assert len(report.hurt) == 9 and {one.lost for one in report.hurt} == {("impossible-state",)}


def test_roots_that_lead_to_the_same_pages_have_these_read_a_few_times(tmp_path: Path) -> None:
    with History(open_store(tmp_path / "store")) as history:
        commit(history, {"model": {"w": noise(1, 300)}})
    with Scanned(tmp_path / "store" / "data.mdb") as file:
        trees, head = Trees(file), file.heads[0]
        found = [trees.entries(head, Space.META) is not None for _ in range(16 * (file.size // file.page_size + 1))]
        assert found[: len(found) // 4] == [True] * (len(found) // 4) and not found[-1]


@dataclass
class Counter:
    """How often something was asked for; more than `most` times is a broken promise."""

    most: int
    count: int = 0

    def ask(self) -> None:
        self.count += 1
        assert self.count <= self.most


class Asked:
    """A commit that counts how often its parents are looked at."""

    def __init__(self, counter: Counter, time: int, *parents: bytes) -> None:
        self.time = time
        self._counter, self._parents = counter, parents

    @property
    def parents(self) -> tuple[bytes, ...]:
        self._counter.ask()
        return self._parents


def test_commits_that_are_their_own_ancestors_are_met_once_each() -> None:
    counter = Counter(20)
    found = {name: Asked(counter, 0, *parents) for name, *parents in ((b"a", b"c"), (b"b", b"a"), (b"c", b"b"))}
    assert sorted(ancestors_first(found)) == [b"a", b"b", b"c"]  # type: ignore[arg-type]
    assert list(ancestors_first({b"a": Asked(counter, 0, b"a")})) == [b"a"]  # type: ignore[dict-item]


def test_a_circle_of_commits_is_cut_and_a_branch_leads_to_its_end() -> None:
    plain = CommitObject(bytes(16), (), "", None, (), "", 0, "", Map(()))
    a, b, c = (bytes([n]) * 16 for n in range(3))
    lines = line_up({oid: replace(plain, parents=(over,)) for oid, over in ((a, c), (b, a), (c, b))}, XXH3_128)
    order = list(lines.commits)
    assert [len(lines.commits[oid].parents) for oid in order] == [0, 1, 1]
    assert tips(lines, set()) == order[-1:]


def test_giving_up_a_long_line_looks_at_each_commit_a_few_times() -> None:
    length = 500
    counter = Counter(3 * length)
    names = [n.to_bytes(2, "big") for n in range(length)]
    found = {name: Asked(counter, n, *names[n - 1 : n] if n else ()) for n, name in enumerate(names)}
    hurt = dict.fromkeys(names[100:], Hurt(None, frozenset()))
    left = _leave(found, set(names[:50]), {}, hurt)  # type: ignore[arg-type]
    assert list(left) == names[:99:-1] and list(found) == names[:100]


@pytest.mark.parametrize("kept", [0, 3])
def test_what_is_whole_or_leads_on_to_it_is_not_given_up(kept: int) -> None:
    counter = Counter(1000)
    found = {b"%d" % n: Asked(counter, n, *[b"%d" % (n - 1)] if n else []) for n in range(5)}
    found[b"x"] = Asked(counter, 9, b"3", b"4")
    hurt = {oid: Hurt(None, frozenset()) for oid in found if oid != b"%d" % kept}
    left = _leave(found, set(), {}, hurt)  # type: ignore[arg-type]
    assert sorted(found) == [b"%d" % n for n in range(kept + 1)] and b"x" in left
