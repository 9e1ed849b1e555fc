"""The LMDB store and its in-memory model, driven together through every move that history knows, agree after each."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from casckpt.errors import PrunedCommitError, RefError
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.objects.node import chunk_bounds, stands_inline
from casckpt.store.lmdb_store import open_store
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.world import commit, load

CHUNK = 256
RUNS = st.builds(lambda n, size: bytes([n]) * size, st.integers(0, 3), st.sampled_from([0, 7, 256, 300, 800]))
STATES = st.fixed_dictionaries(
    {"model": st.dictionaries(st.sampled_from("abc"), RUNS, max_size=3)},
    optional={
        "optimizer": st.dictionaries(st.sampled_from("ab"), RUNS, max_size=2),
        "more": st.builds(lambda: {"x": b"y" * 600}),
    },
)
KEEPS = st.one_of(
    st.builds(Keep, last=st.integers(1, 4)),
    st.builds(Keep, last=st.integers(1, 3), first=st.integers(0, 2), every_steps=st.sampled_from([None, 2, 5])),
    st.builds(Keep, best=st.just({"loss": ("min", 2)}), tags=st.sampled_from([None, False])),
    st.builds(Keep, parts=st.just({"optimizer": Keep(last=1)})),
    st.builds(Keep, last=st.integers(2, 4), parts=st.just({"optimizer": Keep(last=1), "more": Keep(first=1)})),
)


@dataclass
class Expected:
    """What the machine itself knows of a commit."""

    state: dict[str, dict[str, bytes]]
    parent: str | None
    pruned: bool = False
    released: set[str] = field(default_factory=set)

    @property
    def left(self) -> dict[str, dict[str, bytes]]:
        return {part: runs for part, runs in self.state.items() if part not in self.released}


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="casckpt-"))
        self.both = [self._open(), History(MemoryStore(chunk_size=CHUNK))]
        self.commits: dict[str, Expected] = {}
        self.refs: dict[str, str] = {}
        self.remembered: set[str] = set()
        self.branch = "main"
        self.number = 0
        self.collected = True

    def _open(self) -> History:
        return History(open_store(self.folder / "store", chunk_size=CHUNK))

    def teardown(self) -> None:
        for history in self.both:
            history.close()
        shutil.rmtree(self.folder)

    # -- what the machine knows

    def reachable(self) -> set[str]:
        found: set[str] = set()
        stack = [*self.refs.values(), *self.remembered]
        while stack:
            name = stack.pop()
            if name not in found:
                found.add(name)
                parent = self.commits[name].parent
                if parent is not None:
                    stack.append(parent)
        return found

    def moves(self, ref: str, new: str | None) -> None:
        """A ref goes to a commit, and the reflog remembers where it was and where it is."""
        old = self.refs.pop(ref, None)
        if new is not None:
            self.refs[ref] = new
        self.remembered |= {name for name in (old, new) if name is not None}
        self.collected = False

    def ids(self, name: str) -> list[str]:
        """The commit's id in either store; ids differ, for they hold the time."""
        return [next(c.id for c in self.known(history) if c.message == name) for history in self.both]

    def known(self, history: History):
        def work(commits):
            return [commits.load(oid) for oid in commits.objects.reader.keys(Space.COMMIT)]

        return history.reading(work)

    # -- moves

    @rule(state=STATES, step=st.one_of(st.none(), st.integers(0, 20)), loss=st.sampled_from([0.5, 1.0, float("nan")]))
    def commits_a_state(self, state, step, loss) -> None:
        self.number += 1
        name = f"c{self.number}"
        for history in self.both:
            commit(history, state, name, step, metrics={"loss": loss})
        self.commits[name] = Expected(state, self.refs.get(f"branch/{self.branch}"))
        self.moves(f"branch/{self.branch}", name)
        self.collected = False

    def pick(self, data) -> str:
        return data.draw(st.sampled_from(sorted(self.reachable())))

    @precondition(lambda self: self.refs)
    @rule(data=st.data(), kind=st.sampled_from(["branch", "tag"]), name=st.sampled_from(["x", "y/z"]))
    def makes_a_ref(self, data, kind, name) -> None:
        target = self.pick(data)
        ref = f"{kind}/{name}"
        wrong = ref in self.refs or self.commits[target].pruned
        for history, oid in zip(self.both, self.ids(target), strict=True):
            make = history.branch if kind == "branch" else history.tag
            if wrong:
                with pytest.raises((RefError, PrunedCommitError)):
                    make(name, oid)
            else:
                make(name, oid)
        if not wrong:
            self.moves(ref, target)

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def deletes_a_ref(self, data) -> None:
        ref = data.draw(st.sampled_from(sorted(self.refs)))
        kind, _, name = ref.partition("/")
        current = ref == f"branch/{self.branch}"
        for history in self.both:
            delete = history.delete_branch if kind == "branch" else history.delete_tag
            if current:
                with pytest.raises(RefError):
                    delete(name)
            else:
                delete(name)
        if not current:
            self.moves(ref, None)

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def switches(self, data) -> None:
        branches = [ref.partition("/")[2] for ref in self.refs if ref.startswith("branch/")]
        if not branches:
            return
        self.branch = data.draw(st.sampled_from(sorted(branches)))
        for history in self.both:
            history.switch(self.branch)

    @precondition(lambda self: f"branch/{self.branch}" in self.refs)
    @rule(data=st.data())
    def rolls_back(self, data) -> None:
        target = self.pick(data)
        for history, oid in zip(self.both, self.ids(target), strict=True):
            if self.commits[target].pruned:
                with pytest.raises(PrunedCommitError):
                    history.rollback(oid)
            else:
                assert history.rollback(oid).message == target
        if not self.commits[target].pruned:
            self.moves(f"branch/{self.branch}", target)

    @precondition(lambda self: self.refs)
    @rule(keep=KEEPS)
    def prunes(self, keep) -> None:
        names = [{d.id: d for d in history.prune(keep).decisions} for history in self.both]
        told = []
        for history, decisions in zip(self.both, names, strict=True):
            by_name = {c.message: decisions[c.id] for c in self.known(history) if c.id in decisions}
            told.append({name: (d.kept, d.reasons, d.released) for name, d in by_name.items()})
        assert told[0] == told[1]
        assert set(told[0]) == {name for name in self.reachable() if not self.commits[name].pruned}
        for name, (kept, _, released) in told[0].items():
            self.commits[name].pruned = not kept
            self.commits[name].released |= set(released)
        self.collected = False

    @rule()
    def forgets_the_reflog(self) -> None:
        assert len({history.expire_reflog() for history in self.both}) == 1
        self.remembered = set()
        self.collected = False

    @rule()
    def collects(self) -> None:
        expected = [history.gc(dry_run=True) for history in self.both]
        reports = [history.gc() for history in self.both]
        for dry, report in zip(expected, reports, strict=True):
            assert (dry.commits, dry.chunks, dry.bytes) == (report.commits, report.chunks, report.bytes)
        assert reports[0].chunks == reports[1].chunks
        self.collected = True

    @rule()
    def reopens(self) -> None:
        self.both[0].close()
        self.both[0] = self._open()
        # a handle looks at HEAD once: the model's is made anew as well
        self.both[1] = History(self.both[1].store)

    # -- what must hold after each

    @invariant()
    def histories_agree(self) -> None:
        for history in self.both:
            assert history.current_branch == self.branch
            by_id = {c.id: c.message for c in self.known(history)}
            assert {f"{r.kind}/{r.name}": by_id[r.commit] for r in history.refs()} == self.refs
            log = [(c.message, c.pruned, set(c.released)) for c in history.log(None)]
            seen: set[str] = set()
            stack = list(self.refs.values())
            while stack:
                name = stack.pop()
                if name not in seen:
                    seen.add(name)
                    stack += [p for p in [self.commits[name].parent] if p is not None]
            assert sorted(name for name, _, _ in log) == sorted(seen)
            for name, pruned, released in log:
                assert (pruned, released) == (self.commits[name].pruned, self.commits[name].released)

    @invariant()
    def everything_live_loads(self) -> None:
        for history in self.both:
            by_name = {c.message: c.id for c in self.known(history)}
            for name in self.reachable():
                oid = by_name[name]
                if self.commits[name].pruned:
                    with pytest.raises(PrunedCommitError):
                        load(history, oid)
                else:
                    assert load(history, oid) == self.commits[name].left

    @invariant()
    def nothing_dead_is_left(self) -> None:
        if not self.collected:
            return
        live = self.reachable()
        states = [self.commits[name].left for name in live if not self.commits[name].pruned]
        runs = {run for state in states for part in state.values() for run in part.values()}
        chunks = {
            run[start:end]
            for run in runs
            if not stands_inline(len(run), CHUNK)
            for start, end in chunk_bounds(len(run), CHUNK)
        }
        for history in self.both:
            with history.store.read() as reader:
                assert reader.count(Space.CHUNK) == len(chunks)
                assert reader.count(Space.COMMIT) == len(live)
                if not states:
                    assert reader.count(Space.NODE) == reader.count(Space.TREE) == 0


Machine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLmdbAndModelAgree = Machine.TestCase
