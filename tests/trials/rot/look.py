"""Looks at a damaged store as its user would, and says whether what it shows keeps the promises."""

from __future__ import annotations

from pathlib import Path

from casckpt.errors import CasckptError
from casckpt.history.fsck.check import fsck
from casckpt.history.fsck.report import FsckReport, unopened
from casckpt.history.maintained import Maintained
from casckpt.history.repository import History
from casckpt.store.lmdb_store import LmdbStore, open_store
from tests.history.world import commit, load
from tests.trials.rot.view import View, log_of, refs_of, state_of

# Stands among the commits for all of history.
_LOG = "log"
NEW = {"model": {"w": bytes(range(256)) * 40}, "optimizer": {"m": b"new" * 700}}


def look(path: Path, view: View, at_rest: bool = True) -> str:
    """What became of it, in words; view: what it showed before the damage.

    at_rest: whether nobody has written to it since then, and nothing is known to be hurt.

    Raises:
        AssertionError: a promise is broken.
    """
    before = (path / "data.mdb").read_bytes()
    try:
        store = open_store(path, create=False)
    except CasckptError as error:
        assert (path / "data.mdb").read_bytes() == before, "a store that was not opened was changed"
        report = unopened(error, path)
        assert report is not None and not report.ok, f"fsck says nothing of {error!r}"
        assert report.findings and str(error)
        return f"not opened: {error.kind}"
    try:
        return _look_into(store, view, at_rest)
    finally:
        store.close()


def _look_into(store: LmdbStore, view: View, at_rest: bool) -> str:
    with Maintained(store) as handle:
        report = fsck(handle.store, handle.scheme, read_data=True)
        hurt = _loads(store, view)
        if hurt:
            assert not report.ok, f"fsck is content, and {hurt}"
            unnamed = hurt.keys() - _named(report, view)
            assert not unnamed, f"{ {name: hurt[name] for name in unnamed} } are hurt, and not named by {report.findings}"
            return "told by fsck, and hurts"
        if not report.ok:
            return "told by fsck, and hurts no state"
        told = {found.id for found in report.findings if found.severity != "info" or found.id == "unborn-head"}
        if told:
            return f"told by fsck: {', '.join(sorted(told))}"
        with History(store) as history:
            renamed = at_rest and _is_renamed(history, view)
            _go_on(history, view)
        return "a ref has another name" if renamed else "hurts nothing"


def _named(report: FsckReport, view: View) -> set[str]:
    """What errors that were found speak of: commits; all that there is where pages or records of history are damaged,
    or more commits are hurt than are named."""
    named: set[str] = set()
    for found in report.findings:
        if found.severity == "error":
            named |= {one.id for one in found.hurt.commits}
            if found.object in view.states:  # a commit, which history leads through
                named |= {_LOG, found.object}
            if not found.object or found.hurt.more_commits:
                named |= {_LOG, *view.states}
    return named


def _is_renamed(history: History, view: View) -> bool:
    """Whether a ref of which the reflog knows nothing has another name: names have no checksum.

    Raises:
        AssertionError: refs or log differ in anything else.
    """
    refs = refs_of(history)
    assert sorted(refs.values()) == sorted(view.refs.values()), "refs are others"
    assert sorted(log_of(history)) == sorted(view.log), "the log is another"
    assert len(refs.keys() - view.refs.keys()) <= 1, "refs have other names"
    return refs != view.refs


def _loads(store: LmdbStore, view: View) -> dict[str, CasckptError]:
    """Load all that there was; returns the commits that cannot be loaded, and _LOG where that cannot be had."""
    hurt: dict[str, CasckptError] = {}
    try:
        history = History(store)
    except CasckptError as error:
        return {_LOG: error}
    try:
        list(history.log(None)), history.refs(), history.reflog()
    except CasckptError as error:
        hurt[_LOG] = error
    for oid, expected in view.states.items():
        try:
            found = state_of(history, oid)
        except CasckptError as error:
            hurt[oid] = error
            continue
        assert found in expected, f"commit {oid} is another"
    return hurt


def _go_on(history: History, view: View) -> None:
    """What is not hurt can be gone on with."""
    commit(history, NEW)
    history.gc()
    report = history.fsck(read_data=True)
    assert report.ok, f"after a commit and gc: {report.findings}"
    assert load(history, "HEAD") == NEW
    for oid in {one.id for one in history.log(None)} & view.states.keys():
        assert state_of(history, oid) in view.states[oid]
