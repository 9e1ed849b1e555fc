"""Every way to name a commit finds it, and what names none says why."""

from __future__ import annotations

import math

import pytest

from casckpt.errors import AmbiguousRevisionError, UnknownRevisionError
from casckpt.history.retention import Keep
from casckpt.objects.ids import IdScheme
from tests.history.world import commit


@pytest.fixture
def line(history):
    """Five commits on main: steps 0, 10, 10, 20, none; losses 3, nan, 1, 1, 2."""
    losses = [3.0, math.nan, 1.0, 1.0, 2.0]
    steps = [0, 10, 10, 20, None]
    return [
        commit(history, {"model": {"w": bytes([n])}}, f"c{n}", steps[n], metrics={"loss": losses[n]}) for n in range(5)
    ]


def test_branch_tag_head_and_id_prefix(history, line) -> None:
    history.tag("v1", at="HEAD~2")
    assert history.resolve("main") == history.resolve("HEAD") == history.resolve() == line[4]
    assert history.resolve("v1").id == line[2].id
    assert history.resolve(line[3].id).id == line[3].id
    assert history.resolve(line[3].id[:9].upper()).id == line[3].id


def test_steps_back_count_pruned_commits_too(history, line) -> None:
    history.prune(Keep(last=1))
    assert history.resolve("main~3").id == line[1].id
    assert history.resolve("main^").id == history.resolve("HEAD~").id == history.resolve("HEAD~1").id == line[3].id
    assert history.resolve("main~1^~2").id == line[0].id
    assert history.resolve("main~0").id == line[4].id
    assert history.resolve("main~3").pruned


def test_going_back_past_the_first_commit_is_an_error(history, line) -> None:
    with pytest.raises(UnknownRevisionError, match=r"main~5"):
        history.resolve("main~5")


def test_reflog_positions(history, line) -> None:
    history.rollback("main~2")
    assert history.resolve("main@{0}").id == line[2].id
    assert history.resolve("main@{1}").id == history.resolve("@{1}").id == history.resolve("HEAD@{1}").id == line[4].id
    assert history.resolve("main@{2}").id == line[3].id
    assert history.resolve("main@{1}~4").id == line[0].id
    with pytest.raises(UnknownRevisionError, match=r"main@\{6\}"):
        history.resolve("main@{6}")
    with pytest.raises(UnknownRevisionError, match="other"):
        history.resolve("other@{0}")


def test_step_finds_the_newest_with_that_step(history, line) -> None:
    assert history.resolve("step:10").id == line[2].id
    assert history.resolve("step:10~1").id == line[1].id
    with pytest.raises(UnknownRevisionError, match="11"):
        history.resolve("step:11")
    with pytest.raises(UnknownRevisionError, match="step:x"):
        history.resolve("step:x")


def test_best_ignores_nan_prefers_the_earlier_and_skips_pruned(history, line) -> None:
    assert history.resolve("best:loss:min").id == line[2].id
    assert history.resolve("best:loss:max").id == line[0].id
    history.prune(Keep(last=2))
    assert history.resolve("best:loss:min").id == line[3].id
    assert history.resolve("best:loss:max").id == line[4].id


def test_best_needs_a_mode_unless_the_handle_knows_it(history, line) -> None:
    with pytest.raises(UnknownRevisionError, match="best:loss:min"):
        history.resolve("best:loss")
    history.metric_modes["loss"] = "min"
    assert history.resolve("best:loss").id == line[2].id
    with pytest.raises(UnknownRevisionError, match="accuracy"):
        history.resolve("best:accuracy:max")


def test_metric_names_may_hold_colons(history) -> None:
    made = commit(history, {"model": {}}, metrics={"val:loss": 1.0})
    assert history.resolve("best:val:loss:min").id == made.id


@pytest.mark.parametrize(
    "revision", ["", "nope", "v9", "abc", "zzzzzz", "f" * 33, "HEAD~x", "main@{}", "~", "a b", "\0"]
)
def test_what_names_nothing_is_named_in_the_error(history, line, revision) -> None:
    with pytest.raises(UnknownRevisionError) as caught:
        history.resolve(revision)
    assert caught.value.revision == revision
    assert caught.value.remedy


def test_an_id_prefix_of_several_commits_is_ambiguous(history, line, monkeypatch) -> None:
    scheme = history.scheme
    clash = IdScheme(scheme.name, scheme.size, lambda kind, data: b"\xab\xcd" + scheme.digest(kind, data)[2:])
    monkeypatch.setattr(history, "scheme", clash)
    first, second = (commit(history, {"model": {}}, f"d{n}") for n in range(2))
    with pytest.raises(AmbiguousRevisionError, match=first.id[:12]) as caught:
        history.resolve("abcd")
    assert second.id[:12] in str(caught.value)
    digits = next(n for n in range(4, 33) if first.id[:n] != second.id[:n])
    assert history.resolve(first.id[:digits]).id == first.id


def test_head_of_an_empty_store_says_that_there_is_no_commit_yet(history) -> None:
    for revision in ("HEAD", "step:1", "best:loss:min", "HEAD~1"):
        with pytest.raises(UnknownRevisionError, match="no commit yet"):
            history.resolve(revision)
    assert list(history.log()) == []
