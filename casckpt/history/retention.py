"""Which commits a policy keeps, and why. Pure: it looks at lines of commits and decides; releasing is done in `prune`.

A policy is applied to every line of history by itself: the commits from a branch's tip back to its root, and likewise
from each commit that only the reflog remembers. What any line keeps is kept.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from casckpt.errors import PolicyError
from casckpt.objects.commit import CommitObject

_SPAN: Final = re.compile(r"(\d{1,9})\s*(s|min|h|d|w)")
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def span_seconds(text: str) -> int | None:
    """A span of time in seconds: "30min" -> 1800, also "45s", "6h", "1d", "2w"; None where the text is none."""
    found = _SPAN.fullmatch(text)
    return int(found[1]) * _SECONDS[found[2]] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What to keep; every other commit is pruned. A commit is kept if any rule keeps it.

    last: the newest n commits of each line. first: the oldest n.
    every_steps: the first commit in each bucket of so many steps (commits without a step are in none).
    every: the first commit in each span of time, as a timedelta or as text: "30min", "6h", "1d", "1w". Where the clock
        was set back, spans begin anew.
    best: metric -> (mode, n): the n commits with the smallest ("min") or largest ("max") value; nan never counts, and
        of equal ones the earlier is better.
    tags: True keeps every tagged commit, which is also what happens when it is not given; False keeps none; or globs
        that say which. branches: the same for the tips of branches.
    parts: top-level key of the state -> the policy for that part of the commits that are kept. With parts and no other
        rule, every commit is kept, and only the parts are thinned out.

    Raises:
        PolicyError: no rule at all, or a nonsensical one.
    """

    last: int = 0
    first: int = 0
    every_steps: int | None = None
    every: timedelta | str | None = None
    best: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    tags: bool | Sequence[str] | None = None
    branches: bool | Sequence[str] | None = None
    parts: Mapping[str, Keep] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("last", "first"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise PolicyError(f"{name}={getattr(self, name)!r} is not a number of commits", remedy="give 0 or more")
        if self.every_steps is not None and (type(self.every_steps) is not int or self.every_steps < 1):
            raise PolicyError(f"every_steps={self.every_steps!r} is not a number of steps", remedy="give 1 or more")
        if self.every is not None and self.span <= 0:
            raise PolicyError(f"every={self.every!r} is not a span of time", remedy='give one such as "6h"')
        for metric, rule in self.best.items():
            if (
                not isinstance(rule, (tuple, list))
                or len(rule) != 2
                or rule[0] not in ("min", "max")
                or type(rule[1]) is not int
                or rule[1] < 1
            ):
                raise PolicyError(
                    f"best[{metric!r}]={rule!r} says not how many to keep at which end",
                    remedy=f'write best={{{metric!r}: ("min", 3)}}',
                )
        if not self.has_rule and not self.parts:
            raise PolicyError(
                "a policy without any rule would prune every commit", remedy="say what to keep, such as Keep(last=5)"
            )

    @property
    def has_rule(self) -> bool:
        """Whether it says anything of whole commits (its parts aside)."""
        given = (self.last, self.first, self.every_steps, self.every is not None, self.best, self.tags, self.branches)
        return any(given)

    @property
    def span(self) -> float:
        """`every` in seconds; 0 where it is not given or makes no sense."""
        if isinstance(self.every, timedelta):
            return self.every.total_seconds()
        return float(span_seconds(self.every or "") or 0)

    @property
    def modes(self) -> dict[str, str]:
        """Metric -> "min" or "max", as `best:METRIC` revisions take it."""
        return {metric: mode for metric, (mode, _) in self.best.items()}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A commit that a policy may keep or drop, with the names of the tags and branches that point to it."""

    id: bytes
    commit: CommitObject
    tags: tuple[str, ...]
    branches: tuple[str, ...]


def decide(keep: Keep, line: Sequence[Candidate]) -> dict[bytes, list[str]]:
    """Reasons for keeping, by commit; a commit without any is not in it. `line` is newest first, and is not pruned."""
    reasons: dict[bytes, list[str]] = {}

    def keeps(candidate: Candidate, reason: str) -> None:
        found = reasons.setdefault(candidate.id, [])
        if reason not in found:
            found.append(reason)

    for candidate in line:
        for kind, names, wanted in (
            ("tag", candidate.tags, keep.tags),
            ("tip of", candidate.branches, keep.branches),
        ):
            for name in _wanted(names, wanted):
                keeps(candidate, f"{kind} {name}")
    if not keep.has_rule:
        for candidate in line:
            keeps(candidate, "every commit")
    for candidate in line[: keep.last]:
        keeps(candidate, f"last {keep.last}")
    for candidate in line[len(line) - keep.first :] if keep.first else ():
        keeps(candidate, f"first {keep.first}")
    if keep.every_steps is not None:
        with_step = [c for c in line if c.commit.step is not None]
        for candidate in _firsts(with_step, [(c.commit.step or 0) // keep.every_steps for c in with_step]):
            keeps(candidate, f"every {keep.every_steps} steps")
    if keep.every is not None:
        for candidate in _run_firsts(line, [int(c.commit.time / 1e9 // keep.span) for c in line]):
            keeps(candidate, f"every {keep.every}")
    for metric, (mode, count) in keep.best.items():
        for place, candidate in enumerate(_best(line, metric, mode)[:count], 1):
            keeps(candidate, f"{mode} {metric}, {place} of {count}")
    return reasons


def _wanted(names: Iterable[str], wanted: bool | Sequence[str] | None) -> list[str]:
    if wanted is None or wanted is True:
        return list(names)
    globs = [wanted] if isinstance(wanted, str) else wanted or ()
    return [name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]


def _firsts(line: Sequence[Candidate], buckets: Sequence[int]) -> list[Candidate]:
    """The oldest of each bucket; `line` is newest first."""
    oldest: dict[int, Candidate] = {}
    for candidate, bucket in zip(line, buckets, strict=True):
        oldest[bucket] = candidate
    return list(oldest.values())


def _run_firsts(line: Sequence[Candidate], buckets: Sequence[int]) -> list[Candidate]:
    """The oldest of each run of one bucket; `line` is newest first.

    A clock that is set back comes to the same span again. What is committed then is newer than what was kept of that
    span before, and must not be dropped for it.
    """
    return [
        candidate
        for number, candidate in enumerate(line)
        if number + 1 == len(line) or buckets[number + 1] != buckets[number]
    ]


def _best(line: Sequence[Candidate], metric: str, mode: str) -> list[Candidate]:
    sign = 1.0 if mode == "min" else -1.0
    scored = [(sign * dict(c.commit.metrics).get(metric, math.nan), c) for c in reversed(line)]
    scored = [(score, c) for score, c in scored if not math.isnan(score)]
    return [c for _, c in sorted(scored, key=lambda pair: pair[0])]  # stable: of equal ones the earlier comes first
