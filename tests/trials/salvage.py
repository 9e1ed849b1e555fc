"""Salvage: a store from a small story is damaged, and what its file still holds must come back, bit for bit.

What must come back is found by a search of this module's own: every frame in the bytes of the damaged file, wherever it
lies, opened by the reader of `tests/compat`, which shares no code with casckpt.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from casckpt.errors import CorruptObjectError
from casckpt.history.repository import History
from casckpt.history.salvage.report import SalvageReport
from casckpt.history.salvage.run import salvage
from casckpt.store.checked import with_check
from casckpt.store.layout import BRANCH, LEAF, PAGE
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.compat.reader.errors import FormatError, NewerError
from tests.compat.reader.objects import HEAD, KINDS, object_id, read_frame, unpack
from tests.compat.reader.values import State
from tests.history.world import State as Parts
from tests.history.world import commit, drifted, load, noise, release
from tests.trials.recipe import Recipe

SIZE = 4096
MAGIC = b"\xf1CKF"
LEAF_HEAD = struct.Struct("<HHHH")  # of an entry of a leaf, as LMDB writes it: the size of its value, flags, of its key
_NAMES = {number: name for name, number in KINDS.items()}


# -- the story ---------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a story left: the states of its commits, by their ids; those that were released or collected on purpose;
    and where the refs were at the end."""

    states: dict[str, Parts] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    refs: dict[tuple[str, str], str] = field(default_factory=dict)


def tell(path: Path, chance: random.Random) -> Told:
    """Make a store: commits with deltas on several branches, rollbacks, tags, pruning and gc."""
    told = Told()
    hash = chance.choice(["xxh3_128", "xxh3_128", "blake3"])
    codec = chance.choice(["auto", "auto", "small", "none"])
    with History(open_store(path, hash=hash, chunk_size=chance.choice([256, 1024, 4096]), codec=codec)) as history:
        run, same = noise(chance.randrange(1 << 30), chance.randrange(600, 12_000)), noise(7, 2000)
        for step in range(chance.randrange(6, 14)):
            state = {"model": {"w": run, "frozen": same}, "more": {f"{n}": run[:40] * n for n in range(1, 5)}}
            made = commit(history, state, f"at {step}", step=step, codec=codec)
            told.states[made.id] = state
            run = drifted(run, step)
            match chance.randrange(12):
                case 0 if step:
                    history.rollback("HEAD~1")
                case 1:
                    history.branch(f"side-{step}")
                case 2:
                    history.switch(f"other-{step}", create=True)
                case 3:
                    history.tag(f"v{step}")
                case 4 | 5:
                    _collect(history, told, chance)
                case 6:
                    history.expire_reflog()
        told.refs = {(ref.kind, ref.name): ref.commit for ref in history.refs()}
    return told


def _collect(history: History, told: Told, chance: random.Random) -> None:
    tips = {ref.commit for ref in history.refs()}
    victims = [one for one in history.log(None) if one.id not in tips and chance.random() < 0.3]
    release(history, victims)
    if chance.random() < 0.5:
        history.expire_reflog()
    history.gc()
    told.given_up |= {one.id for one in victims}
    left = {one.id for one in history.log(None)} | {
        oid for move in history.reflog() for oid in (move.old, move.new) if oid is not None
    }
    told.given_up |= told.states.keys() - _with_ancestors(history, left)


def _with_ancestors(history: History, ids: set[str]) -> set[str]:
    met: set[str] = set()
    pending = list(ids)
    while pending:
        oid = pending.pop()
        if oid not in met:
            met.add(oid)
            pending += history.resolve(oid).parents
    return met


# -- the damage --------------------------------------------------------------------------------------------------------


def zeroed_heads(data: bytearray, chance: random.Random) -> None:
    for page in chance.choice([(0,), (1,), (0, 1)]):
        data[page * SIZE : (page + 1) * SIZE] = bytes(SIZE)


def zeroed_branches(data: bytearray, chance: random.Random) -> None:
    for at in _pages(data, BRANCH):
        data[at : at + SIZE] = bytes(SIZE)


def zeroed_leaves(data: bytearray, chance: random.Random) -> None:
    leaves = _pages(data, LEAF)
    for at in chance.sample(leaves, min(len(leaves), chance.randrange(1, 6))):
        data[at : at + SIZE] = bytes(SIZE)


def page_heads(data: bytearray, chance: random.Random) -> None:
    """Heads of pages only: what they hold stays."""
    for at in range(0, len(data), SIZE):
        if chance.random() < 0.3:
            data[at : at + PAGE.size] = chance.randbytes(PAGE.size)


