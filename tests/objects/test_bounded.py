"""A few tree objects that refer to each other over and over are told before memory is taken for what they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from casckpt.errors import CorruptObjectError, StateError
from casckpt.limits import MAX_DEPTH, MAX_REPEATED, MIB
from casckpt.objects.bounded import least
from casckpt.objects.paths import Globs, select
from casckpt.objects.tree import LIST, canonical, expand, shallow, write_tree
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Paged, TensorRecord, TreeRef, Typed, Value
from tests.trials.hostile.child import Case, in_child
from tests.trials.hostile.objects import values


def laughs(levels: int, times: int) -> dict[bytes, Value]:
    """Trees by their number: each but the last refers to the next so many times."""
    trees: dict[bytes, Value] = {bytes((n,)): [TreeRef(bytes((n + 1,)))] * times for n in range(levels)}
    return trees | {bytes((levels,)): ["leaf", 1]}


@pytest.mark.parametrize(("levels", "times"), [(40, 2), (2, 1 << 16), (90, 3)])
def test_a_billion_laughs_end_soon_and_take_little_memory(levels: int, times: int, tmp_path: Path) -> None:
    trees = laughs(levels, times)

    def work(case: Case) -> int:
        case.begin(0)
        for follow in (expand, lambda value, fetch: select(value, Globs(["*x"]), fetch)):
            with pytest.raises(CorruptObjectError, match="over and over"):
                follow(TreeRef(b"\0"), trees.__getitem__)
        return 2

    assert in_child(work, tmp_path, memory=1024 * MIB) == 2


def test_one_long_page_many_times_is_told() -> None:
    page = [None] * (MIB // 4)
    with pytest.raises(CorruptObjectError, match="over and over"):
        shallow(Paged(LIST, (b"p",) * 1000), lambda oid: page)
    assert len(shallow(Paged(LIST, (b"p",) * 3), lambda oid: page)) == 3 * MIB // 4  # type: ignore[arg-type]


def test_trees_that_lead_on_and_on_are_told_by_whoever_follows_them() -> None:
    def on(oid: bytes) -> Value:
        return [TreeRef(oid + b"+")]

    for work in (lambda: expand(TreeRef(b""), on), lambda: select(TreeRef(b""), Globs(["*x"]), on)):
        with pytest.raises(CorruptObjectError, match=f"deeper than {MAX_DEPTH}"):
            work()


def test_what_is_written_is_no_more_than_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    long = ["x" * 100] * 100  # a tree of its own
    held: dict[bytes, bytes] = {}

    def emit(raw: bytes) -> bytes:
        held[raw[:4]] = raw
        return raw[:4]

    assert write_tree([long, long], (), emit)
    monkeypatch.setattr("casckpt.objects.bounded.MAX_REPEATED", 5000)
    with pytest.raises(StateError, match="equal ones"):
        write_tree([long, long], (), emit)
    monkeypatch.setattr("casckpt.objects.bounded.MAX_REPEATED", MAX_REPEATED)
    monkeypatch.setattr("casckpt.objects.bounded.MAX_STATE_TREES", 2)
    with pytest.raises(StateError, match="tree objects"):
        write_tree([long, long], (), emit)


def test_a_value_counts_for_no_more_than_its_encoding() -> None:
    shortest: list[Value] = [
        [],
        (),
        Map(()),
        "",
        b"",
        "ä",
        Typed("", None),
        TreeRef(b""),
        Paged(1, ()),
        TensorRecord("bool", (), None, 0, b"", None, 0),
        ArrayRecord("", (), False, False, b""),
        BlobRecord(False, b""),
    ]
    for value in (*shortest, *values()):
        assert 0 < least(value) <= len(canonical(value)), value
