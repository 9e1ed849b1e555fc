"""The stores that are damaged: with every kind of object, frame, record and page in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import casckpt
from casckpt import Keep
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from tests.compat import features
from tests.history.pages import fill
from tests.trials.rot.view import View, view_of

_FILES = ("data.mdb", "mark", "gate")


@dataclass(frozen=True)
class Template:
    """A store as it is before the damage, and what it shows. stale: its data file as it was earlier."""

    path: Path
    files: dict[str, bytes]
    stale: bytes
    view: View

    def put(self, path: Path) -> None:
        """Make the folder a store as this one."""
        for name, data in self.files.items():
            (path / name).write_bytes(data)
        for name in ("examined", "lock.mdb"):
            (path / name).unlink(missing_ok=True)


def _mixed(path: Path) -> bytes:
    """Every codec, deltas over deltas, parts in place, released parts, free pages, tags, a reflog: in some 200 KB."""

    def state(number: int) -> dict[str, object]:
        return {
            "model": {name: held[:110].clone() for name, held in features.steps(number).items()},
            "optimizer": features.small(number)["optimizer"],
            "names": {f"layer.{n}": n for n in range(120)},
        }

    with casckpt.open(path, chunk_size=512, codec="small") as repo:
        for number in range(4):
            repo.commit(state(number), f"at {number}", step=number, metrics={"loss": 1 / (number + 1)})
        stale = (path / "data.mdb").read_bytes()
        repo.tag("v1", at="step:2")
        repo.commit(state(7), step=7, codec="none", meta={"a": [1, "b"]})
        repo.rollback("step:3")
        repo.branch("side", at="step:1")
        repo.commit(state(4), step=4, codec="auto")
        repo.expire_reflog(older_than=timedelta(0))
        repo.prune(Keep(last=3, branches=False, parts={"optimizer": Keep(last=2, tags=False, branches=False)}))
        repo.gc()
        repo.commit(state(5), step=5)
        repo.rollback("HEAD~1")
    return stale


def _deep(path: Path) -> bytes:
    """B-trees of several levels, and a free list of several entries."""
    with History(open_store(path, chunk_size=256)) as history:
        fill(history)
        stale = (path / "data.mdb").read_bytes()
        history.tag("v3")
        history.rollback("HEAD~1")
    return stale


def _feature(name: str, hash: str) -> Callable[[Path], bytes]:
    def make(path: Path) -> bytes:
        features.make(name, hash, path)
        stale = (path / "data.mdb").read_bytes()
        with casckpt.open(path) as repo:
            repo.tag("late")
            repo.commit(features.small(9))
        return stale

    return make


TEMPLATES: dict[str, Callable[[Path], bytes]] = {
    "mixed": _mixed,
    "deep": _deep,
    "paged": _feature("paged", "xxh3_128"),
    "dense": _feature("dense-small", "blake3"),
    "codecs": _feature("codec-small", "xxh3_128"),
    "history": _feature("history", "blake3"),
    "collected": _feature("collected", "xxh3_128"),
}


def template(name: str, folder: Path) -> Template:
    """Make a store, and look at what it shows."""
    path = folder / f"template {name}"
    stale = TEMPLATES[name](path)
    files = {one: (path / one).read_bytes() for one in _FILES}
    view = view_of(path)
    shutil.rmtree(path)
    return Template(path, files, stale, view)
