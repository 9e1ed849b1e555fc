"""Files that were made to cost salvage time or memory: what it does is bounded by their size, counted in calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from casckpt.history.salvage.lines import ancestors_first, line_up, tips
from casckpt.history.salvage.plan import _leave
from casckpt.history.salvage.states import Hurt
from casckpt.objects.commit import CommitObject
from casckpt.objects.ids import XXH3_128
from casckpt.objects.values import Map


@dataclass
class Counter:
    """How often something was asked for; more than `most` times is a broken promise."""

    most: int
    count: int = 0

    def ask(self) -> None:
        self.count += 1
        assert self.count <= self.most


class Asked:
    """A commit that counts how often its parents are looked at."""

    def __init__(self, counter: Counter, time: int, *parents: bytes) -> None:
        self.time = time
        self._counter, self._parents = counter, parents

    @property
    def parents(self) -> tuple[bytes, ...]:
        self._counter.ask()
        return self._parents


def test_commits_that_are_their_own_ancestors_are_met_once_each() -> None:
    counter = Counter(20)
    found = {name: Asked(counter, 0, *parents) for name, *parents in ((b"a", b"c"), (b"b", b"a"), (b"c", b"b"))}
    assert sorted(ancestors_first(found)) == [b"a", b"b", b"c"]  # type: ignore[arg-type]
    assert list(ancestors_first({b"a": Asked(counter, 0, b"a")})) == [b"a"]  # type: ignore[dict-item]


def test_a_circle_of_commits_is_cut_and_a_branch_leads_to_its_end() -> None:
    plain = CommitObject(bytes(16), (), "", None, (), "", 0, "", Map(()))
    a, b, c = (bytes([n]) * 16 for n in range(3))
    lines = line_up({oid: replace(plain, parents=(over,)) for oid, over in ((a, c), (b, a), (c, b))}, XXH3_128)
    order = list(lines.commits)
    assert [len(lines.commits[oid].parents) for oid in order] == [0, 1, 1]
    assert tips(lines, set()) == order[-1:]


def test_giving_up_a_long_line_looks_at_each_commit_a_few_times() -> None:
    length = 500
    counter = Counter(3 * length)
    names = [n.to_bytes(2, "big") for n in range(length)]
    found = {name: Asked(counter, n, *names[n - 1 : n] if n else ()) for n, name in enumerate(names)}
    hurt = dict.fromkeys(names[100:], Hurt(None, frozenset()))
    left = _leave(found, set(names[:50]), {}, hurt)  # type: ignore[arg-type]
    assert list(left) == names[:99:-1] and list(found) == names[:100]


@pytest.mark.parametrize("kept", [0, 3])
def test_what_is_whole_or_leads_on_to_it_is_not_given_up(kept: int) -> None:
    counter = Counter(1000)
    found = {b"%d" % n: Asked(counter, n, *[b"%d" % (n - 1)] if n else []) for n in range(5)}
    found[b"x"] = Asked(counter, 9, b"3", b"4")
    hurt = {oid: Hurt(None, frozenset()) for oid in found if oid != b"%d" % kept}
    left = _leave(found, set(), {}, hurt)  # type: ignore[arg-type]
    assert sorted(found) == [b"%d" % n for n in range(kept + 1)] and b"x" in left
