"""Goes on with a store of which a record was hit, as its user would who has not asked fsck, or did not mind it.

Whatever is refused then, nothing that was acknowledged may be lost by it, and no branch may begin anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from casckpt.errors import CasckptError
from casckpt.history.repository import History
from casckpt.store.lmdb_store import LmdbStore, open_store
from casckpt.store.protocol import Space
from tests.history.world import commit
from tests.trials.rot.view import View, state_of

_BRANCH = "branch/"


def go_on(path: Path, view: View, commits: int = 1) -> str:
    """Commit so often on one branch and once on the others, collect, and hold what is there against what was; returns
    whether that was refused.

    view: what the store showed before the damage.

    Raises:
        AssertionError: a promise is broken.
    """
    with closing(open_store(path, create=False)) as store:
        handles = dict(_handles(store, view))
        if not handles:
            return "no handle is given"
        reader = next(iter(handles.values()))
        states = _states(reader, [*view.states])
        moves = _moves(store)
        made: list[str] = []
        refused = len(handles) <= len(_branches(view))
        for branch, history in handles.items():
            try:
                made += _commit(history, view.refs.get(_BRANCH + branch), 1 if history is not reader else commits)
            except CasckptError:
                refused = True
        states |= _states(reader, made)
        assert states.keys() >= {*made}, "a commit that was just made cannot be read"
        try:
            reader.gc()
        except CasckptError:
            refused = True
        assert _moves(store).items() >= moves.items(), "moves were written over"
        now = _states(reader, [*states])
        lost = sorted(oid for oid, state in states.items() if now.get(oid) != state)
        assert not lost, f"gone after a commit and gc: {lost}"
        return "something is refused" if refused else "nothing is refused"


def _branches(view: View) -> list[str]:
    return [ref.removeprefix(_BRANCH) for ref in view.refs if ref.startswith(_BRANCH)]


def _handles(store: LmdbStore, view: View) -> Iterator[tuple[str, History]]:
    """A handle on the branch that HEAD names, and one on each of the others, as far as they are given."""
    for branch in (None, *_branches(view)):
        try:
            history = History(store, branch)
        except CasckptError:
            continue
        if branch is None:
            assert history.current_branch == view.head, f"bound to {history.current_branch}, not {view.head}"
        yield history.current_branch, history


def _commit(history: History, tip: str | None, count: int) -> list[str]:
    made: list[str] = []
    for number in range(count):
        state = {"model": {"w": b"%d of %s" % (number, history.current_branch.encode()) * 200}}
        one = commit(history, state)
        parents = () if tip is None else (tip,)
        assert one.parents == parents, f"a commit on {history.current_branch} begins anew: on {one.parents}"
        tip = one.id
        made.append(tip)
    return made


def _states(history: History, ids: list[str]) -> dict[str, str]:
    """What each of these commits shows that can be read."""
    found: dict[str, str] = {}
    for oid in ids:
        try:
            found[oid] = state_of(history, oid)
        except CasckptError:
            continue
    return found


def _moves(store: LmdbStore) -> dict[bytes, bytes]:
    with store.read() as reader:
        return {key: bytes(value) for key, value in reader.items(Space.REFLOG)}
