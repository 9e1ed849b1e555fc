"""A policy keeps what its rules say, for the reasons that it gives, and nothing else."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import PolicyError, PrunedCommitError
from casckpt.history.retention import Candidate, Keep, decide
from casckpt.objects.commit import CommitObject
from casckpt.objects.values import Map
from casckpt.store.protocol import Space
from tests.history.world import commit, is_pruned, load

HOUR = 3600 * 10**9


def candidate(number: int, *, step=None, hours=0.0, tags=(), branches=(), **metrics: float) -> Candidate:
    stored = CommitObject(b"", (), "main", step, tuple(metrics.items()), "", int(hours * HOUR), "here", Map(()))
    return Candidate(bytes([number]), stored, tags, branches)


def kept(keep: Keep, line: list[Candidate]) -> list[int]:
    return sorted(oid[0] for oid in decide(keep, line))


def newest_first(*candidates: Candidate) -> list[Candidate]:
    return list(reversed(candidates))


def test_last_and_first() -> None:
    line = newest_first(*[candidate(n) for n in range(10)])
    assert kept(Keep(last=3), line) == [7, 8, 9]
    assert kept(Keep(first=2), line) == [0, 1]
    assert kept(Keep(last=3, first=20), line) == list(range(10))


def test_every_steps_keeps_the_first_of_each_bucket() -> None:
    line = newest_first(*[candidate(n, step=s) for n, s in enumerate([0, 7, 10, 19, 20, 21, 40, None])])
    assert kept(Keep(every_steps=10), line) == [0, 2, 4, 6]


def test_every_span_of_time_keeps_the_first_of_each() -> None:
    line = newest_first(*[candidate(n, hours=h) for n, h in enumerate([0.1, 0.5, 1.2, 1.9, 3.0, 25.0])])
    assert kept(Keep(every="1h"), line) == kept(Keep(every=timedelta(hours=1)), line) == [0, 2, 4, 5]
    assert kept(Keep(every="1d"), line) == [0, 5]


def test_best_counts_neither_nan_nor_missing_and_prefers_the_earlier() -> None:
    line = newest_first(
        candidate(0, loss=2.0),
        candidate(1, loss=1.0),
        candidate(2, loss=math.nan),
        candidate(3),
        candidate(4, loss=1.0),
    )
    assert kept(Keep(best={"loss": ("min", 1)}), line) == [1]
    assert kept(Keep(best={"loss": ("min", 2)}), line) == [1, 4]
    assert kept(Keep(best={"loss": ("max", 1)}), line) == [0]
    assert decide(Keep(best={"loss": ("min", 2)}), line)[bytes([4])] == ["min loss, 2 of 2"]


def test_tags_and_tips_are_kept_unless_said_otherwise() -> None:
    line = newest_first(
        candidate(0, tags=("v1",)), candidate(1, tags=("rc",)), candidate(2), candidate(3, branches=("m",))
    )
    assert kept(Keep(first=1), line) == [0, 1, 3]
    assert kept(Keep(first=1, tags=False), line) == [0, 3]
    assert kept(Keep(tags=["v*"], branches=False), line) == [0]
    assert kept(Keep(tags=True, branches=["x*"]), line) == [0, 1]
    assert decide(Keep(last=1), line)[bytes([3])] == ["tip of m", "last 1"]


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"tags": False},
        {"last": -1},
        {"last": True},
        {"first": 1.5},
        {"every_steps": 0},
        {"every": "soon"},
        {"every": "0h"},
        {"every": timedelta(0)},
        {"best": {"loss": ("least", 1)}},
        {"best": {"loss": ("min", 0)}},
        {"best": {"loss": "min"}},
    ],
)
def test_an_empty_or_nonsensical_policy_is_refused(rules) -> None:
    with pytest.raises(PolicyError) as caught:
        Keep(**rules)
    assert caught.value.remedy


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(allow_infinity=False)), max_size=20),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(1, 20),
)
def test_a_policy_applied_twice_changes_nothing_more(commits, last, first, every) -> None:
    line = newest_first(
        *[candidate(n, step=step, loss=loss) for n, (step, loss) in enumerate(sorted(commits, key=lambda c: c[0]))]
    )
    keep = Keep(last=last, first=first, every_steps=every, best={"loss": ("min", 2)})
    left = [c for c in line if c.id in decide(keep, line)]
    assert [c.id for c in left if c.id in decide(keep, left)] == [c.id for c in left]


# -- on a store


def four(history) -> list:
    return [
        commit(history, {"model": {"w": bytes([n]) * 600}, "optimizer": {"m": bytes([n + 9]) * 900}}, f"c{n}", n)
        for n in range(4)
    ]


def test_prune_says_why_and_leaves_commits_in_the_log(history) -> None:
    made = four(history)
    history.tag("v1", at=made[0].id)
    report = history.prune(Keep(last=1))
    assert [(d.id, d.reasons) for d in report.kept] == [
        (made[3].id, ("tip of main", "last 1")),
        (made[0].id, ("tag v1",)),
    ]
    assert [d.id for d in report.pruned] == [made[2].id, made[1].id]
    assert [c.pruned for c in history.log()] == [False, True, True, False]
    assert [is_pruned(history, c.id) for c in made] == [False, True, True, False]


def test_a_dry_run_releases_nothing(history) -> None:
    four(history)
    report = history.prune(Keep(last=1), dry_run=True)
    assert report.dry_run and len(report.pruned) == 3
    assert not any(c.pruned for c in history.log())


def test_parts_are_released_one_by_one(history) -> None:
    made = four(history)
    report = history.prune(Keep(last=3, parts={"optimizer": Keep(last=1), "nothing": Keep(last=1)}))
    assert [(d.kept, d.released) for d in report.decisions] == [
        (True, ()),
        (True, ("optimizer",)),
        (True, ("optimizer",)),
        (False, ()),
    ]
    history.gc()
    assert set(load(history, made[3].id)) == {"model", "optimizer"}
    assert load(history, made[2].id) == {"model": {"w": bytes([2]) * 600}}
    assert history.resolve(made[1].id).released == ("optimizer",)
    again = history.prune(Keep(last=3, parts={"optimizer": Keep(last=1)}))
    assert not again.changes


def test_the_same_tree_may_be_whole_in_one_commit_and_released_in_another(history) -> None:
    state = {"model": {"w": b"a" * 600}, "optimizer": {"m": b"b" * 600}}
    first, second = commit(history, state, "first"), commit(history, state, "second")
    assert first.tree == second.tree
    history.prune(Keep(parts={"optimizer": Keep(last=1)}))
    history.gc()
    assert load(history, second.id) == state
    assert load(history, first.id) == {"model": state["model"]}
    commit(history, {"model": {}, "optimizer": {}}, "third")
    history.prune(Keep(last=3, parts={"optimizer": Keep(last=1)}))
    report = history.gc()
    assert report.chunks == 2  # 600 bytes of one value: a full chunk, twice the same, and the rest
    assert load(history, second.id) == {"model": state["model"]}


def test_abandoned_lines_are_thinned_by_the_same_policy(history) -> None:
    made = four(history)
    history.rollback(made[0].id)
    commit(history, {"model": {}}, "new")
    history.prune(Keep(last=2))
    assert {c.message: is_pruned(history, c.id) for c in made} == {"c0": False, "c1": True, "c2": False, "c3": False}


def test_a_commit_that_came_after_the_decision_is_decided_too(history, monkeypatch) -> None:
    made = four(history)
    other = type(history)(history.store)
    write = history.store.write

    def late(**how):
        monkeypatch.setattr(history.store, "write", write)
        other.tag("late", at=made[0].id)
        return write(**how)

    monkeypatch.setattr(history.store, "write", late)
    report = history.prune(Keep(last=1))
    assert made[0].id in {d.id for d in report.kept}
    assert not is_pruned(history, made[0].id)


def test_a_slower_prune_gives_nothing_back_that_a_quicker_one_released(history, monkeypatch) -> None:
    made = four(history)
    other = type(history)(history.store)
    write = history.store.write

    def late(**how):
        monkeypatch.setattr(history.store, "write", write)
        other.prune(Keep(last=1))
        other.gc()
        return write(**how)

    monkeypatch.setattr(history.store, "write", late)
    history.prune(Keep(last=4, parts={"optimizer": Keep(last=1)}))
    assert [is_pruned(history, c.id) for c in made] == [True, True, True, False]
    assert history.gc().chunks == 0


def test_a_decision_on_a_commit_that_gc_has_taken_leaves_no_mark(history, monkeypatch) -> None:
    made = four(history)
    history.rollback(made[0].id)
    other = type(history)(history.store)
    write = history.store.write

    def late(**how):
        monkeypatch.setattr(history.store, "write", write)
        other.expire_reflog()
        other.gc()
        return write(**how)

    monkeypatch.setattr(history.store, "write", late)
    history.prune(Keep(first=1))
    with history.store.read() as reader:
        assert reader.count(Space.MARK) == 0 and reader.count(Space.COMMIT) == 1


def test_a_pruned_commit_cannot_be_pointed_at(history) -> None:
    made = four(history)
    history.prune(Keep(last=1))
    for move in (lambda r: history.branch("b", at=r), lambda r: history.tag("t", at=r), history.rollback):
        with pytest.raises(PrunedCommitError, match=made[0].id[:12]):
            move(made[0].id)
    assert [ref.name for ref in history.refs()] == ["main"]
