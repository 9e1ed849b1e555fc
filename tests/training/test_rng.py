"""Generators: captured without being touched, put back to the bit, and left alone where they are not in use."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from casckpt.errors import RestoreMismatchError
from casckpt.training import rng


def draws() -> tuple[Any, ...]:
    return random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))


def test_the_global_generators_come_back() -> None:
    draws()
    state = rng.capture()
    expected = draws(), draws()
    rng.check(state)
    rng.restore(state)
    assert (draws(), draws()) == expected
    rng.check(state)
    rng.restore(state)
    rng.capture()
    assert (draws(), draws()) == expected


class Owner:
    def __init__(self) -> None:
        self.torch = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(2)
        self.old = np.random.RandomState(3)
        self.python = random.Random(4)
        self.same = self.torch
        self.other = 5

    def draws(self) -> list[float]:
        return [
            float(torch.rand((), generator=self.torch)),
            float(self.numpy.random()),
            float(self.old.rand()),
            self.python.random(),
        ]


def test_generators_of_every_kind_are_found_once_and_come_back() -> None:
    owner = Owner()
    found = rng.own_generators((owner, owner, None, 5))
    assert found == [owner.torch, owner.numpy, owner.old, owner.python]
    states = rng.capture_own(found)
    expected = owner.draws()
    rng.restore_own(found, states, "rng.loader")
    assert owner.draws() == expected
    with pytest.raises(RestoreMismatchError, match=r"at rng\.loader: 4 generators"):
        rng.restore_own(found[:2], states, "rng.loader")
    with pytest.raises(RestoreMismatchError, match=r"at rng\.loader\.0: the generator does not take"):
        rng.restore_own(found, states[::-1], "rng.loader")


def test_generators_of_devices_are_captured_only_where_they_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = [torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([3, 4], dtype=torch.uint8)]
    mps = [torch.tensor([5], dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert "cuda" not in rng.capture()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cuda))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: cuda[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: cuda.__setitem__(device, state))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: mps[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: mps.__setitem__(0, state))
    state = rng.capture()
    assert [held.tolist() for held in state["cuda"]] == [[1, 2], [3, 4]]
    expected = [*cuda, *mps]
    cuda[:] = [torch.zeros(2)]
    mps[:] = [torch.zeros(1)]
    rng.restore(state)
    assert cuda[0] is expected[0], "what is there is put back"
    assert len(cuda) == 1
    assert mps[0] is expected[2]
