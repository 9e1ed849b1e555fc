"""Revisions: the ways to name a commit.

main, try/lr          the tip of a branch
v1                    a tag
3fa9c1                an id, or the beginning of one (4 digits or more) that fits one commit
HEAD                  the tip of the branch that this handle is bound to
X~2, X^               two commits before X, one commit before X (pruned commits count too)
main@{2}              where the branch was two moves ago
step:1000             the newest commit on this handle's branch with that step
best:val_loss:min     the commit with the best metric on this handle's branch; pruned ones never win, nor does nan
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from casckpt.errors import AmbiguousRevisionError, CorruptObjectError, UnknownRevisionError
from casckpt.history.commits import CommitReader
from casckpt.history.records import BRANCH, TAG, get_mark, get_ref, moves_back
from casckpt.limits import MIN_ID_PREFIX
from casckpt.store.protocol import Space

_STEPS_BACKWARDS: Final = re.compile(r"(?:\d{0,9}~|\^)*")
_STEP: Final = re.compile(r"~(\d{0,9})|\^")
_MOVED: Final = re.compile(r"(?P<branch>.*)@\{(?P<moves>\d{1,9})\}", re.DOTALL)
_HEX: Final = re.compile(r"[0-9a-f]+")
_MODES: Final = ("min", "max")


class Resolver:
    """Revisions as one transaction sees them.

    branch: the branch that HEAD, `step:` and `best:` mean. modes: whether a metric is best at its min or max.
    """

    def __init__(self, commits: CommitReader, branch: str, modes: Mapping[str, str]) -> None:
        self._commits = commits
        self._reader = commits.objects.reader
        self._branch = branch
        self._modes = modes

    def resolve(self, revision: str) -> bytes:
        """The id of the one commit that a revision names.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError
        """
        found = _STEPS_BACKWARDS.match(revision[::-1])  # from the front, each place would be tried
        assert found is not None  # the pattern takes any text
        base = revision[: len(revision) - found.end()]
        oid = self._base(base, revision)
        seen = {oid}
        for step in _STEP.finditer(revision, len(base)):
            back = int(step[1]) if step[1] else 1
            for _ in range(back):
                parents = self._commits.stored(oid).parents
                if not parents:
                    raise UnknownRevisionError(
                        f"{revision!r} goes back past the first commit", revision=revision, remedy=_LOOK
                    )
                oid = parents[0]
                if oid in seen:
                    raise CorruptObjectError(f"commit {oid.hex()} is among its own ancestors")
                seen.add(oid)
        return oid

    def _base(self, base: str, revision: str) -> bytes:
        if base.startswith("step:"):
            return self._step(base[5:], revision)
        if base.startswith("best:"):
            return self._best(base[5:], revision)
        if moved := _MOVED.fullmatch(base):
            return self._moved(moved["branch"], int(moved["moves"]), revision)
        if base in ("HEAD", "@"):
            return self._tip(revision)
        # a whole id is asked for often, and is hardly the name of a branch that a flipped bit took from it
        is_id = _HEX.fullmatch(base) is not None and len(base) == 2 * self._commits.objects.scheme.size
        for prefix in (BRANCH, TAG):
            found = get_ref(self._reader, prefix + base, sure=not is_id) if base else None
            if found is not None:
                return found
        return self._id(base, revision)

    def _tip(self, revision: str) -> bytes:
        found = get_ref(self._reader, BRANCH + self._branch)
        if found is None:
            raise UnknownRevisionError(
                f"{revision!r}: the branch {self._branch!r} has no commit yet", revision=revision, remedy="commit first"
            )
        return found

    def _id(self, prefix: str, revision: str) -> bytes:
        text = prefix.lower()
        size = self._commits.objects.scheme.size
        if not _HEX.fullmatch(text) or len(text) > 2 * size:
            raise UnknownRevisionError(
                f"{revision!r} is no branch, tag or commit of this store", revision=revision, remedy=_LOOK
            )
        if len(text) < MIN_ID_PREFIX:
            raise UnknownRevisionError(
                f"{revision!r} is no branch or tag, and too short for an id",
                revision=revision,
                remedy=f"give at least {MIN_ID_PREFIX} digits",
            )
        fits = []
        for key in self._reader.keys(Space.COMMIT, bytes.fromhex(text[: len(text) // 2 * 2])):
            if not key.hex().startswith(text):
                if key.hex() > text:
                    break
                continue
            fits.append(key)
            if len(fits) > 8:
                break
        if len(fits) > 1:
            raise AmbiguousRevisionError(
                f"{revision!r} fits several commits: {', '.join(key.hex()[:12] for key in fits)}",
                revision=revision,
                remedy="give more digits",
            )
        if not fits:
            raise UnknownRevisionError(f"no commit begins with {revision!r}", revision=revision, remedy=_LOOK)
        return fits[0]

    def _moved(self, branch: str, moves: int, revision: str) -> bytes:
        name = self._branch if branch in ("", "HEAD", "@") else branch
        ref = BRANCH + name
        now = get_ref(self._reader, ref)
        if moves == 0:
            if now is None:
                raise UnknownRevisionError(f"there is no branch {name!r}", revision=revision, remedy=_LOOK)
            return now
        left = moves
        at = now
        for move in moves_back(self._reader):
            if move.ref != ref:
                continue
            if move.new != at:  # what came in between was forgotten
                break
            left, at = left - 1, move.old
            if left == 0 and move.old is not None:
                return move.old
        raise UnknownRevisionError(
            f"{revision!r}: the reflog of {name!r} does not go back that far",
            revision=revision,
            remedy="look with `casckpt reflog`",
        )

    def _step(self, text: str, revision: str) -> bytes:
        if not re.fullmatch(r"-?\d{1,19}", text):
            raise UnknownRevisionError(
                f"{revision!r}: a step is a whole number", revision=revision, remedy="write step:1000"
            )
        step = int(text)
        for oid in self._commits.walk([self._tip(revision)]):
            if self._commits.stored(oid).step == step:
                return oid
        raise UnknownRevisionError(
            f"no commit on {self._branch!r} has step {step}", revision=revision, remedy="look with `casckpt log`"
        )

    def _best(self, text: str, revision: str) -> bytes:
        metric, _, mode = text.rpartition(":")
        if mode not in _MODES:
            metric, mode = text, self._modes.get(text, "")
        if mode not in _MODES:
            raise UnknownRevisionError(
                f"{revision!r} does not say whether the smallest or the largest is best",
                revision=revision,
                remedy=f"write best:{text}:min or best:{text}:max",
            )
        sign = 1.0 if mode == "min" else -1.0
        best: tuple[float, bytes] | None = None
        for oid in self._commits.walk([self._tip(revision)]):
            number = dict(self._commits.stored(oid).metrics).get(metric, math.nan)
            if math.isnan(number) or get_mark(self._reader, oid).pruned:
                continue
            if best is None or sign * number <= best[0]:  # the walk goes back in time, so a tie goes to the earlier
                best = (sign * number, oid)
        if best is None:
            raise UnknownRevisionError(
                f"no commit on {self._branch!r} that is still kept has the metric {metric!r}",
                revision=revision,
                remedy="look with `casckpt log`",
            )
        return best[1]


_LOOK: Final = "look with `casckpt log` and `casckpt branch`"
