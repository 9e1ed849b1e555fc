"""Commands that work on a second store, on files beside one, or on what an earlier casckpt made: each from the opening
of its store to the closing, and what must hold of all that they touch, however far they came.

What a command only reads is as it was, byte for byte. What it writes is as before, whole in part, or done; and if it is
not done, the same command does it; a salvage, once what it names is removed.
"""

from __future__ import annotations

import hashlib
import mmap
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any

import torch

import casckpt
import tests.compat.states  # noqa: F401  registers what the golden stores hold
from casckpt.errors import (
    CorruptObjectError,
    NotAStoreError,
    PrunedCommitError,
    ReleasedPartError,
    StoreNotFoundError,
    UnknownRevisionError,
)
from casckpt.history import repair
from casckpt.history.repository import History
from casckpt.history.salvage import build
from casckpt.store.format import FORMAT_VERSION
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space, Store
from tests.equality import assert_same
from tests.history.damage import flip, keys, put
from tests.processes import ROOT
from tests.trials.model import Model
from tests.trials.oracle import AS_BEFORE, DONE, check_sound, check_states, look
from tests.trials.stages import DELTAS, tell
from tests.trials.story import copy_of, expected, small_batches, state

HALF = "a part of it"
_OF_A_STORE = {"data.mdb", "examined", "gate", "lock.mdb", "maintenance", "mark", "openers"}


@dataclass
class Known:
    """What must be known of a command before it begins. files: what it only reads, by digest. model: of its store.
    hidden: what is damaged, though fsck may not come to it yet."""

    model: Model
    files: dict[str, str] = field(default_factory=dict)
    loads: set[tuple[int, str]] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    version: int = FORMAT_VERSION


class Command(ABC):
    """A command that works in a folder. twice: whether it may be given again when all is done."""

    twice = True
    store = "store"
    """Where there is a store when it is done."""

    @abstractmethod
    def make(self, folder: Path, seed: int) -> Known:
        """Put there what it begins with."""

    @abstractmethod
    def do(self, folder: Path) -> None:
        """The command, whole."""

    @abstractmethod
    def look(self, folder: Path, known: Known) -> str:
        """How far it came: `AS_BEFORE`, `HALF` or `DONE`.

        Raises:
            AssertionError: there is something that must not be.
        """


# -- healing -----------------------------------------------------------------------------------------------------------


class Repair(Command):
    """A store that is damaged, and a backup of it from before."""

    def make(self, folder: Path, seed: int) -> Known:
        known = _with_backup(folder, seed)
        chance = Random(f"damage {seed}")
        with History(open_store(folder / "store", create=False)) as history:
            for space, lost, flipped in (
                (Space.CHUNK, 4, 2),
                (Space.NODE, 1, 1),
                (Space.TREE, 1, 0),
                (Space.COMMIT, 1, 0),
            ):
                known.hidden |= _damage(history.store, chance, space, lost, flipped)
        with casckpt.open(folder / "store", create=False) as repo:
            known.loads, known.damaged = _loading(repo, known.model), _damaged(repo)
        assert known.damaged
        return known

    def do(self, folder: Path) -> None:
        with casckpt.open(folder / "store", create=False) as repo:
            report = repo.repair(copy_of(folder / "store"))
            assert report.ok, report

    def look(self, folder: Path, known: Known) -> str:
        _check_read_only(folder, known)
        with casckpt.open(folder / "store", create=False) as repo:
            assert _refs(repo) == _refs_of(known.model)
            loads, damaged = _loading(repo, known.model), _damaged(repo)
            assert loads >= known.loads, f"lost: {known.loads - loads}"
            assert damaged <= known.damaged | known.hidden, f"newly damaged: {damaged - known.damaged}"
            if not repo.fsck(read_data=True).ok:
                return AS_BEFORE if loads == known.loads and damaged == known.damaged else HALF
            differs = known.model.differs(look(repo))
            assert not differs, differs
            check_states(repo, known.model)
            check_sound(repo)
        return DONE


