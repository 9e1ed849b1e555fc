"""Stores that are made to harm: every command on them ends, with an answer or with one of casckpt's errors."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from casckpt.cli import document
from tests.trials.hostile import stores
from tests.trials.hostile.planted import PLANTS
from tests.trials.recipe import tried

SEEDS = (2, 5, 7, 8, 10, 11, 14, 16, 20, 21, 22, 28)


def test_every_command_ends_on_a_store_that_is_made_to_harm(tmp_path: Path) -> None:
    found = tried(stores.STORES, SEEDS, tmp_path)
    assert sum(found.values()) == len(SEEDS) * (len(stores.COMMANDS) + len(stores.CALLS))
    assert found["commands done"] > 100 and found["commands refused"] > 100


def test_these_stores_hold_everything_harmful() -> None:
    planted = {name for seed in SEEDS for name in stores.names_of(Random(seed))}
    assert planted == set(PLANTS)


def test_a_command_that_fails_unexpectedly_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_LONGEST", 1 << 60)
    with pytest.raises(AssertionError, match="Exceeds the limit"):
        tried(stores.STORES, (28,), tmp_path)


def test_what_a_terminal_would_obey_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casckpt.cli.commands.show.printable", str)
    with pytest.raises(AssertionError, match=r"show, of \['texts'\]"):
        tried(stores.STORES, (28,), tmp_path)
