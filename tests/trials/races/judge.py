"""What must hold of a store when all who played on it have left, whatever the order in which they came."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from casckpt.history.commits import CommitReader
from casckpt.history.records import all_refs, check_not_pruned, get_mark, moves_since, reflog_next
from casckpt.history.repository import History
from casckpt.history.walk import roots
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Reader, Space
from tests.history.test_bases import check_invariant
from tests.trials.races.moves import load, state
from tests.trials.races.templates import Ledger


def judge(path: Path, ledger: Ledger, tips: dict[str, str], refused: set[str]) -> None:
    """Raise unless nothing was lost.

    tips: where a branch must be that only one process moved. refused: revisions that somebody was told are gone; those
    that are ids must be.
    """
    with History(open_store(path, create=False)) as history:
        reached = _reached(history)
        _check_kept(history, ledger, reached)
        held = {oid.hex() for oid in reached} - ledger.released
        assert ledger.is_any_released or not held & refused, f"refused, and there: {held & refused}"
        _check_refs(history, tips)
        report = history.fsck(read_data=True)
        assert report.ok, report.findings
        history.expire_reflog()
        history.gc()
        assert history.gc().chunks == 0, "a gc left what it could have taken"
        _check_kept(history, ledger, _reached(history))
        with history.store.read() as reader:
            check_invariant(reader)
            commits = history._commits(reader)
            assert set(reader.keys(Space.COMMIT)) == set(commits.walk(roots(reader)))
            assert set(reader.keys(Space.CHUNK)) == _live_chunks(commits, reader), "gc left what nothing leads to"


def _reached(history: History) -> list[bytes]:
    """All commits that refs and the reflog lead to, without a gap."""
    return history.reading(lambda commits: list(commits.walk(roots(commits.objects.reader))))


def _check_kept(history: History, ledger: Ledger, reached: Iterable[bytes]) -> None:
    for oid in reached:
        name = oid.hex()
        known = [ledger.states[name]] if name in ledger.states else ledger.maybe
        assert known, f"commit {name} is there, and nobody was told that it is"
        with history.store.read() as reader:
            is_pruned = get_mark(reader, oid).pruned
        if is_pruned:
            assert name in ledger.released or ledger.is_any_released, (
                f"commit {name} was stripped, though something led to it"
            )
        else:
            _, held = load(history, name)
            assert held in [state(one) for one in known], f"commit {name} holds another state than was saved"


def _check_refs(history: History, tips: dict[str, str]) -> None:
    with history.store.read() as reader:
        refs = dict(all_refs(reader))
        for ref, oid in refs.items():
            assert reader.has(Space.COMMIT, oid), f"{ref} leads nowhere"
            check_not_pruned(reader, oid)
        last: dict[str, bytes | None] = {}
        next_one = 0
        for move in moves_since(reader, 0):
            if move.seq != next_one:  # what came in between was forgotten
                last = {}
            next_one = move.seq + 1
            if move.ref in last:
                assert last[move.ref] == move.old, f"{move.ref} went from where it was not"
            last[move.ref] = move.new
            if move.action == "commit" and move.new is not None:
                parents = history._commits(reader).stored(move.new).parents
                assert parents == (() if move.old is None else (move.old,)), f"{move.ref} left a commit behind"
        for ref, oid in last.items() if next_one == reflog_next(reader) else ():
            assert refs.get(ref) == oid, f"{ref} is not where its last move took it"
        for branch, expected in tips.items():
            assert refs[f"branch/{branch}"].hex() == expected, f"{branch} is not where its only writer left it"


def _live_chunks(commits: CommitReader, reader: Reader) -> set[bytes]:
    from casckpt.history.walk import Live, reach

    live = Live()
    reach(commits.objects, roots(reader), live)
    return live.chunks


def sole_writers(moves: dict[str, list[tuple[str, tuple[object, ...]]]]) -> dict[str, str]:
    """The branches that one process alone moved, by name, with that process. moves: of each process, its branch's name
    with each move."""
    movers: dict[str, set[str]] = defaultdict(set)
    for player, made in moves.items():
        for branch, move in made:
            if move[0] in ("commit", "rollback", "reinstate"):
                movers[branch].add(player)
            elif move[0] in ("delete", "make"):
                movers[str(move[1])].add(player)
    return {branch: next(iter(who)) for branch, who in movers.items() if len(who) == 1}
