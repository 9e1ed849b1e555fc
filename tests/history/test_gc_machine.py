"""Dense histories of deltas through every move that history knows: nothing is lost, no delta is without its base."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from casckpt.history.ingest import Ingest
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from casckpt.limits import CODECS
from casckpt.store.lmdb_store import open_store
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from tests.history.test_bases import check_invariant
from tests.history.test_gc_deltas import interrupt_write
from tests.history.world import State, commit, drifted, load, nodes_of, noise

CHUNK = 512
KEEPS = st.sampled_from(
    [
        Keep(last=1),
        Keep(last=3),
        Keep(every_steps=2),
        Keep(last=1, every_steps=3),
        Keep(last=4, parts={"optimizer": Keep(last=1)}),
        Keep(every_steps=2, parts={"optimizer": Keep(every_steps=4)}),
    ]
)


@dataclass
class Known:
    """What the machine knows of a commit."""

    state: State
    released: set[str] = field(default_factory=set)
    pruned: bool = False


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="casckpt-"))
        self.history = History(self.made())
        self.commits: dict[str, Known] = {}
        self.number = 0
        self.collected = True

    def made(self):
        return MemoryStore(chunk_size=CHUNK)

    def teardown(self) -> None:
        self.history.close()
        shutil.rmtree(self.folder)

    def known(self) -> list[str]:
        """Commits that can still be reached, and have their state, the oldest first: ids are others in each run."""
        return [c.id for c in self.history.log(None) if not c.pruned][::-1]

    # -- moves

    @rule(
        codec=st.sampled_from(["auto", "small", "auto", "small", "fast", "none"]),
        moved=st.sampled_from(["all", "all", "all", "model", "optimizer", "a little", "new", "an earlier one"]),
        count=st.integers(1, 6),
        data=st.data(),
    )
    def commits_states(self, codec, moved, count, data) -> None:
        for _ in range(count):
            self.commits_a_state(codec, moved, data)

    def commits_a_state(self, codec, moved, data) -> None:
        self.number += 1
        tips = [c.id for c in self.history.log(limit=1)]
        before = self.commits[tips[0]].state if tips else None
        if before is None or moved == "new":
            state = {"model": {"w": noise(self.number, 1300)}, "optimizer": {"m": noise(-self.number, 1100)}}
        elif moved == "an earlier one":
            state = self.commits[data.draw(st.sampled_from(list(self.commits)))].state
        else:
            state = {
                part: {name: self.moved(run, part, moved) for name, run in held.items()}
                for part, held in before.items()
            }
        made = commit(self.history, state, codec=codec, step=self.number)
        self.commits[made.id] = Known(state)
        self.collected = False

    def moved(self, run: bytes, part: str, moved: str) -> bytes:
        if moved == "a little":
            return run[:600] + bytes([run[600] ^ 1]) + run[601:]
        return drifted(run, self.number) if moved in ("all", part) else run

    @precondition(lambda self: self.known())
    @rule(data=st.data(), name=st.sampled_from(["x", "y"]))
    def branches_off(self, data, name) -> None:
        if name in {ref.name for ref in self.history.refs()}:
            self.history.switch(name)
        else:
            self.history.branch(name, at=data.draw(st.sampled_from(self.known())))
            self.history.switch(name)

    @precondition(lambda self: self.known() and any(ref.kind == "branch" for ref in self.history.refs()))
    @rule(data=st.data())
    def rolls_back(self, data) -> None:
        self.history.rollback(data.draw(st.sampled_from(self.known())))
        self.collected = False

    @rule()
    def forgets_the_reflog(self) -> None:
        self.history.expire_reflog()
        self.collected = False

    @rule(keep=KEEPS)
    def prunes(self, keep) -> None:
        for decision in self.history.prune(keep).decisions:
            self.commits[decision.id].pruned |= not decision.kept
            self.commits[decision.id].released |= set(decision.released)
        self.collected = False

    @rule(keep=KEEPS)
    def prunes_and_collects(self, keep) -> None:
        self.prunes(keep)
        self.collects()

    @rule()
    def collects(self) -> None:
        dry, report = self.history.gc(dry_run=True), self.history.gc()
        assert (dry.chunks, dry.bytes, dry.reencoded_chunks) == (report.chunks, report.bytes, report.reencoded_chunks)
        assert report.kept_bases == 0
        self.collected = True

    @rule(number=st.integers(1, 6), after=st.booleans())
    def is_interrupted_at_collecting(self, number, after) -> None:
        with interrupted(self.history, number, after):
            self.history.gc()
        self.collected = False

    @rule(codec=st.sampled_from(CODECS), number=st.sampled_from([None, 1, 2]))
    def repacks(self, codec, number) -> None:
        if number is None:
            self.history.repack(codec=codec)
        else:
            with interrupted(self.history, number, True):
                self.history.repack(codec=codec)

    @precondition(lambda self: self.known())
    @rule(data=st.data(), codec=st.sampled_from(CODECS))
    def repacks_some(self, data, codec) -> None:
        self.history.repack(data.draw(st.lists(st.sampled_from(self.known()), max_size=3)), codec=codec)

    @rule()
    def compacts(self) -> None:
        self.history.compact()

    # -- what must hold after each

    @invariant()
    def every_delta_has_its_base(self) -> None:
        with self.history.store.read() as reader:
            check_invariant(reader)

    @invariant()
    def everything_kept_loads(self) -> None:
        for oid in self.known():
            kept = self.commits[oid]
            assert load(self.history, oid) == {p: runs for p, runs in kept.state.items() if p not in kept.released}

    @invariant()
    def nothing_dead_is_left(self) -> None:
        if not self.collected:
            return
        live: set[bytes] = set()
        with Ingest(self.history.store, self.history.scheme) as ingest:
            for oid in ingest.objects.reader.keys(Space.COMMIT):
                live |= {chunk for node in nodes_of(ingest, oid).values() for chunk in node.ids()}
        with self.history.store.read() as reader:
            assert set(reader.keys(Space.CHUNK)) == live


@contextmanager
def interrupted(history: History, number: int, after: bool) -> Iterator[None]:
    try:
        with interrupt_write(history.store, number, after=after):
            yield
    except KeyboardInterrupt:
        pass


class OnDisk(Machine):
    def made(self):
        return open_store(self.folder / "store", chunk_size=CHUNK)

    @rule()
    def reopens(self) -> None:
        branch = self.history.current_branch
        self.history.close()
        self.history = History(self.made(), branch)


Machine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
OnDisk.TestCase.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestInMemory = Machine.TestCase
TestOnDisk = OnDisk.TestCase
