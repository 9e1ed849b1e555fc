"""A state put together of two commits has the tree that it would have if both had been loaded, merged and saved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import casckpt
from casckpt.errors import UnknownRevisionError
from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository
from tests.equality import assert_same
from tests.strategies import leaves, tensors


def test_ties_are_told_anew(model_repo: Repository) -> None:
    """Both commits number their ties from 0; put together they must not become one."""
    a, b, c = torch.zeros(100), torch.ones(100), torch.full((100,), 2.0)
    model_repo.commit({"head": {"x": a, "y": a}, "tail": {"x": b, "y": b}, "across": [c, a]})
    model_repo.commit({"head": {"x": b, "y": b}, "tail": {"x": c, "y": c}, "across": [a, c]})
    for parts in (["head"], ["tail"], ["across"], ["across", "tail"]):
        newest, other = model_repo.load("main"), model_repo.load("main~1")
        merged = {**newest, **{part: other[part] for part in other if part in parts}}
        made = model_repo.reinstate("main~1", parts=parts)
        assert_same(model_repo.load("main"), merged)
        again = model_repo.commit(merged)
        assert made.tree == again.tree
        model_repo.rollback("main~2")


@st.composite
def parts(draw: st.DrawFn) -> dict[str, Any]:
    """Parts of a state, some of them with ties in them and across them."""
    tied = draw(st.lists(tensors(["float32"]), max_size=3))
    inside = st.one_of(leaves(), st.sampled_from(tied)) if tied else leaves()
    return draw(st.dictionaries(st.sampled_from("abc"), st.lists(inside, max_size=3)))


@settings(max_examples=60, deadline=None)
@given(parts(), parts(), st.sets(st.sampled_from("abc")))
def test_any_parts_of_any_states(old: dict[str, Any], new: dict[str, Any], chosen: set[str]) -> None:
    repo = Repository(MemoryStore(chunk_size=256))
    repo.commit(old)
    repo.commit(new)
    names = [part for part in old if part in chosen]
    newest, other = repo.load("main"), repo.load("main~1")
    merged = {**newest, **{part: other[part] for part in names}}
    made = repo.reinstate("main~1", parts=names)
    assert_same(repo.load("main"), merged)
    again = repo.commit(merged)
    assert_same(repo.load("main"), merged)
    assert again.tree == made.tree


def test_a_commit_behind_it_builds_on_what_is_there(repo: Repository) -> None:
    """What a handle remembers of its last commit is not what the branch has now."""
    first, second = torch.zeros(5000), torch.ones(5000)
    repo.commit({"w": first})
    repo.commit({"w": second})
    made = repo.reinstate("main~1")
    assert made.figures is not None
    assert made.figures.new_chunks == 0
    half = torch.cat([first[:2500], second[2500:]])
    repo.commit({"w": half})
    assert torch.equal(repo.load("main")["w"], half)
    with casckpt.open(repo.path, create=False) as other:
        assert torch.equal(other.load("main")["w"], half)
        assert torch.equal(other.load("main~1")["w"], first)
    with pytest.raises(UnknownRevisionError):
        repo.reinstate("nope")
