"""Going back when it goes wrong, and when somebody else moved the branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import casckpt
from casckpt.errors import RefMovedError, RestoreMismatchError, StateError
from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository


class Moody:
    """Its state is taken, and one value of it is refused."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["value"] == 1:
            raise KeyError("no")
        self.value = state["value"]


def test_a_mixture_left_by_a_failed_rollback_is_never_committed() -> None:
    repo = Repository(MemoryStore())
    model, moody = torch.nn.Linear(2, 2), Moody()
    with casckpt.Checkpointer(repo, model=model, moody=moody, signals=(), every_steps=1) as ckpt:
        for step in (1, 2):
            moody.value = step
            ckpt.step(step)
            torch.nn.init.constant_(model.weight, step)
        ckpt.wait()
        tip = repo.resolve().id
        with pytest.raises(RestoreMismatchError) as caught:
            ckpt.rollback("step:1")
        assert caught.value.partly_restored
        assert repo.resolve().id == tip
        for commit in (lambda: ckpt.step(3), lambda: ckpt.save(3)):
            with pytest.raises(StateError, match="mixture"):
                commit()
        assert ckpt.resume() == 2
        ckpt.step(3)
        ckpt.wait()
        assert [c.step for c in repo.log()] == [3, 2, 1]


def test_what_does_not_fit_changes_nothing_and_training_may_go_on() -> None:
    repo = Repository(MemoryStore())
    repo.commit({"model": {"weight": torch.ones(3)}}, step=1)
    model = torch.nn.Linear(2, 2)
    with casckpt.Checkpointer(repo, model=model, signals=(), every_steps=1) as ckpt:
        with pytest.raises(RestoreMismatchError) as caught:
            ckpt.resume(only=["model"])
        assert not caught.value.partly_restored
        ckpt.step(2)
    assert repo.resolve().step == 2


def test_resume_goes_on_from_where_somebody_else_moved_the_branch() -> None:
    repo = Repository(MemoryStore())
    model = torch.nn.Linear(2, 2)
    with casckpt.Checkpointer(repo, model=model, signals=(), every_steps=1) as ckpt:
        for step in (1, 2, 3):
            ckpt.step(step)
        ckpt.wait()
        Repository(repo.store).rollback("step:1")
        ckpt.step(4)
        with pytest.raises(RefMovedError):
            ckpt.resume()
        assert ckpt.resume() == 1
        ckpt.step(2)
        ckpt.wait()
        assert [c.step for c in repo.log()] == [2, 1]
