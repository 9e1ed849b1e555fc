"""ls names every leaf of a state once, with the bytes and chunks that it has, and reads no chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from casckpt.errors import PrunedCommitError
from casckpt.history.fetch import Objects
from casckpt.history.listing import LONG_LIST, Leaf, describe
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.objects.ids import Kind
from casckpt.objects.paths import keys, leaves
from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository
from tests.history.world import commit
from tests.strategies import states


def told(history: History, *arguments: object) -> dict[str, Leaf]:
    found = history.ls(*arguments)
    assert len({leaf.path for leaf in found}) == len(found)
    return {leaf.path: leaf for leaf in found}


def test_each_leaf_is_told_with_its_bytes_and_chunks(history: History) -> None:
    commit(history, {"model": {"w": b"w" * 600, "small": b"s" * 5}, "optimizer": {"m": b"m" * 256}})
    found = told(history)
    assert list(found) == ["model.w", "model.small", "optimizer.m"]
    assert found["model.w"] == Leaf("model.w", "tensor", "uint8 [600]", 600, 3, None, "uint8", (600,))
    assert (found["model.small"].nbytes, found["model.small"].chunks) == (5, 0)
    assert sum(leaf.chunks for leaf in found.values()) == 3
    assert list(told(history, "HEAD", "model.*")) == ["model.w", "model.small"]
    assert list(told(history, "HEAD", ["*.m", "model.w"])) == ["model.w", "optimizer.m"]
    assert told(history, "HEAD", "nothing") == {}


def test_no_chunk_is_read(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(history, {"model": {"w": b"w" * 600}})
    frame = Objects.frame

    def no_chunk(self: Objects, kind: Kind, oid: bytes) -> memoryview:
        assert kind is not Kind.CHUNK
        return frame(self, kind, oid)

    monkeypatch.setattr(Objects, "frame", no_chunk)
    assert len(history.ls()) == 1


def test_what_was_released_is_told_as_such(history: History) -> None:
    for n in range(3):
        commit(history, {"model": {"w": bytes([n]) * 300}, "optimizer": {"m": bytes([n]) * 300}})
    history.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    history.gc()
    found = told(history, "HEAD~1")
    assert {path: leaf.kind for path, leaf in found.items()} == {"model.w": "tensor", "optimizer": "released"}
    assert list(told(history, "HEAD~1", "model.*")) == ["model.w"]
    assert list(told(history, "HEAD~1", "opt*")) == ["optimizer"]
    assert list(told(history, "HEAD~1", "optimizer.m")) == ["optimizer"]
    with pytest.raises(PrunedCommitError):
        history.ls("HEAD~2")


def test_tensors_that_share_a_storage_are_told_and_counted_once() -> None:
    repo = Repository(MemoryStore(chunk_size=256))
    weight = torch.zeros(100)
    repo.commit({"wte": weight, "head": weight, "half": weight[:50], "equal": torch.zeros(100)})
    found = told(repo)
    assert {path: leaf.shares for path, leaf in found.items()} == {
        "wte": None, "head": "wte", "half": "wte", "equal": None,
    }  # fmt: skip
    assert [leaf.nbytes for leaf in found.values()] == [400, 0, 0, 400]


def test_long_lists_and_metadata_are_one_leaf_each() -> None:
    repo = Repository(MemoryStore(chunk_size=256))
    long = list(range(LONG_LIST + 1))
    repo.commit({"order": long, "short": long[:2], "tuple": tuple(long), "mixed": [*long, torch.zeros(1)],
                 "net": torch.nn.Linear(2, 2).state_dict(), "size": torch.Size([3]), "empty": {}})  # fmt: skip
    found = told(repo)
    assert found["order"].what.startswith(f"{LONG_LIST + 1} values: [0, 1, 2")
    assert found["tuple"].what.startswith(f"{LONG_LIST + 1} values: (0, 1, 2")
    assert found["short.0"].what == "0"
    assert "mixed.17" in found
    assert found["net.metadata(None)"].what == "ordered_dict {'': {'version': 1}}"
    assert found["empty"].what == "{}"
    assert "net.weight" in found


def test_a_state_that_is_one_leaf_or_none() -> None:
    repo = Repository(MemoryStore(chunk_size=256))
    repo.commit(torch.zeros(3))
    assert [(leaf.path, leaf.what) for leaf in repo.ls()] == [("", "float32 [3]")]
    repo.commit({})
    assert repo.ls() == []
    repo.commit(None)
    assert [(leaf.path, leaf.what) for leaf in repo.ls()] == [("", "None")]


@settings(max_examples=60, deadline=None)
@given(states())
def test_every_record_of_a_state_is_told_and_bytes_add_up(state: object) -> None:
    from casckpt.objects.node import NodeRef
    from casckpt.objects.tree import expand
    from casckpt.objects.values import ArrayRecord, BlobRecord, TensorRecord

    repo = Repository(MemoryStore(chunk_size=256))
    made = repo.commit(state)
    found = repo.ls()
    assert made.figures is not None
    assert sum(leaf.nbytes for leaf in found) >= made.figures.logical  # numpy scalars in sets stand in trees
    with repo.store.read() as reader:
        objects = Objects(reader, repo.scheme)
        value = expand(objects.tree(bytes.fromhex(made.tree)), objects.tree)
    records = [
        (path, leaf) for path, leaf in leaves(value) if isinstance(leaf, (TensorRecord, ArrayRecord, BlobRecord))
    ]
    assert [leaf.path for leaf in found if leaf.kind != "value"] == [path for path, _ in records]
    assert all(leaf.what == describe(record) for leaf, (_, record) in zip(
        (leaf for leaf in found if leaf.kind != "value"), records, strict=True))  # fmt: skip
    stored = {
        ("alias", leaf.alias)
        if isinstance(leaf, TensorRecord) and leaf.alias is not None
        else ("path", path): leaf.storage.length if isinstance(leaf.storage, NodeRef) else len(leaf.storage)
        for path, leaf in records
    }
    assert sum(leaf.nbytes for leaf in found) == sum(stored.values())
    assert sum(part.tensors + part.values for part in repo.parts()) == max(len(found), 0)


def test_keys_of_a_path() -> None:
    assert keys("model.a\\.b.0") == ["model", "a\\.b", "0"]
    assert keys("") == [""]
    assert keys("a\\\\.b") == ["a\\\\", "b"]
    assert keys("a..b") == ["a", "", "b"]
