"""Looks at a damaged store as its user would, and says whether what it shows keeps the promises."""

from __future__ import annotations

from pathlib import Path

from casckpt.errors import CasckptError, CorruptObjectError
from casckpt.history.fsck.check import fsck
from casckpt.history.fsck.report import FsckReport, unopened
from casckpt.history.maintained import Maintained
from casckpt.history.repository import History
from casckpt.store.lmdb_store import LmdbStore, open_store
from tests.history.world import commit, load
from tests.trials.rot.view import View, log_of, refs_of, state_of

# Stands among the commits for all of history.
_LOG = "log"
HARMLESS = "hurts nothing"
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
        hurt = _loads(store, view, "damaged-mark" in report.counts)
        if hurt:
            assert not report.ok, f"fsck is content, and {hurt}"
            unnamed = hurt.keys() - _named(report, view)
            assert not unnamed, (
                f"{ {name: hurt[name] for name in unnamed} } are hurt, and not named by {report.findings}"
            )
            return "told by fsck, and hurts"
        if not report.ok:
            return "told by fsck, and hurts no state"
        told = {found.id for found in report.findings if found.severity != "info" or found.id == "unborn-head"}
        if told:
            return f"told by fsck: {', '.join(sorted(told))}"
        with History(store) as history:
            if at_rest:
                assert refs_of(history) == view.refs, "refs are others"
                assert log_of(history) == view.log, "the log is another"
            _go_on(history, view)
        return HARMLESS


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


def _loads(store: LmdbStore, view: View, has_lost_mark: bool) -> dict[str, CasckptError]:
    """Load all that there was; returns the commits that cannot be loaded, and _LOG where that cannot be had.

    has_lost_mark: whether fsck tells of a record of what was released.
    """
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
        if found != expected:
            assert has_lost_mark and found == view.released.get(oid), f"commit {oid} is another"
            hurt[oid] = CorruptObjectError("what was released of it is not known any more")
    return hurt


def _go_on(history: History, view: View) -> None:
    """What is not hurt can be gone on with."""
    commit(history, NEW)
    history.gc()
    report = history.fsck(read_data=True)
    assert report.ok, f"after a commit and gc: {report.findings}"
    assert load(history, "HEAD") == NEW
    for oid in {one.id for one in history.log(None)} & view.states.keys():
        assert state_of(history, oid) == view.states[oid]
