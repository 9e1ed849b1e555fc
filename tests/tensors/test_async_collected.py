"""What a commit in flight relies on is pruned and collected before it is published: it has all of it all the same."""

from __future__ import annotations

import threading

import pytest
import torch

import casckpt
from casckpt.errors import RefMovedError
from casckpt.history.ingest import Ingest
from tests.equality import assert_same

NOTHING = casckpt.Keep(best={"no such metric": ("min", 1)}, branches=False)


def state(step: int) -> dict[str, object]:
    torch.manual_seed(3)
    dense = torch.rand(20_000)
    return {"dense": dense + step * 1e-3, "frozen": torch.arange(20_000), "step": step}


class Held:
    """Keeps the next commit from being published until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there, self.go_on = threading.Event(), threading.Event()
        publish = Ingest.publish

        def wait(ingest, *given, **more):
            self.there.set()
            assert self.go_on.wait(60)
            return publish(ingest, *given, **more)

        monkeypatch.setattr(Ingest, "publish", wait)


@pytest.mark.parametrize("codec", ["none", "auto", "small"])
def test_a_base_that_is_pruned_and_collected_under_a_commit_in_flight(tmp_path, monkeypatch, codec) -> None:
    with casckpt.open(tmp_path / "store", chunk_size=4096, codec=codec) as repo, casckpt.open(repo.path) as other:
        base = repo.commit(state(0))
        held = Held(monkeypatch)
        live = state(1)
        pending = repo.commit_async(live, step=1)
        live["dense"].zero_()
        assert held.there.wait(60)
        assert [one.id for one in other.prune(NOTHING).pruned] == [base.id]
        assert other.gc().chunks > 20
        held.go_on.set()
        made = pending.result(60)
        assert_same(state(1), repo.load(made.id))
        assert other.gc().commits == 0
        assert_same(state(1), other.load("main"))
        report = other.fsck(read_data=True)
        assert report.ok, report.findings


def test_a_branch_that_is_deleted_and_collected_under_its_commit_in_flight_is_told_as_moved(
    tmp_path, monkeypatch
) -> None:
    with casckpt.open(tmp_path / "store", chunk_size=4096) as other:
        other.commit({"other": torch.zeros(3000)})
        other.branch("lane")
        with casckpt.open(other.path, branch="lane") as repo:
            repo.commit(state(0))
            held = Held(monkeypatch)
            pending = repo.commit_async(state(1), step=1)
            assert held.there.wait(60)
            other.delete_branch("lane")
            other.expire_reflog()
            assert other.gc().commits == 1
            held.go_on.set()
            with pytest.raises(RefMovedError):
                pending.result(60)
            repo.switch("main")
            repo.commit(state(2), step=2)
            assert_same(state(2), other.load("main"))
        assert other.fsck(read_data=True).ok
