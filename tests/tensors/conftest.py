"""A repository for each test, on the model or on the LMDB store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import casckpt
from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository


@pytest.fixture
def repo(tmp_path) -> Iterator[Repository]:
    """On LMDB, with small chunks."""
    with casckpt.open(tmp_path / "store", chunk_size=1024) as opened:
        yield opened


@pytest.fixture
def model_repo() -> Repository:
    """On the in-memory model, for tests that ask much of history and nothing of the disk."""
    return Repository(MemoryStore(chunk_size=256))
