"""Retention policies as they are written on the command line, into `Keep`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from casckpt.errors import PolicyError

if TYPE_CHECKING:
    from casckpt.history.retention import Keep

# The part's name ends where the first rule begins, so that it may hold a colon itself.
_PART: Final = re.compile(r"(?P<part>.+?):(?P<rules>(?:last|first|every-steps|every|best|tag|branch)=.*)", re.DOTALL)
_PART_FORM: Final = "write PART:RULE=VALUE, such as --part optimizer:last=3 or --part ema:last=2,best=val_loss:min:1"


def keep_from_options(
    *,
    last: int,
    first: int,
    every_steps: int | None,
    every: str | None,
    best: tuple[str, ...],
    tags: tuple[str, ...],
    branches: tuple[str, ...],
    parts: Iterable[str],
) -> Keep:
    """The policy that the options say.

    Raises:
        PolicyError: no rule at all, or one that cannot be read.
    """
    from casckpt.history.retention import Keep

    by_part: dict[str, Keep] = {}
    for text in parts:
        part, policy = _part(text)
        if part in by_part:
            raise PolicyError(f"--part names {part!r} twice", remedy="join its rules by commas: " + _PART_FORM)
        by_part[part] = policy
    if not (last or first or every_steps or every or best or tags or branches or by_part):
        raise PolicyError(
            "a policy without any rule would prune every commit", remedy="say what to keep, such as --keep-last 5"
        )
    return Keep(
        last=last,
        first=first,
        every_steps=every_steps,
        every=every,
        best=_best(best),
        tags=tags or None,
        branches=branches or None,
        parts=by_part,
    )


def _best(rules: Iterable[str]) -> dict[str, tuple[str, int]]:
    """val_loss:min:3 -> {"val_loss": ("min", 3)}; without a number it is 1. A metric's name may hold colons."""
    found: dict[str, tuple[str, int]] = {}
    for rule in rules:
        head, _, count = rule.rpartition(":")
        if not re.fullmatch(r"\d{1,9}", count):
            head, count = rule, "1"
        metric, _, mode = head.rpartition(":")
        if not metric or mode not in ("min", "max") or int(count) < 1:
            raise PolicyError(f"{rule!r} is no METRIC:MODE[:N]", remedy="write it as in val_loss:min:3")
        found[metric] = (mode, int(count))
    return found


def _part(text: str) -> tuple[str, Keep]:
    from casckpt.history.retention import Keep

    split = _PART.fullmatch(text)
    if split is None:
        raise PolicyError(f"--part {text!r} names no part with a rule", remedy=_PART_FORM)
    rules: dict[str, Any] = {}
    best: list[str] = []
    globs: dict[str, list[str]] = {"tag": [], "branch": []}
    for rule in split["rules"].split(","):
        name, _, value = rule.partition("=")
        if name in ("last", "first", "every-steps") and re.fullmatch(r"\d{1,9}", value):
            rules[name.replace("-", "_")] = int(value)
        elif name == "every" and value:
            rules[name] = value
        elif name == "best":
            best.append(value)
        elif name in globs and value:
            globs[name].append(value)
        else:
            raise PolicyError(f"--part {text!r}: {rule!r} is no rule", remedy=_PART_FORM)
    return split["part"], Keep(**rules, best=_best(best), tags=globs["tag"] or None, branches=globs["branch"] or None)
