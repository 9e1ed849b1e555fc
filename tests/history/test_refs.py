"""Branches, tags, the reflog and rollback: who moves what, and what moves nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from casckpt.errors import (
    InvalidRefNameError,
    RefError,
    RefExistsError,
    RefMovedError,
    RefNotFoundError,
    StateError,
    UnknownRevisionError,
    UnsupportedTypeError,
)
from casckpt.history.commits import Commit
from casckpt.history.plain import from_value, to_map
from casckpt.history.repository import History
from tests.history.world import commit, load


def state(n: int) -> dict[str, dict[str, bytes]]:
    return {"model": {"w": bytes([n]) * 300}}


def test_a_commit_follows_the_last_one_and_says_what_it_was_told(history) -> None:
    first = commit(history, state(1), "first", 7, metrics={"loss": 0.5})
    second = commit(history, state(2), "second")
    assert isinstance(second, Commit)
    assert (first.parents, second.parents) == ((), (first.id,))
    assert (first.step, first.metrics, first.message, first.branch, first.host) == (
        7,
        {"loss": 0.5},
        "first",
        "main",
        "here",
    )
    assert second.step is None and second.metrics == {}
    assert first.time <= second.time and first.time.tzinfo is not None
    assert [c.id for c in history.log()] == [second.id, first.id]
    assert [c.id for c in history.log(limit=1)] == [second.id]
    assert list(history.log(limit=0)) == []


def test_figures_tell_new_from_shared(history) -> None:
    first = commit(history, {"model": {"a": b"a" * 600, "b": b"b" * 600}})
    second = commit(history, {"model": {"a": b"a" * 600, "b": b"c" * 600}})
    assert (first.figures.logical, first.figures.new, first.figures.chunks) == (1200, 2 * (256 + 88), 6)
    assert (second.figures.logical, second.figures.new, second.figures.new_chunks) == (1200, 256 + 88, 2)


def test_a_long_log_is_read_page_by_page(history) -> None:
    ids = [commit(history, state(n % 7), f"c{n}").id for n in range(300)]
    assert [c.id for c in history.log()] == ids[::-1]
    reading = history.log()
    next(reading)
    history.close()  # a half-read log holds no transaction, so this does not wait for ever


def test_branches_go_their_own_ways(history) -> None:
    base = commit(history, state(0))
    history.branch("try")
    main = commit(history, state(1))
    history.switch("try")
    tried = commit(history, state(2))
    assert tried.parents == main.parents == (base.id,)
    assert tried.branch == "try"
    assert {c.id for c in history.log(None)} == {base.id, main.id, tried.id}
    assert [(r.kind, r.name, r.commit, r.current) for r in history.refs()] == [
        ("branch", "main", main.id, False),
        ("branch", "try", tried.id, True),
    ]


def test_switching_never_moves_another_handle(store) -> None:
    one, two = History(store), History(store)
    commit(one, state(0))
    one.branch("try")
    one.switch("try")
    assert (one.current_branch, two.current_branch) == ("try", "main")
    assert History(store).current_branch == "try"
    assert History(store, branch="main").current_branch == "main"


def test_the_loser_of_a_race_is_told_and_loses_nothing(store) -> None:
    one, two = History(store), History(store)
    won = commit(one, state(1))
    with pytest.raises(RefMovedError, match="main") as caught:
        commit(two, state(2))
    assert caught.value.ref == "main" and "switch" in caught.value.remedy
    assert [c.id for c in two.log()] == [won.id]
    with store.read() as reader:
        from casckpt.store.protocol import Space

        assert reader.count(Space.CHUNK) == 4  # the chunks of the loser wait for the retry
    two.switch("main")
    again = commit(two, state(2))
    assert again.parents == (won.id,) and again.figures.new_chunks == 0


def test_a_rollback_under_a_running_handle_stops_it(store) -> None:
    training, person = History(store), History(store)
    ids = []
    for n in range(3):
        ids.append(commit(training, state(n)).id)
    person.switch("main")
    person.rollback("main~2")
    with pytest.raises(RefMovedError):
        commit(training, state(3))
    with pytest.raises(RefMovedError):
        training.rollback("main")
    assert history_ids(person) == ids[:1]


def history_ids(history: History) -> list[str]:
    return [c.id for c in history.log()]


def test_rollback_is_remembered_and_can_be_undone(history) -> None:
    made = [commit(history, state(n)) for n in range(3)]
    assert history.rollback("HEAD~2").id == made[0].id
    assert history_ids(history) == [made[0].id]
    entry = history.reflog("main", limit=1)[0]
    assert (entry.old, entry.new, entry.action) == (made[2].id, made[0].id, "rollback to HEAD~2")
    history.rollback("main@{1}")
    assert load(history, "HEAD") == state(2)
    assert len(history.reflog("main")) == 5
    assert history.reflog("other") == []


def test_an_expired_reflog_forgets(history) -> None:
    made = [commit(history, state(n)) for n in range(3)]
    history.rollback("HEAD~2")
    assert history.expire_reflog(older_than=timedelta(days=1)) == 0
    assert history.expire_reflog(branch="other") == 0
    assert history.expire_reflog() == 4
    assert history.reflog() == []
    assert history.gc().commits == 2
    with pytest.raises(UnknownRevisionError):
        history.resolve(made[2].id)
    assert load(history, "HEAD") == state(0)
    commit(history, state(5))
    assert len(history.reflog()) == 1


def test_refs_that_cannot_be_made_or_deleted(history) -> None:
    commit(history, state(0))
    history.tag("v1")
    for wrong in (lambda: history.tag("v1"), lambda: history.branch("main")):
        with pytest.raises(RefExistsError):
            wrong()
    for name in ("", "a b", "../x", "HEAD", "-x", "a//b", "x" * 201, "a:b", "é\u202e", "a\0", "x/.y", "x.", "*"):
        with pytest.raises(InvalidRefNameError) as caught:
            history.branch(name)
        assert caught.value.ref == name
    for wrong in (lambda: history.delete_tag("v2"), lambda: history.delete_branch("b"), lambda: history.switch("b")):
        with pytest.raises(RefNotFoundError):
            wrong()
    with pytest.raises(RefError, match="current"):
        history.delete_branch("main")
    history.delete_tag("v1")
    assert [r.name for r in history.refs()] == ["main"]


def test_the_branch_of_head_is_not_deleted_by_a_handle_elsewhere(store) -> None:
    one = History(store)
    commit(one, state(0))
    one.branch("b")
    two = History(store, branch="b")
    with pytest.raises(RefError, match="current"):
        two.delete_branch("main")


def test_switch_can_make_the_branch(history) -> None:
    made = commit(history, state(0))
    history.switch("new", create=True)
    assert history.current_branch == "new"
    assert history.resolve().id == made.id
    with pytest.raises(RefExistsError):
        history.switch("main", create=True)


def test_an_unborn_branch_can_be_bound_and_gets_its_own_root(store) -> None:
    history = History(store, branch="fresh")
    assert list(history.log()) == []
    made = commit(history, state(0))
    assert made.parents == () and made.branch == "fresh"


def test_a_handle_is_a_context_manager_and_shows_itself(store) -> None:
    with History(store) as history:
        assert "main" in repr(history) and history.path in repr(history)


def test_metadata_is_plain_and_comes_back_equal() -> None:
    meta = {"git": "a1b2", "n": [1, 2.5, None, (True, b"x")], "nested": {"k": 2**70}}
    assert from_value(to_map(meta)) == meta
    for wrong, path in (({"a": {1, 2}}, "meta.a"), ({"a": {1: 2}}, "meta.a"), ({"a": [object()]}, "meta.a.0")):
        with pytest.raises(UnsupportedTypeError) as caught:
            to_map(wrong)
        assert caught.value.path == path
    with pytest.raises(StateError, match="bytes"):
        to_map({"a": "x" * 300_000})
    deep: list = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(StateError, match="nested"):
        to_map({"a": deep})