def zeroed_ranges(data: bytearray, chance: random.Random) -> None:
    for start, end in _ranges(data, chance):
        data[start:end] = bytes(end - start)


def garbage(data: bytearray, chance: random.Random) -> None:
    for start, end in _ranges(data, chance):
        data[start:end] = chance.randbytes(end - start)


def truncated(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data) // 4, len(data)) :]


def swapped(data: bytearray, chance: random.Random) -> None:
    """Pages that were written to each other's places."""
    pages = chance.sample(range(len(data) // SIZE), 6)
    for one, other in zip(pages[::2], pages[1::2], strict=True):
        first, second = (slice(at * SIZE, (at + 1) * SIZE) for at in (one, other))
        data[first], data[second] = data[second], data[first]


def lost_commits(data: bytearray, chance: random.Random) -> None:
    """A commit or two, wherever the file holds them, and nothing else: what came after has lost a parent."""
    commits = Left(bytes(data)).frames("commit")
    for oid in chance.sample(sorted(commits), min(len(commits), chance.randrange(1, 3))):
        for frame in commits[oid]:
            data[:] = data.replace(frame, bytes(len(frame)))


def several(data: bytearray, chance: random.Random) -> None:
    """Two sorts of damage, and none of the heads."""
    for damage in chance.sample([zeroed_branches, zeroed_leaves, page_heads, zeroed_ranges, garbage, swapped], 2):
        damage(data, chance)
    data[: 2 * SIZE] = bytes(2 * SIZE)
    if chance.random() < 0.3:
        truncated(data, chance)


def nothing(data: bytearray, chance: random.Random) -> None:
    """A store that is sound."""


DAMAGES = (
    zeroed_heads,
    zeroed_branches,
    zeroed_leaves,
    page_heads,
    zeroed_ranges,
    garbage,
    truncated,
    swapped,
    lost_commits,
    several,
    nothing,
)


def _pages(data: bytearray, kind: int) -> list[int]:
    heads = ((at, PAGE.unpack_from(data, at)) for at in range(2 * SIZE, len(data) - SIZE + 1, SIZE))
    return [at for at, (number, _, flags, _, _) in heads if number == at // SIZE and flags == kind]


def _ranges(data: bytearray, chance: random.Random) -> list[tuple[int, int]]:
    found = []
    for _ in range(chance.randrange(1, 5)):
        start = chance.randrange(len(data))
        found.append((start, min(len(data), start + chance.choice([1, 16, 300, SIZE, 5 * SIZE]))))
    return found


# -- what must come back -----------------------------------------------------------------------------------------------


class Left:
    """What frames in the bytes of a file prove, whatever lies around them."""

    def __init__(self, data: bytes, before: bytes = b"") -> None:
        self._data = data
        self._before = before
        self._frames: dict[tuple[str, bytes], list[bytes]] = {}
        self._raw: dict[tuple[str, bytes], bytes] = {}
        at = data.find(MAGIC)
        while at >= 0:
            self._take(data, at)
            at = data.find(MAGIC, at + 1)
        while self._decode():
            pass

    def _take(self, data: bytes, at: int) -> None:
        if len(data) < at + HEAD.size:
            return
        _, _, kind, _, n, _, parts, has_base, _, _, length, _ = HEAD.unpack_from(data, at)
        end = at + HEAD.size + n * (1 + has_base) + 4 * parts + length
        if kind in _NAMES and n in (16, 32) and has_base <= 1 and end <= len(data):
            oid = data[at + HEAD.size : at + HEAD.size + n]
            self._frames.setdefault((_NAMES[kind], oid), []).append(data[at:end])

    def frames(self, kind: str) -> dict[bytes, list[bytes]]:
        """All of a kind, by their ids."""
        return {oid: frames for (name, oid), frames in self._frames.items() if name == kind}

    def _decode(self) -> bool:
        """One round: what can be decoded by what was before."""
        found = {}
        for (kind, oid), frames in self._frames.items():
            for frame in frames if (kind, oid) not in self._raw else ():
                try:
                    held, raw = read_frame(kind, frame, lambda base: self._raw["chunk", base])
                    if held == oid == object_id("xxh3_128" if len(oid) == 16 else "blake3", kind, raw):
                        found[kind, oid] = raw
                except (FormatError, NewerError, KeyError):
                    continue
        self._raw |= found
        return bool(found)

    def object(self, kind: str, oid: bytes) -> bytes:
        return self._raw[kind, oid]

    def node(self, oid: bytes) -> tuple[int, int, list[bytes]]:
        length, size, ids = unpack(self.object("node", oid))
        return length, size, [ids[at : at + len(oid)] for at in range(0, len(ids), len(oid))]

    def storage(self, oid: bytes) -> bytes:
        return b"".join(self.object("chunk", one) for one in self.node(oid)[2])

    def parents(self, oid: str) -> list[str] | None:
        raw = self._raw.get(("commit", bytes.fromhex(oid)))
        return None if raw is None else [parent.hex() for parent in unpack(raw)[1]]

    def refs(self, told: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
        """Those whose records stand in leaves that are as they were before the damage."""
        data = self._data
        leaves = [at for at in _pages(bytearray(data), LEAF) if data[at : at + SIZE] == self._before[at : at + SIZE]]
        found = []
        for (kind, name), oid in told.items():
            key = f"{kind}/{name}".encode()
            value = with_check(Space.REF, key, bytes.fromhex(oid))
            record = LEAF_HEAD.pack(len(value), 0, 0, len(key)) + key + value
            if any(record in data[at : at + SIZE] for at in leaves):
                found.append((kind, name))
        return found

    def is_whole(self, oid: str) -> bool:
        """Whether every object of a commit's state is left."""
        try:
            State(self).whole(unpack(self.object("commit", bytes.fromhex(oid)))[0], [])
        except KeyError:
            return False
        return True

    def has_ancestors(self, oid: str) -> bool:
        """Whether a commit and all that it leads to are left."""
        pending = [oid]
        while pending:
            parents = self.parents(pending.pop())
            if parents is None:
                return False
            pending += parents
        return True


# -- the trial ---------------------------------------------------------------------------------------------------------


def trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        yield one(seed, place)
        shutil.rmtree(place)


def one(seed: int, folder: Path) -> Counter[str]:
    chance = random.Random(seed)
    told = tell(folder / "store", chance)
    damage = DAMAGES[seed % len(DAMAGES)]
    file = folder / "store" / "data.mdb"
    before = file.read_bytes()
    data = bytearray(before)
    damage(data, chance)
    if chance.random() < 0.2:
        (folder / "store" / "mark").unlink()
    file.write_bytes(data)
    label = damage.__name__.replace("_", " ")
    left = Left(bytes(data), before)
    try:
        report = salvage(folder / "store", folder / "new")
    except CorruptObjectError as error:
        assert not [oid for oid in told.states if left.is_whole(oid) and oid not in told.given_up], (seed, label, error)
        return Counter({f"{label}: not one commit is left": 1})
    assert file.read_bytes() == data, (seed, label, "the damaged store was changed")
    _check(folder / "new", told, left, report, (seed, label))
    if damage is nothing:
        assert report.complete, (seed, report)
    return Counter({f"{label}: {'all came back' if report.complete else 'what is left came back'}": 1})


def _check(path: Path, told: Told, left: Left, report: SalvageReport, where: object) -> None:
    with History(open_store(path, create=False)) as history:
        checked = history.fsck(read_data=True)
        assert checked.ok, (where, checked)
        there = {one.id: one for one in history.log(None)}
        for oid, state in told.states.items():
            known = left.parents(oid) is not None
            new = oid if left.has_ancestors(oid) else report.rewritten.get(oid, oid)
            wanted = known and left.is_whole(oid) and oid not in told.given_up
            if wanted:
                assert new in there, (where, oid, "a whole commit did not come back")
                assert not there[new].pruned and not there[new].released, (where, oid, "a whole commit came back hurt")
            if wanted or (new in there and not there[new].pruned):
                released = there[new].released
                assert load(history, new) == {part: runs for part, runs in state.items() if part not in released}, (
                    where,
                    oid,
                )
        refs = {(ref.kind, ref.name): ref.commit for ref in history.refs()}
        for ref, commit in refs.items():
            if not ref[1].startswith("salvaged/"):
                # a name has no checksum: one with another letter is another ref, unless the reflog tells
                was = told.refs.get(ref)
                assert was is None or commit == report.rewritten.get(was, was), (where, ref, was)
        back = {ref.was for ref in report.refs}
        intact = {f"{kind}/{name}": told.refs[kind, name] for kind, name in left.refs(told.refs)}
        dropped = [ref for ref, was in intact.items() if ref not in back and report.rewritten.get(was, was) in there]
        assert not dropped, (where, dropped, "these refs were dropped")
        history.gc()
        assert history.fsck(read_data=True).ok, where


RECIPES = (
    Recipe(
        name="salvage",
        promises=("P7",),
        what="a store is damaged, and every commit whose objects are left in its file comes back, bit for bit",
        unit="stores",
        goal=20_000,
        trials=trials,
    ),
)
