"""Whether a store that was found after power failed keeps what was promised, whatever the story was about to do.

acknowledged: what the story said last that must be there; None: nothing, not even a store. doing: what it said since
that it was about to do. Whatever else is found, and whatever is raised, is a broken promise.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from casckpt.errors import HistoryLostError, NotAStoreError, StoreNotFoundError
from casckpt.history.commits import Commit
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit, load
from tests.trials.power.story import CHUNK, STORE, small_batches, state


def check(
    folder: str, seed: int, acknowledged: dict[str, Any] | None, doing: dict[str, Any] | None, then: Any, draw: int
) -> str:
    """Look at a disk, go on with its store, and say what was found.

    then: what would have been acknowledged next. draw: chooses what is looked at closely.

    Raises:
        AssertionError, CasckptError: a promise is broken.
    """
    small_batches()
    random = Random(draw)
    about = "nothing" if doing is None else doing["what"]
    if acknowledged is None:
        anew = about == "anew"
        return f"in its creation{' anew' * anew}: {_check_created(Path(folder) / STORE, seed, anew)}"
    found = _check_backups(Path(folder), seed, acknowledged, doing, random)
    with History(open_store(Path(folder) / STORE, create=False)) as history:
        found = _check_history(history, seed, acknowledged, doing, random) or found
    _go_on(Path(folder) / STORE, seed, acknowledged["next"] + 1, random)
    return f"in {about}: {found or 'as before'}"


def _check_created(path: Path, seed: int, anew: bool) -> str:
    """A store that nobody was told of: it is there and empty, or can be made. anew: where there was one before."""
    found = "made"
    try:
        open_store(path, create=False).close()
    except (StoreNotFoundError, NotAStoreError):
        found = "to be made"
    except HistoryLostError:
        assert anew
        found = "to be accepted"
    with History(open_store(path, chunk_size=CHUNK, codec="auto", accept_loss=anew)) as history:
        assert history._tip is None or anew
        _check_sound(history)
    _go_on(path, seed, 1, Random(seed))
    return found


def _check_history(
    history: History, seed: int, acknowledged: dict[str, Any], doing: dict[str, Any] | None, random: Random
) -> str:
    """Everything that was acknowledged, and at most what was being done; returns in words what of that came about."""
    what = "" if doing is None else doing["what"]
    kept: dict[str, int] = dict(acknowledged["kept"])
    tip = None if history._tip is None else history._tip.hex()
    found = ""
    commits: dict[str, Commit] = {one.id: one for one in history.log(None)}
    if tip != acknowledged["tip"]:
        found = "done"
        if what == "commit":
            assert doing is not None
            new = commits[tip]
            assert new.parents == (() if acknowledged["tip"] is None else (acknowledged["tip"],)), new
            assert new.step == doing["step"], new
            kept[tip] = new.step
        elif what == "rollback":
            assert doing is not None
            assert tip == doing["to"], (tip, doing)
        else:
            raise AssertionError(f"the branch is at {tip}, and was acknowledged at {acknowledged['tip']}, in {doing}")
    pruned = {one.id for one in commits.values() if one.pruned}
    assert set(acknowledged["pruned"]) & set(commits) <= pruned, f"a prune is lost, in {doing}"
    more = pruned - set(acknowledged["pruned"])
    if more:
        assert what == "prune", (more, doing)
        assert more == set(doing["commits"]) & set(commits), (more, doing)
        found = "done"
    tags = {ref.name: ref.commit for ref in history.refs() if ref.kind == "tag"}
    if tags != acknowledged["tags"]:
        assert what == "tag", (tags, doing)
        assert tags == {**acknowledged["tags"], doing["name"]: tip}, (tags, doing)
        found = "done"
    reached = set(commits)
    if what == "rollback":  # what only the reflog remembers now
        reached |= {one for one in kept if history.resolve(one)}
    missing = set(kept) - reached
    assert not missing, f"{missing} were acknowledged, in {doing}"
    whole = [one for one in kept if one not in pruned]
    for one in {tip, random.choice(whole)} - {None} if whole else ():
        assert load(history, one) == state(seed, kept[one]), f"commit {one} has other bytes"
    _check_sound(history)
    return found


def _check_sound(history: History) -> None:
    report = history.fsck(read_data=True)
    assert report.ok, "\n".join(str(finding) for finding in report.findings)
    assert not report.number("warning"), "\n".join(str(finding) for finding in report.findings)
    assert not report.stopped, report.stopped


def _go_on(path: Path, seed: int, number: int, random: Random) -> None:
    """The next commit works, and the next opening after that, and now and then gc and compact."""
    with History(open_store(path, create=False)) as history:
        made = commit(history, state(seed, number), "after", step=number, codec="auto")
        if random.random() < 0.1:
            history.gc()
            history.compact()
    with History(open_store(path, create=False)) as history:
        assert load(history, made.id) == state(seed, number)


def _check_backups(
    folder: Path, seed: int, acknowledged: dict[str, Any], doing: dict[str, Any] | None, random: Random
) -> str:
    """A backup that was acknowledged is whole; one that was not is whole, or is refused."""
    for place, tip in random.sample([*acknowledged["backups"].items()], min(1, len(acknowledged["backups"]))):
        _check_backup(folder / place, seed, tip, acknowledged)
    if doing is None or doing["what"] != "backup":
        return ""
    try:
        _check_backup(folder / doing["place"], seed, doing["tip"], acknowledged)
    except (StoreNotFoundError, NotAStoreError):
        return ""
    return "done"


def _check_backup(path: Path, seed: int, tip: str | None, acknowledged: dict[str, Any]) -> None:
    with History(open_store(path, create=False)) as history:
        assert (None if history._tip is None else history._tip.hex()) == tip, path
        if tip in acknowledged["kept"]:
            assert load(history, tip) == state(seed, acknowledged["kept"][tip])
        _check_sound(history)
