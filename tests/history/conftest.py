"""Every test of history runs on the model and on the LMDB store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Store


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path) -> Iterator[Store]:
    made = MemoryStore(chunk_size=256) if request.param == "memory" else open_store(tmp_path / "s", chunk_size=256)
    yield made
    made.close()


@pytest.fixture
def history(store: Store) -> History:
    return History(store)
