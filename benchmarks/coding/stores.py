"""What whole histories take in a store, what loads and stalls cost with deltas, and what gc makes of a pruned one.

Sizes are those of files, after `compact`; what the disk is made to keep free behind a store's file, 4 MiB, is not in
them. The histories are those that the runs committed on their way, commit by commit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

import casckpt
from benchmarks.disk import remove, settle
from benchmarks.measure import BYTES, SECONDS, SHARE, Series, Turn, alternate, seconds_of
from benchmarks.memory import give_back, warm
from benchmarks.rows.stall import casckpt_turn
from benchmarks.states import State, dense
from casckpt.history.bases import depth_of
from casckpt.history.fetch import Objects
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import leaves
from casckpt.objects.tree import expand
from casckpt.objects.values import ArrayRecord, BlobRecord, TensorRecord

AUTO, RAW = "auto", "none"
EVERY_SECOND = 2

Figures = dict[str, dict[str, Series]]
"""Quantity, then system."""


@contextmanager
def anew(history: Path, folder: Path, commits: int | None = None) -> Iterator[Path]:
    """The first so many commits of a history, or all, in a store of their own with codec "auto", gone afterwards."""
    path = folder / "store"
    with casckpt.open(history) as repo:
        _copy(repo, list(repo.log())[::-1][:commits], path, AUTO)
    try:
        yield path
    finally:
        remove(path)


def sizes(title: str, path: Path, folder: Path, modes: Iterable[str]) -> Figures:
    """Share of the states' bytes that a history takes, as it was written, and coded anew with other modes."""
    with casckpt.open(path) as repo:
        commits = list(repo.log())[::-1]
        raw = sum(_logical(commit) for commit in commits)
        shares = {AUTO: file_size(path) / raw}
        for mode in modes:
            _copy(repo, commits, folder / "again", mode)
            shares[mode] = file_size(folder / "again") / raw
            remove(folder / "again")
    series = {mode: Series(SHARE, (share,)) for mode, share in shares.items()}
    return {f"file of {title}, {len(commits)} commits": series}


def loads(what: str, path: Path, folder: Path, repeats: int) -> tuple[Figures, float]:
    """Seconds to load the commit whose chunks lie over the most deltas, against the same state stored raw; and over how
    many, in the mean of its bytes. what: the name of the figures."""
    with casckpt.open(path) as repo, casckpt.open(folder / "raw", codec=RAW) as raw:
        newest = list(repo.log(limit=8))
        depths = {commit.id: depth(repo, commit.id) for commit in newest}
        deepest = max(newest, key=lambda commit: depths[commit.id])
        raw.commit(repo.load(deepest.id))
        size = _logical(deepest)

        def turn(at: casckpt.Repository, revision: str) -> Turn:
            def load() -> float:
                give_back()
                warm(size)
                return seconds_of(lambda: at.load(revision))

            return load

        turns = {AUTO: turn(repo, deepest.id), RAW: turn(raw, "HEAD")}
        found = alternate(turns, repeats=repeats, warm_up=2)
    remove(folder / "raw")
    return {what: found}, depths[deepest.id]


def stalls(total: int, repeats: int, folder: Path) -> Figures:
    """Seconds for which `commit_async` stands still, everything changed, and until such a commit is durable."""
    state = dense(total, "fp32")
    with casckpt.open(folder / AUTO, codec=AUTO) as auto, casckpt.open(folder / RAW, codec=RAW) as raw:
        repos = {AUTO: auto, RAW: raw}
        found: Figures = {
            "stall": alternate(
                {name: casckpt_turn(repo, state, drift) for name, repo in repos.items()}, repeats=repeats, warm_up=2
            )
        }
        turns = {name: _durable(repo, state) for name, repo in repos.items()}
        found["durable commit"] = alternate(turns, repeats=repeats, warm_up=1)
    for name in repos:
        remove(folder / name)
    return found


def collected(path: Path, folder: Path) -> Figures:
    """Every second commit pruned, gc, compact: bytes of the file, against a new store with the survivors alone."""
    with casckpt.open(path) as repo:
        report = repo.prune(casckpt.Keep(every_steps=EVERY_SECOND))
        began = time.perf_counter()
        repo.gc()
        taken = time.perf_counter() - began
        repo.compact()
        survivors = [commit for commit in list(repo.log())[::-1] if not commit.pruned]
        assert len(survivors) == len(report.kept)
        _copy(repo, survivors, folder / "fresh", AUTO)
    files = {"pruned": file_size(path), "fresh": file_size(folder / "fresh")}
    remove(folder / "fresh")
    bytes_ = {name: Series(BYTES, (float(size),)) for name, size in files.items()}
    return {"file after gc": bytes_, "gc": {"pruned": Series(SECONDS, (taken,))}}


def drift(state: State, step: int) -> None:
    """About what a dense update does to float32: every word moves by some thousand of its last places."""
    for tensor in state.values():
        tensor.mul_(1.0001)


def file_size(store: Path) -> int:
    """Bytes of a store's files."""
    return sum(path.stat().st_size for path in store.iterdir() if path.is_file())


def depth(repo: casckpt.Repository, commit: str) -> float:
    """The deltas that a commit's chunks lie over, in the mean."""
    with repo.store.read() as reader:
        objects = Objects(reader, repo.scheme)
        tree = objects.tree(objects.commit(bytes.fromhex(commit)).tree)
        chunks = [
            chunk
            for _, leaf in leaves(expand(tree, objects.tree))
            if isinstance(leaf, (TensorRecord, ArrayRecord, BlobRecord)) and isinstance(leaf.storage, NodeRef)
            for chunk in objects.node(leaf.storage.id).ids()
        ]
        return mean(depth_of(reader, chunk) for chunk in chunks)


def _copy(repo: casckpt.Repository, commits: list[casckpt.Commit], path: Path, mode: str) -> None:
    """The states of some commits, in order, in a store of their own."""
    with casckpt.open(path, codec=mode) as into:
        for commit in commits:
            into.commit(repo.load(commit.id), step=commit.step)
        into.compact()


def _durable(repo: casckpt.Repository, state: State) -> Turn:
    def turn() -> float:
        drift(state, 0)
        settle()
        return seconds_of(lambda: repo.commit(state))

    return turn


def _logical(commit: casckpt.Commit) -> int:
    assert commit.figures is not None
    return commit.figures.logical
