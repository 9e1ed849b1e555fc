"""Checkpoints as training scripts write them, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


def state(step: int) -> dict[str, Any]:
    """A state that is nearly the same at each step."""
    frozen = torch.arange(4096, dtype=torch.float32)
    return {"model": {"frozen": frozen, "w": torch.full((2000,), float(step))}, "epoch": step // 10}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`step_9.pt`, `step_10.pt` and `step_100.pt`."""
    place = tmp_path / "run"
    place.mkdir()
    for step in (100, 9, 10):
        torch.save(state(step), place / f"step_{step}.pt")
    return place
