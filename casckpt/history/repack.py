"""Encodes what is stored anew: in another mode, or as deltas what was written without. Ids stay as they are.

It must leave every chunk readable, whenever it ends and however.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from casckpt.errors import StoreSettingsError
from casckpt.history.commits import CommitReader
from casckpt.history.fetch import Objects
from casckpt.history.lineage import Lineage, Placed
from casckpt.history.recode import Coded, Recoded, Recoder
from casckpt.history.records import get_mark
from casckpt.history.walk import roots
from casckpt.limits import CODECS
from casckpt.objects.encoding import depth_limit
from casckpt.objects.frame import Codec
from casckpt.objects.ids import IdScheme
from casckpt.store.protocol import Progress, Store, no_progress

# A new frame must be that much smaller than what it replaces: writing has its price too.
_WORTH: Final = {"fast": 0.97, "auto": 0.97, "small": 0.99}


@dataclass(frozen=True, slots=True)
class RepackReport:
    """What repack did, or with `dry_run` would do.

    commits: whose chunks were looked at. chunks: looked at, each once; before, after: bytes of their frames.
    reencoded_chunks: of these, those that got another frame; reencoded_before, reencoded_after: bytes of those frames.
    damaged: chunks that cannot be read, and are as they were. codecs_before, codecs_after: of the chunks that were
    looked at, by the name of the codec, how many, and the bytes of their frames.
    """

    dry_run: bool
    mode: str
    commits: int
    chunks: int
    before: int
    after: int
    reencoded_chunks: int
    reencoded_before: int
    reencoded_after: int
    damaged: int
    codecs_before: dict[str, tuple[int, int]]
    codecs_after: dict[str, tuple[int, int]]
    seconds: float


def repack(
    store: Store,
    scheme: IdScheme,
    *,
    mode: str | None = None,
    commits: Collection[bytes] | None = None,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> RepackReport:
    """Re-encode chunks, the oldest commit's first, where that is worth it or the mode asks for it.

    mode: one of limits.CODECS; None: the store's. commits: ids of those whose chunks are looked at; None: all.

    Raises:
        StoreSettingsError: an unknown mode.
        StoreBusyError: gc, repack or compact is under way elsewhere; or the store is of an earlier format, and others
            have it open.
        MissingObjectError, CorruptObjectError: a commit, tree or node cannot be read; nothing was changed.
        StoreFullError: what was done is done.
    """
    began = time.monotonic()
    chosen = store.format.codec if mode is None else mode
    if chosen not in CODECS:
        raise StoreSettingsError(
            f"unknown codec {chosen!r}", store=store.path, remedy=f"use one of {', '.join(CODECS)}"
        )
    with store.maintenance():
        if not dry_run:
            store.upgrade()
        progress("looking at history", 0, 0)
        with store.read() as reader:
            lineage = Lineage(Objects(reader, scheme))
            order = [
                oid
                for oid in lineage.ancestors_first(roots(reader))
                if (commits is None or oid in commits) and not get_mark(reader, oid).pruned
            ]
            tasks: list[Placed] = list(lineage.placed(order))
        among = _Others({task.id for task in tasks})
        recoder = Recoder(
            store, scheme, chosen, partial(_wants, chosen), dry_run=dry_run, progress=progress, among=among
        )
        done = recoder.run(tasks)
        if done.chunks and not dry_run:
            with store.write(durable=True, room=None):
                pass  # sees onto the disk what was put before it
    return _report(done, chosen, len(order), len(tasks), dry_run, time.monotonic() - began)


class _Others:
    """All chunks but those that are looked at."""

    def __init__(self, looked_at: set[bytes]) -> None:
        self._looked_at = looked_at

    def __contains__(self, oid: object) -> bool:
        return oid not in self._looked_at


def _wants(mode: str, task: Placed, old: Coded, new: Coded) -> bool:
    if mode == "none":
        return old.codec is not Codec.RAW
    return old.depth > depth_limit(mode, task.words) or new.size < _WORTH[mode] * old.size


def _report(done: Recoded, mode: str, commits: int, chunks: int, dry_run: bool, seconds: float) -> RepackReport:
    return RepackReport(
        dry_run=dry_run,
        mode=mode,
        commits=commits,
        chunks=chunks,
        before=sum(size for _, size in done.codecs_before.values()),
        after=sum(size for _, size in done.codecs_after.values()),
        reencoded_chunks=done.chunks,
        reencoded_before=done.before,
        reencoded_after=done.after,
        damaged=len(done.failed),
        codecs_before={codec.name.lower(): found for codec, found in sorted(done.codecs_before.items())},
        codecs_after={codec.name.lower(): found for codec, found in sorted(done.codecs_after.items())},
        seconds=seconds,
    )


def commits_in(commits: CommitReader, resolve: Callable[[str], bytes], revisions: Iterable[str]) -> set[bytes]:
    """The commits that revisions name, each one, or "A..B": what leads to B and not to A.

    Raises:
        UnknownRevisionError, AmbiguousRevisionError
    """
    found: set[bytes] = set()
    for revision in revisions:
        start, dots, end = revision.partition("..")
        if dots:
            found.update(_between(commits, resolve(start or "HEAD"), resolve(end or "HEAD")))
        else:
            found.add(resolve(revision))
    return found


def _between(commits: CommitReader, start: bytes, end: bytes) -> Iterator[bytes]:
    before = set(commits.walk([start]))
    return (oid for oid in commits.walk([end]) if oid not in before)
