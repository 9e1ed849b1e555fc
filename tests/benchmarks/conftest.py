"""What every test of the benchmarks needs."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def the_disk_is_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measured turn waits until the disk has taken what others gave it, here all that other tests wrote. What is
    measured counts for nothing here."""
    monkeypatch.setattr(os, "sync", lambda: None)
