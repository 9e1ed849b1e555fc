"""An earlier state as a new commit: it is that state, nothing is written but trees, and nothing that was given up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casckpt.errors import (
    PrunedCommitError,
    RefMovedError,
    ReleasedPartError,
    RestoreMismatchError,
    UnknownRevisionError,
)
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.world import commit, load


def runs(seed: int) -> dict[str, bytes]:
    return {"w": bytes([seed]) * 600, "small": bytes([seed]) * 5}


def chunks(history: History) -> set[bytes]:
    with history.store.read() as reader:
        return set(reader.keys(Space.CHUNK)) | set(reader.keys(Space.NODE))


@pytest.fixture
def three(history: History) -> History:
    for step in range(3):
        state = {"model": runs(step), "optimizer": runs(10 + step)}
        commit(history, state, f"at {step}", step=step, metrics={"loss": float(step)})
    return history


def test_the_whole_state_comes_back_as_a_new_commit_of_the_branch(three: History) -> None:
    before, held = three.resolve("HEAD"), chunks(three)
    made = three.reinstate("HEAD~2")
    assert made == three.resolve("HEAD")
    assert (made.tree, made.parents) == (three.resolve("HEAD~3").tree, (before.id,))
    assert (made.step, made.metrics, made.pruned) == (0, {"loss": 0.0}, False)
    assert "HEAD~2" in made.message
    assert load(three, "HEAD") == load(three, "HEAD~3")
    assert chunks(three) == held
    assert made.figures is not None
    assert (made.figures.new, made.figures.new_chunks, made.figures.logical) == (0, 0, 2 * 605)
    assert len(list(three.log())) == 4


def test_parts_come_back_and_the_rest_stays(three: History) -> None:
    held = chunks(three)
    made = three.reinstate("HEAD~2", parts=["optimizer"], message="the old moments")
    assert load(three, "HEAD") == {"model": runs(2), "optimizer": runs(10)}
    assert (made.step, made.metrics, made.message) == (2, {}, "the old moments")
    assert chunks(three) == held


def test_the_tree_is_that_of_the_merged_state(three: History) -> None:
    commit(three, {"optimizer": runs(5), "ema": runs(6)})
    made = three.reinstate("HEAD~1", parts=["model", "optimizer"])
    again = commit(three, {"optimizer": runs(12), "ema": runs(6), "model": runs(2)})
    assert made.tree == again.tree


def test_a_dry_run_says_what_it_would_be_and_does_nothing(three: History) -> None:
    before = list(three.log(None)), three.reflog(), three.stats()
    would = three.reinstate("HEAD~1", parts=["model"], dry_run=True)
    assert (would.id, would.step) == ("", 2)
    assert (list(three.log(None)), three.reflog(), three.stats()) == before
    assert three.reinstate("HEAD~1", parts=["model"]).tree == would.tree


def test_what_was_given_up_is_refused(three: History) -> None:
    three.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    with pytest.raises(PrunedCommitError):
        three.reinstate("HEAD~2")
    for parts in (None, ["optimizer"], ["model", "optimizer"]):
        with pytest.raises(ReleasedPartError) as failed:
            three.reinstate("HEAD~1", parts=parts)
        assert failed.value.parts == ("optimizer",)
    tip = three.resolve("HEAD")
    assert three.reinstate("HEAD~1", parts=["model"]).parents == (tip.id,)
    assert load(three, "HEAD") == {"model": runs(1), "optimizer": runs(12)}


def test_what_the_newest_commit_gave_up_is_refused_unless_it_comes_back(three: History) -> None:
    three.prune(Keep(last=9, parts={"optimizer": Keep(first=1, branches=False)}))
    with pytest.raises(ReleasedPartError):
        three.reinstate("HEAD~2", parts=["model"])
    three.reinstate("HEAD~2", parts=["optimizer"])
    assert load(three, "HEAD") == {"model": runs(2), "optimizer": runs(10)}


def test_nothing_is_put_together_with_a_newest_commit_that_was_pruned(three: History) -> None:
    three.prune(Keep(first=2, branches=False))
    with pytest.raises(PrunedCommitError):
        three.reinstate("HEAD~2", parts=["model"])
    three.reinstate("HEAD~2")
    assert load(three, "HEAD") == {"model": runs(0), "optimizer": runs(10)}


def test_a_part_or_commit_that_is_not_there_is_named(three: History) -> None:
    with pytest.raises(RestoreMismatchError, match="it has model, optimizer"):
        three.reinstate("HEAD~1", parts=["ema"])
    with pytest.raises(UnknownRevisionError):
        three.reinstate("nope")
    commit(three, {"a.b": runs(1), 7: runs(2)})
    with pytest.raises(RestoreMismatchError, match=r"it has a\.b$"):  # as it is asked for, and what can be asked for
        three.reinstate("HEAD", parts=["a"])
    three.reinstate("HEAD", parts=["a.b"])


def test_a_branch_that_somebody_else_moved_stays_where_it_is(three: History) -> None:
    other = History(three.store)
    commit(other, {"model": runs(9)})
    with pytest.raises(RefMovedError):
        three.reinstate("HEAD~1")
    assert three.resolve("main").id == other.resolve("main").id


def test_a_branch_without_a_commit_begins_with_the_state_that_is_restored(store) -> None:
    history = History(store)
    commit(history, {"model": runs(1), "ema": runs(2)})
    other = History(store, "new")
    other.reinstate("main", parts=["model"])
    assert load(other, "new") == {"model": runs(1)}
    assert other.resolve("new").parents == ()


@pytest.mark.parametrize("parts", [None, ["model"], ["model", "ema"]])
def test_what_gc_takes_meanwhile_is_written_again(
    store, monkeypatch: pytest.MonkeyPatch, parts: list[str] | None
) -> None:
    """The commit is pruned and collected between the look at it and the publishing."""
    from casckpt.history import reinstate as module

    history, other = History(store), History(store)
    for step in range(3):
        commit(history, {"model": runs(step), "ema": runs(10 + step)})
    expected = {"model": runs(0), "ema": runs(12 if parts == ["model"] else 10)}
    reinstate = module.reinstate

    def collected_meanwhile(ingest, commits, wanted, **options):
        other.prune(Keep(last=1))
        assert other.gc().chunks > 0
        return reinstate(ingest, commits, wanted, **options)

    monkeypatch.setattr(module, "reinstate", collected_meanwhile)
    history.reinstate("HEAD~2", parts=parts)
    assert load(history, "HEAD") == expected
    assert other.gc().chunks == 0


parts = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3).map(runs), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(parts, min_size=2, max_size=4), st.data())
def test_any_parts_of_any_commit_give_the_merged_state(states: list[dict[str, dict[str, bytes]]], data) -> None:
    history = History(MemoryStore(chunk_size=256))
    for state in states:
        commit(history, state)
    back = data.draw(st.integers(0, len(states) - 1))
    other = states[-1 - back]
    chosen = data.draw(st.lists(st.sampled_from(sorted(other)), unique=True) if other else st.just([]))
    made = history.reinstate(f"HEAD~{back}", parts=chosen)
    merged = {**states[-1], **{part: other[part] for part in other if part in chosen}}
    assert load(history, "HEAD") == merged
    assert commit(history, merged).tree == made.tree
    again = commit(history, {**merged, "more": runs(7)})
    assert load(history, again.id) == {**merged, "more": runs(7)}
