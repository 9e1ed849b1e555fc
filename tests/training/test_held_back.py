"""A training run whose file grows because somebody reads an old snapshot says so, once of each."""

from __future__ import annotations

from types import SimpleNamespace

import casckpt
from casckpt.store.protocol import HeldBack
from casckpt.training.upkeep import Upkeep


def test_who_holds_much_back_is_told_of_once(tmp_path, monkeypatch) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        upkeep = Upkeep(repo, casckpt.Keep(last=1), clock=lambda: 0.0)
        held = [
            None,
            HeldBack(1 << 20, 5, "process 8 on here"),
            HeldBack(1 << 30, 5, "this process"),
            HeldBack(1 << 30, 5, "process 8 on here"),
            HeldBack(1 << 31, 9, "process 8 on here"),
            HeldBack(1 << 30, 5, "process 9 on here"),
        ]
        for step, one in enumerate(held):
            repo.commit({"w": step})
            repo.commit({"w": step + 100})
            monkeypatch.setattr(repo, "gc", lambda one=one, **_: SimpleNamespace(held=one))
            upkeep.run()
        assert [note.split(" before ")[1].split(" has done")[0] for note in upkeep.notes] == [
            "process 8 on here",
            "process 9 on here",
        ]
        assert "1024 MiB that are free" in upkeep.notes[0]
