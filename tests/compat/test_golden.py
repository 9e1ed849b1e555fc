"""Stores written by released versions stay readable, and the bytes of a tree are the same on every machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import casckpt
from casckpt.errors import PrunedCommitError, ReleasedPartError
from casckpt.objects.ids import SCHEMES, Kind, id_scheme
from casckpt.objects.tree import write_tree
from casckpt.store.format import FORMAT_VERSION
from casckpt.tensors.flatten import flatten
from tests.compat.reader.store import Store
from tests.compat.states import states
from tests.equality import assert_same

HERE = Path(__file__).parent
STORES = [f"v{version}-{hash}" for version in range(1, FORMAT_VERSION + 1) for hash in SCHEMES]


@pytest.fixture(params=STORES)
def repo(request, tmp_path):
    shutil.copytree(HERE / request.param, tmp_path / "store")
    with casckpt.open(tmp_path / "store", create=False) as opened:
        yield opened


def test_every_commit_of_a_golden_store_is_what_was_saved(repo) -> None:
    first, second, third = states()
    assert repo.current_branch == "other"
    log = list(repo.log())
    assert [(c.message, c.step, c.pruned, c.released) for c in log] == [
        ("third", 4, False, ()),
        ("second", 3, False, ()),
        ("pruned", 2, True, ()),
        ("first", 1, False, ("optimizer",)),
    ]
    assert log[-1].metrics == {"loss": 2.0} and log[-1].meta == {"git": "a1b2c3", "n": [1, 2.5]}
    assert_same(third, repo.load("HEAD"))
    assert_same(second, repo.load("main"))
    assert_same({"model": first["model"]}, repo.load("start", paths="model"))
    with pytest.raises(ReleasedPartError):
        repo.load("start")
    with pytest.raises(PrunedCommitError):
        repo.load("step:2")


def test_a_golden_store_can_be_written_to(repo) -> None:
    made = repo.commit(states()[2], "again")
    assert made.figures.new_chunks == 0
    repo.gc()
    assert_same(states()[2], repo.load())


def test_the_same_state_has_the_same_tree_everywhere(repo) -> None:
    """What another machine wrote into the golden stores is what this one computes."""
    made = repo.commit(states()[2], "again")
    assert made.tree == repo.resolve("step:4").tree


def test_the_tree_of_a_plain_state_has_a_known_id() -> None:
    scheme = id_scheme("xxh3_128")
    flat = flatten({"a": 1, "b": [1.5, "x", b"y", None, True, (2**70,)], 0: {"nested": {1, 2}}})
    assert (
        write_tree(flat.value, (), lambda raw: scheme.digest(Kind.TREE, raw)).hex()
        == "b79452d03d4a09e804ab47f33d755496"
    )


def test_a_store_of_format_1_that_is_only_looked_at_gets_what_format_2_needs_once_and_counts_it(tmp_path: Path) -> None:
    shutil.copytree(HERE / "v1-xxh3_128", tmp_path / "store")

    def counter() -> int:
        return int.from_bytes(Store(tmp_path / "store")._spaces["meta"][b"counter"], "big")

    before = counter()
    for _ in range(2):
        with casckpt.open(tmp_path / "store", create=False) as repo:
            assert list(repo.log())
    assert counter() == before + 1