class Salvage(Command):
    """A store whose heads are gone, and some of its objects, and a backup of it from before."""

    twice = False
    store = "new"

    def make(self, folder: Path, seed: int) -> Known:
        known = _with_backup(folder, seed)
        chance = Random(f"damage {seed}")
        frames: list[bytes] = []
        with History(open_store(folder / "store", create=False)) as history, history.store.read() as reader:
            for space, count in ((Space.CHUNK, 3), (Space.NODE, 1), (Space.TREE, 1)):
                frames += [
                    bytes(reader.get(space, key) or b"") for key in chance.sample(list(reader.keys(space)), count)
                ]
        file = folder / "store/data.mdb"
        data = bytearray(file.read_bytes())
        for frame in frames:
            data[:] = data.replace(frame, bytes(len(frame)))
        data[: 2 * mmap.PAGESIZE] = bytes(2 * mmap.PAGESIZE)
        file.write_bytes(data)
        known.files |= _digests(folder, [one for one in (folder / "store").rglob("*") if one.is_file()])
        return known

    def do(self, folder: Path) -> None:
        casckpt.salvage(folder / "store", folder / "new", others=[copy_of(folder / "store")])

    def look(self, folder: Path, known: Known) -> str:
        _check_read_only(folder, known)
        here = {str(one.relative_to(folder)) for one in (folder / "store").rglob("*") if one.is_file()}
        assert here <= known.files.keys(), f"in the damaged store: {here - known.files.keys()}"
        try:
            repo = casckpt.open(folder / "new", create=False)
        except (StoreNotFoundError, NotAStoreError) as error:
            assert not (folder / "new/data.mdb").exists(), error
            there = {one.name for one in (folder / "new").iterdir()} if (folder / "new").exists() else set()
            assert "a salvage to this folder" in str(error) or there <= {"gate"}, error
            return AS_BEFORE
        with repo:
            assert _refs(repo) == _refs_of(known.model), "what came back is not all"
            assert _loading(repo, known.model) == _all(known.model), "what came back is not all"
            check_sound(repo)
        return DONE


def _with_backup(folder: Path, seed: int) -> Known:
    """A store and a whole backup of it beside it."""
    model = tell(folder / "store", seed, (*DELTAS, "tag", "backup"))
    model.copied = None
    files = [copy_of(folder / "store") / name for name in ("data.mdb", "mark")]
    return Known(model, _digests(folder, files))


def _damage(store: Store, chance: Random, space: Space, lost: int, flipped: int) -> set[str]:
    """Returns the ids of what is there and damaged: who looks through the store finds it when he comes to it."""
    chosen = chance.sample(keys(store, space), lost + flipped)
    for key in chosen[:lost]:
        put(store, space, key, None)
    for key in chosen[lost:]:
        flip(store, space, key)
    return {key.hex() for key in chosen[lost:]}


def _digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    return {str(one.relative_to(folder)): hashlib.sha256(one.read_bytes()).hexdigest() for one in files}


def _check_read_only(folder: Path, known: Known) -> None:
    """What the command only reads is there, as it was."""
    now = _digests(folder, [folder / name for name in known.files])
    changed = [name for name in now if now[name] != known.files[name]]
    assert not changed, f"changed, though only to be read: {changed}"


def _refs(repo: casckpt.Repository) -> dict[str, str]:
    return {f"{ref.kind}/{ref.name}": ref.commit for ref in repo.refs()}


def _refs_of(model: Model) -> dict[str, str]:
    return {ref: model.commits[step].id for ref, step in model.refs.items()}


def _all(model: Model) -> set[tuple[int, str]]:
    return {(step, part) for step in model.commits for part in expected(model, step)}


def _loading(repo: casckpt.Repository, model: Model) -> set[tuple[int, str]]:
    """The parts of commits that load: exactly what was saved, every one of them."""
    found = set()
    for step, part in _all(model):
        try:
            held = repo.load(model.commits[step].id, paths=[f"{part}.*"])
        except (CorruptObjectError, UnknownRevisionError):
            continue
        assert_same({part: expected(model, step)[part]}, held)
        found.add((step, part))
    return found


def _damaged(repo: casckpt.Repository) -> set[str]:
    """Ids of what lies in the store and is not what it should be."""
    return {one.object for one in repo.fsck(read_data=True).findings if one.id.startswith("damaged-")}


# -- importing ---------------------------------------------------------------------------------------------------------


class ImportFolder(Command):
    """A store with a commit, and a folder of checkpoints, each of which is a commit afterwards."""

    checkpoints = 3

    def make(self, folder: Path, seed: int) -> Known:
        model = tell(folder / "store", seed, ("commit none",))
        (folder / "files").mkdir()
        for step in range(model.next, model.next + self.checkpoints):
            torch.save(state(seed, step), folder / f"files/step-{step}.pt")
        return Known(model, _digests(folder, (folder / "files").iterdir()))

    def do(self, folder: Path) -> None:
        with casckpt.open(folder / "store", create=False) as repo:
            there = len(list(repo.log()))
            report = repo.import_folder(folder / "files")
            assert report.taken == 1 + self.checkpoints - there, "it took again what was there"

    def look(self, folder: Path, known: Known) -> str:
        _check_read_only(folder, known)
        with casckpt.open(folder / "store", create=False) as repo:
            line = list(repo.log())[::-1]
            assert len(line) == len(repo.reflog())
            assert [one.step for one in line] == list(range(len(line)))
            for one in line:
                assert_same(state(known.model.seed, one.step or 0), repo.load(one.id))
            check_sound(repo)
        return (AS_BEFORE, *[HALF] * (self.checkpoints - 1), DONE)[len(line) - known.model.next]


