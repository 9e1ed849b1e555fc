"""Disks that are full: real small file systems that fill up while a store is written to, and prune and gc that cure it.

Each is a tmpfs of its own, mounted in a namespace that nobody else sees. Where not even a user namespace may be had, a
limit on the size of files stands for the disk (as in tests/store/test_full_disk.py), and the outcomes say "limit".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import casckpt
from casckpt.errors import CasckptError, ExportFullError, StoreFailedError, StoreFullError
from casckpt.limits import KIB, MIB
from casckpt.store import backup, compact
from casckpt.store.environment import Environment
from casckpt.tensors.formats import replace
from tests.trials.faults import leave
from tests.trials.model import Act, Model
from tests.trials.oracle import go_on, hold
from tests.trials.recipe import Recipe
from tests.trials.story import Story, small_batches
from tests.trials.warm import fork, in_child, warm

DISK = 24 * MIB
COMMITS = 44
"""Of the store that lies ready: enough that what prune and gc give back is room for the next commit."""
WORKS = ("commit", "commit behind", "gc", "compact", "repack", "backup", "export")
LEFT = (0, 4 * KIB, 40 * KIB, 200 * KIB, MIB + 100 * KIB, 3 * MIB)
"""Bytes that are left on the disk, at most, when the work begins."""

_NEWNS, _NEWUSER = 0x20000, 0x10000000  # CLONE_… of linux/sched.h
_PRIVATE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE of linux/mount.h
_DETACH = 2  # MNT_DETACH
_libc = ctypes.CDLL(None, use_errno=True)


# -- disks -------------------------------------------------------------------------------------------------------------


@cache
def can_mount() -> bool:
    """Whether this process may mount what only it and its children see; from now on it is in such a namespace.

    A child tries it first: where only the last step is refused, this process would be left in a namespace of no use.
    """
    child = fork()
    if child == 0:
        code = 1
        try:
            code = 0 if _own_mounts() else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0 and _own_mounts()


def _own_mounts() -> bool:
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_NEWNS) != 0:
        if _libc.unshare(_NEWUSER | _NEWNS) != 0:
            return False
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        except OSError:  # as where user namespaces are restricted: one may be had, and is good for nothing
            return False
    return _libc.mount(b"none", b"/", None, _PRIVATE, None) == 0


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A small disk at `folder`, if there can be one; says whether it is one."""
    folder.mkdir()
    mounted = can_mount() and _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % DISK) == 0
    try:
        yield mounted
    finally:
        if mounted:
            _libc.umount2(os.fsencode(folder), _DETACH)
        shutil.rmtree(folder, ignore_errors=True)


class Ballast:
    """What others have on the disk."""

    def __init__(self, folder: Path, is_disk: bool) -> None:
        self._file = folder / "ballast"
        self._store = folder / "store/data.mdb"
        self._is_disk = is_disk

    def fill(self, left: int) -> None:
        """Leave at most so many bytes."""
        if not self._is_disk:
            end = self._store.stat().st_size + left
            resource.setrlimit(resource.RLIMIT_FSIZE, (end, resource.RLIM_INFINITY))
            return
        free = os.statvfs(self._file.parent)
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(descriptor, 0, max(1, free.f_bavail * free.f_frsize - left))
        os.close(descriptor)

    def remove(self) -> None:
        if self._is_disk:
            self._file.unlink()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


# -- trials ------------------------------------------------------------------------------------------------------------


def trial(seed: int, folder: Path) -> Counter[str]:
    """One work on a disk that has little room; whether it was looked at beforehand how little, the seed says too."""
    template, model = _template(folder, seed // 1000)
    place, work = divmod(seed, len(WORKS))
    place, left = divmod(place, len(LEFT))
    with disk(folder / "disk") as is_disk:
        shutil.copytree(template, folder / "disk/store")
        said = in_child(_case, folder / "disk", model, WORKS[work], LEFT[left], seed, is_disk)
    return Counter([f"{WORKS[work]}{'' if is_disk else ' (limit)'}: {said}"])


_made: dict[tuple[Path, int], tuple[Path, Model]] = {}


def _template(folder: Path, seed: int) -> tuple[Path, Model]:
    key = folder, seed
    if key not in _made:
        _made.clear()
        path = folder / f"template {seed}"
        _made[key] = path, in_child(_make, path, seed)
    path, model = _made[key]
    return path, model.copy()


def _make(path: Path, seed: int) -> Model:
    small_batches()
    model = Model(seed)
    story = Story(path, model)
    story.do(Act("open"))
    for _ in range(COMMITS):
        story.do(Act("commit", step=model.next, codec="none"))
    story.do(Act("close"))
    return model


def _case(folder: Path, model: Model, work: str, left: int, seed: int, is_disk: bool) -> str:
    chance = Random(f"full {seed}")
    small_batches()
    path, ballast = folder / "store", Ballast(folder, is_disk)
    story = Story(path, model)
    story.do(Act("open"))
    if work == "gc":
        story.do(Act("prune", keep=COMMITS // 2))
    story.do(Act("commit", step=model.next, codec="none"))  # a store in use has taken its reserve
    ballast.fill(chance.randint(0, left))
    error: CasckptError | None = None
    with _nobody_looks() if chance.random() < 0.6 else contextlib.nullcontext():
        try:
            story.do(_act(model, work))
        except (StoreFullError, StoreFailedError, ExportFullError) as raised:
            error = raised
    said = "success" if error is None else type(error).__name__
    if error is not None:
        assert work != "gc", f"gc works on a full disk: {error}"
    repo = _usable(path, story, error)
    before = hold(path, repo, model)
    assert error is None or work != "commit" or isinstance(error, StoreFailedError) or before == "no newer", before
    cure = Story(path, model, repo=repo)
    for act in (Act("prune", keep=1), Act("gc"), Act("commit", step=model.next, codec="none")):
        cure.do(act)
    hold(path, cure.repo, model)
    ballast.remove()
    go_on(path, model, cure.repo)
    return f"{said}, {before}"


def _act(model: Model, work: str) -> Act:
    if work == "commit":
        return Act(work, step=model.next, codec="none")
    if work == "commit behind":
        return Act(work, step=model.next, count=2, codec="none")
    if work == "repack":
        return Act(work, codec="small")
    return Act(work, at=model.next - 1)


def _usable(path: Path, story: Story, error: CasckptError | None) -> casckpt.Repository:
    """The handle, or another one if that says so."""
    repo = story.repo
    try:
        list(repo.refs())
    except StoreFailedError:
        assert error is not None
        leave(repo)
        repo = casckpt.open(path, create=False)
    return repo


@contextlib.contextmanager
def _nobody_looks() -> Iterator[None]:
    """As where others fill the disk behind a look at how much room there is."""
    holders = (
        (Environment, "check_room"),
        (compact._Copy, "_check_room"),
        (backup, "_check_room"),
        (replace, "check_room"),
    )
    held = [getattr(holder, name) for holder, name in holders]
    for holder, name in holders:
        setattr(holder, name, lambda *arguments: None)
    try:
        yield
    finally:
        for (holder, name), real in zip(holders, held, strict=True):
            setattr(holder, name, real)


RECIPES = (
    Recipe(
        name="full-disk",
        promises=("P1", "P3", "P4"),
        what="a real small disk fills up during an operation; prune and gc cure it while it is still full",
        unit="disks",
        goal=4_000,
        trials=warm("tests.trials.full:trial"),
    ),
)