class ImportFile(ImportFolder):
    """One of them by its name."""

    twice = False
    checkpoints = 1

    def do(self, folder: Path) -> None:
        with casckpt.open(folder / "store", create=False) as repo:
            (file,) = (folder / "files").iterdir()
            repo.import_file(file, step=len(list(repo.log())))


# -- reinstating -------------------------------------------------------------------------------------------------------


class Reinstate(Command):
    """The state of an earlier commit, whole, and then a part of another."""

    def make(self, folder: Path, seed: int) -> Known:
        return Known(tell(folder / "store", seed, DELTAS))

    def do(self, folder: Path) -> None:
        with casckpt.open(folder / "store", create=False) as repo:
            line = list(repo.log())[::-1]
            if len(line) == len(DELTAS):
                line.append(repo.reinstate(line[0].id))
            if len(line) == len(DELTAS) + 1:
                repo.reinstate(line[1].id, parts=["model"])

    def look(self, folder: Path, known: Known) -> str:
        model = known.model
        steps = [(step, step) for step in range(len(DELTAS))] + [(0, 0), (1, 0)]  # of the model, and of all else
        with casckpt.open(folder / "store", create=False) as repo:
            line = list(repo.log())[::-1]
            assert len(line) == len(repo.reflog())
            assert [one.id for one in line[: len(DELTAS)]] == [model.commits[step].id for step in sorted(model.commits)]
            for one, (of_model, of_all_else) in zip(line, steps, strict=False):
                held = {**state(model.seed, of_all_else), "model": state(model.seed, of_model)["model"]}
                assert_same(held, repo.load(one.id))
            check_sound(repo)
        return (AS_BEFORE, HALF, DONE)[len(line) - len(DELTAS)]


# -- an earlier format -------------------------------------------------------------------------------------------------


class Upgrade(Command):
    """A store that an earlier casckpt made, brought up to today's format by repack. As it was it lies beside it."""

    def make(self, folder: Path, seed: int) -> Known:
        golden = sorted(one for one in (ROOT / "tests/compat").glob("v*-*") if _version(one) < FORMAT_VERSION)
        chosen = golden[seed % len(golden)]
        for name in ("store", "was"):
            (folder / name).mkdir()
            for file in chosen.iterdir():
                shutil.copy2(file, folder / name)
        return Known(Model(seed), version=_version(chosen))

    def do(self, folder: Path) -> None:
        with casckpt.open(folder / "store", create=False) as repo:
            repo.repack(codec="small")

    def look(self, folder: Path, known: Known) -> str:
        with casckpt.open(folder / "store", create=False) as repo, casckpt.open(folder / "was", create=False) as was:
            view = look(was)
            assert look(repo) == view
            for oid in view.commits:
                before, now = (_held(one, oid) for one in (was, repo))
                assert_same(before, now)
            check_sound(repo)
            version = repo.store.format.version
            assert version in (known.version, FORMAT_VERSION)
        return AS_BEFORE if version == known.version else DONE


def _version(golden: Path) -> int:
    return int("".join(takewhile(str.isdigit, golden.name[1:])))


def _held(repo: casckpt.Repository, oid: str) -> Any:
    try:
        return repo.load(oid)
    except (PrunedCommitError, ReleasedPartError) as error:
        return type(error).__name__


COMMANDS: dict[str, Command] = {
    "repair": Repair(),
    "salvage": Salvage(),
    "import a folder": ImportFolder(),
    "import a file": ImportFile(),
    "reinstate": Reinstate(),
    "upgrade": Upgrade(),
}


def in_small_steps() -> None:
    """Have all that commands do in batches done in many small ones, in this process from now on."""
    small_batches()
    repair.WRITE_BATCH = build.WRITE_BATCH = 16 << 10
    repair._RECORDS_AT_ONCE = 2


def remove_left(store: Path) -> None:
    """What a salvage that was killed tells to remove. It may lie beside a store that is whole."""
    for left in store.glob("salvaging-*"):
        shutil.rmtree(left)


def finish(command: Command, folder: Path, known: Known) -> str:
    """Look how far a command came, give it again, and go on with its store; returns how far it had come.

    Raises:
        AssertionError: a promise is broken.
    """
    in_small_steps()
    said = command.look(folder, known)
    store = folder / command.store
    remove_left(store)
    if said != DONE or command.twice:
        command.do(folder)
        assert (again := command.look(folder, known)) == DONE, f"{said}, and given again: {again}"
    there = {one.name for one in store.iterdir()}
    assert there <= _OF_A_STORE, f"what was begun lies there still: {there - _OF_A_STORE}"
    with casckpt.open(store, create=False) as repo:
        held = state(known.model.seed, 99)
        repo.commit(held, step=99)
        repo.gc()
        assert_same(held, repo.load())
        check_sound(repo)
    return said
