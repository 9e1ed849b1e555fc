"""A handle on the history of one store, bound to a branch. What needs torch is added in `casckpt.tensors.repository`.

A handle reads HEAD once, when it is made; what other handles switch to never moves it (I3). It remembers where its
branch was when it last looked or moved it, and goes on from there only: if somebody else moved the branch in between,
that is an error, not a merge.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from casckpt.errors import RefError, RefExistsError, RefNotFoundError
from casckpt.history.commits import Commit, CommitReader, Walk
from casckpt.history.fetch import Objects
from casckpt.history.ingest import Ingest
from casckpt.history.maintained import Maintained
from casckpt.history.records import (
    BRANCH,
    TAG,
    all_refs,
    check_not_pruned,
    expire_moves,
    get_head,
    get_mark,
    get_ref,
    move_ref,
    moves_since,
    older,
    set_head,
)
from casckpt.history.refs import Ref, ReflogEntry, list_moves, list_refs
from casckpt.history.revisions import Resolver
from casckpt.objects.names import check_ref_name
from casckpt.objects.paths import Globs
from casckpt.objects.tree import shallow
from casckpt.objects.values import Map, Value
from casckpt.store.protocol import Progress, Reader, Store, no_progress

if TYPE_CHECKING:
    from casckpt.history.diff import Change, Side
    from casckpt.history.listing import Leaf
    from casckpt.history.parts import Part
    from casckpt.history.repack import RepackReport

T = TypeVar("T")

# Commits are decoded once; beyond so many, the memory would be noticed.
_MOST_KNOWN = 100_000
# Commits that the log reads in one transaction.
_LOG_PAGE = 256


class History(Maintained):
    """The commits, branches and tags of one store, through a handle bound to one branch. Thread-safe.

    store: closed with the handle. branch: the one to be bound to; None: what HEAD names.
    """

    def __init__(self, store: Store, branch: str | None = None) -> None:
        super().__init__(store)
        self.metric_modes: dict[str, str] = {}
        self._in_doubt: bytes | None = None  # a commit whose publishing was interrupted
        with store.read() as reader:
            self._branch = get_head(reader) if branch is None else check_ref_name(branch)
            self._tip = get_ref(reader, BRANCH + self._branch)

    def _new_locks(self) -> None:
        super()._new_locks()
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} on {self.current_branch}>"

    @property
    def current_branch(self) -> str:
        """The branch that this handle is bound to."""
        return self._branch

    # -- looking -------------------------------------------------------------------------------------------------------

    def _commits(self, reader: Reader) -> CommitReader:
        if len(self._known) > _MOST_KNOWN:
            self._known = {}
        return CommitReader(Objects(reader, self.scheme), self._known)

    def _resolve(self, commits: CommitReader, revision: str) -> bytes:
        return Resolver(commits, self._branch, self.metric_modes).resolve(revision)

    def resolve(self, revision: str = "HEAD") -> Commit:
        """The commit that a revision names; `casckpt.history.revisions` lists the ways to name one.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError
        """
        with self.store.read() as reader:
            commits = self._commits(reader)
            return commits.load(self._resolve(commits, revision))

    def repack(
        self,
        revisions: str | Iterable[str] | None = None,
        *,
        codec: str | None = None,
        dry_run: bool = False,
        progress: Progress = no_progress,
    ) -> RepackReport:
        """Encode what is stored anew, where that makes it smaller or the codec asks for it; ids and contents stay.

        Others may read and write meanwhile. It can be interrupted anywhere, and run again. Bytes come back with the
        next `compact`. A store of an earlier format is upgraded first.

        revisions: a commit, a range "A..B" (what leads to B and not to A), or several of these; None: all that is kept.
        codec: "none", "fast", "auto" or "small"; None: the store's. Later commits are stored as the store says all the
        same. dry_run: do all but the writing.

        Raises:
            StoreSettingsError, UnknownRevisionError, AmbiguousRevisionError
            StoreBusyError: gc, repack or compact is under way elsewhere; or the store is of an earlier format, and
                other processes have it open.
            StoreFullError: what was done so far is done.
            MissingObjectError, CorruptObjectError: the store is damaged.
        """
        from casckpt.history.repack import commits_in, repack

        wanted = [revisions] if isinstance(revisions, str) else revisions
        with self._collecting:
            chosen = None
            if wanted is not None:
                chosen = self.reading(lambda commits: commits_in(commits, partial(self._resolve, commits), wanted))
            return repack(self.store, self.scheme, mode=codec, commits=chosen, dry_run=dry_run, progress=progress)

    def log(self, revision: str | None = "HEAD", limit: int | None = None) -> Iterator[Commit]:
        """Commits from a revision back, the newest first, read as they are asked for; None: from every branch and tag.

        limit: at most so many. An empty store has an empty log. A half-read iterator holds no transaction.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError
        """
        walk = Walk()
        left = sys.maxsize if limit is None else limit
        with self.store.read() as reader:
            commits = self._commits(reader)
            if revision is None:
                walk.push(commits, [oid for _, oid in all_refs(reader)])
            elif revision != "HEAD" or get_ref(reader, BRANCH + self._branch) is not None:
                walk.push(commits, [self._resolve(commits, revision)])
        while left > 0:
            with self.store.read() as reader:
                commits = self._commits(reader)
                page = list(islice(iter(partial(walk.pop, commits), None), min(left, _LOG_PAGE)))
                loaded = [commits.load(oid) for oid in page]
            yield from loaded
            left = left - len(page) if len(page) == _LOG_PAGE else 0

    def refs(self) -> list[Ref]:
        """Branches, then tags, each in the order of their names."""
        with self.store.read() as reader:
            return list_refs(reader, self._branch)

    def reflog(self, branch: str | None = None, limit: int | None = None) -> list[ReflogEntry]:
        """The moves of a branch, the newest first, at most `limit`; None: of every branch and tag."""
        with self.store.read() as reader:
            return list(islice(list_moves(reader, branch), limit))

    def diff(self, old: str, new: str = "HEAD", *, paths: Iterable[str] | str | None = None) -> list[Change]:
        """What differs between the states of two commits, by leaf; parts that either has released are left out.

        paths: globs over `.`-joined paths, such as "model.*"; only what they take is looked at.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
        """
        from casckpt.history.diff import changes, pairs

        def work(commits: CommitReader) -> list[Change]:
            before, after = self.sides(commits, old, new)
            return list(changes(before, after, pairs(before, after, globs=Globs.of(paths))))

        return self.reading(work)

    def sides(self, commits: CommitReader, *revisions: str) -> list[Side]:
        """The states of commits within one transaction, to be compared: without parts that any of them has released."""
        from casckpt.history.diff import Side

        ids = [self._resolve(commits, revision) for revision in revisions]
        reader, objects = commits.objects.reader, commits.objects
        for oid in ids:
            check_not_pruned(reader, oid)
        released = [part for oid in ids for part in get_mark(reader, oid).released]
        roots = [shallow(objects.tree(commits.stored(oid).tree), objects.tree) for oid in ids]
        return [Side(objects, _without(root, released)) for root in roots]

    def ls(self, revision: str = "HEAD", paths: Iterable[str] | str | None = None) -> list[Leaf]:
        """The leaves of a commit's state, from its trees alone: no chunk is read. Released parts are told as such.

        paths: globs over `.`-joined paths, such as "model.*".

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
        """
        from casckpt.history.listing import list_leaves

        def work(commits: CommitReader) -> list[Leaf]:
            oid = self._resolve(commits, revision)
            reader = commits.objects.reader
            check_not_pruned(reader, oid)
            root, released = commits.stored(oid).tree, get_mark(reader, oid).released
            return list(list_leaves(commits.objects, root, released, Globs.of(paths)))

        return self.reading(work)

    def parts(self, revision: str = "HEAD") -> list[Part]:
        """The parts (top-level keys) of a commit's state, with their sizes; no chunk is read.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
        """
        from casckpt.history.parts import parts

        with self.store.read() as reader:
            commits = self._commits(reader)
            oid = self._resolve(commits, revision)
            check_not_pruned(reader, oid)
            return parts(commits.objects, commits.stored(oid).tree, get_mark(reader, oid).released)

    def _settle(self) -> None:
        """Where a move of the branch was interrupted, look whether it came about: then this handle knows its tip."""
        if self._in_doubt is not None:
            with self.store.read() as reader:
                if get_ref(reader, BRANCH + self._branch) == self._in_doubt:
                    self._tip = self._in_doubt
            self._in_doubt = None

    # -- moving refs ---------------------------------------------------------------------------------------------------

    def branch(self, name: str, at: str = "HEAD") -> Commit:
        """Make a branch that begins at a commit; the handle stays where it is.

        Raises:
            InvalidRefNameError, RefExistsError, PrunedCommitError, UnknownRevisionError, AmbiguousRevisionError
        """
        return self._create(BRANCH, name, at)

    def tag(self, name: str, at: str = "HEAD") -> Commit:
        """Give the commit `at` a name that stays. Raises as `branch` does."""
        return self._create(TAG, name, at)

    def _create(self, prefix: str, name: str, at: str) -> Commit:
        ref = prefix + check_ref_name(name)
        kind = prefix.rstrip("/")
        with self.store.write(durable=True, room=_SMALL) as writer:
            commits = self._commits(writer)
            oid = self._resolve(commits, at)
            if get_ref(writer, ref) is not None:
                raise RefExistsError(
                    f"there is a {kind} {name!r} already",
                    ref=name,
                    remedy=f"choose another name, or delete it first with `casckpt {kind} --delete {name}`",
                )
            move_ref(writer, ref, expected=None, new=oid, action=f"{kind} at {at}")
            return commits.load(oid)

    def delete_branch(self, name: str) -> None:
        """Take a branch away. Its commits stay reachable by the reflog until that is expired.

        Raises:
            RefNotFoundError
            RefError: the handle, or HEAD, is on it.
        """
        self._delete(BRANCH, name)

    def delete_tag(self, name: str) -> None:
        """Take a tag away. Raises RefNotFoundError."""
        self._delete(TAG, name)

    def _delete(self, prefix: str, name: str) -> None:
        kind = prefix.rstrip("/")
        with self.store.write(durable=True, room=None) as writer:
            now = get_ref(writer, prefix + name)
            if now is None:
                raise RefNotFoundError(f"there is no {kind} {name!r}", ref=name, remedy=f"look with `casckpt {kind}`")
            if prefix == BRANCH and name in (self._branch, get_head(writer)):
                raise RefError(f"{name!r} is the current branch", ref=name, remedy="switch to another branch first")
            move_ref(writer, prefix + name, expected=now, new=None, action=f"{kind} deleted")

    def switch(self, name: str, *, create: bool = False) -> None:
        """Bind this handle to a branch, wherever that is now, and let HEAD name it for the handles to come.

        create: make the branch at the current commit first.

        Raises:
            RefNotFoundError, InvalidRefNameError, RefExistsError
        """
        check_ref_name(name)
        if create:
            self.branch(name)
        with self._lock:
            with self.store.write(durable=True, room=_SMALL) as writer:
                tip = get_ref(writer, BRANCH + name)
                unborn = name == get_head(writer) and not any(ref.startswith(BRANCH) for ref, _ in all_refs(writer))
                if tip is None and not unborn:
                    raise RefNotFoundError(
                        f"there is no branch {name!r}", ref=name, remedy="make it first: `create=True`, or `switch -c`"
                    )
                set_head(writer, name)
            self._branch, self._tip, self._in_doubt = name, tip, None

    def follow(self, commit: Commit) -> None:
        """Take this commit for where the branch is, as one whose state was loaded from it does.

        Neither the branch nor HEAD moves. If the branch is elsewhere, the next commit or rollback says so.
        """
        with self._lock:
            self._tip, self._in_doubt = bytes.fromhex(commit.id), None

    def rollback(self, revision: str, *, dry_run: bool = False) -> Commit:
        """Move the branch back (or anywhere else) to a commit; the reflog remembers where it was.

        Live objects are not touched: load or restore the commit for that. dry_run: only say which commit it would be.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
            RefMovedError: somebody else moved the branch since this handle last looked.
        """
        if dry_run:
            with self.store.read() as reader:
                commits = self._commits(reader)
                oid = self._resolve(commits, revision)
                check_not_pruned(reader, oid)
                return commits.load(oid)
        ref = BRANCH + self._branch
        with self._lock:
            self._settle()
            with self.store.write(durable=True, room=None) as writer:
                commits = self._commits(writer)
                oid = self._resolve(commits, revision)
                move_ref(writer, ref, expected=self._tip, new=oid, action=f"rollback to {revision}")
                found = commits.load(oid)
                self._in_doubt = oid
            self._tip, self._in_doubt = oid, None
            return found

    def reinstate(
        self, revision: str, *, parts: Iterable[str] | None = None, message: str = "", dry_run: bool = False
    ) -> Commit:
        """Make the state of an earlier commit a new commit of the branch; no chunk is read or written.

        To `rollback` it is what `git revert` is to `git reset`: nothing leaves the branch. `Repository.restore` is
        another thing: that writes a state into live objects.

        parts: only these parts (top-level keys) of it; the rest is as in the branch's newest commit. The new commit has
        step, metrics and metadata of the earlier one; with parts the step of the newest, and no metrics or metadata,
        since nobody has measured such a state. dry_run: return the commit that it would be, its id empty.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
            ReleasedPartError: something that the new state would hold was released.
            RestoreMismatchError: the earlier commit has no such part.
            RefMovedError: somebody else moved the branch since this handle last looked.
        """
        from casckpt.history.reinstate import Wanted, reinstate

        chosen = None if parts is None else tuple(dict.fromkeys(parts))
        with self._lock, Ingest(self.store, self.scheme) as ingest:
            self._settle()
            commits = CommitReader(ingest.objects, self._known)
            wanted = Wanted(revision, self._resolve(commits, revision), self._tip, self._branch, chosen, message)
            try:
                oid, commit = reinstate(ingest, commits, wanted, dry_run=dry_run)
            finally:
                self._in_doubt = ingest.published  # interrupted while it was synced, it may be there all the same
            if not dry_run:
                self._tip, self._in_doubt = oid, None
            return commit

    def expire_reflog(
        self, *, older_than: timedelta | None = None, branch: str | None = None, dry_run: bool = False
    ) -> int:
        """Forget moves, so that gc may take what only they remember; returns how many.

        older_than: only moves longer ago than that; None: all. What came after a younger one is younger, whatever date
        a clock that was set back has given it. branch: only of this one; None: of every branch and tag.
        dry_run: only count them.
        """
        now = datetime.now(UTC)

        def find(reader: Reader) -> list[int]:
            moves = moves_since(reader, 0)
            gone = moves if older_than is None else older(moves, (now - older_than).timestamp(), now.timestamp())
            return [move.seq for move in gone if branch is None or move.ref == BRANCH + branch]

        if dry_run:
            with self.store.read() as reader:
                return len(find(reader))
        with self.store.write(durable=True, room=None) as writer:
            gone = find(writer)
            expire_moves(writer, gone)
        return len(gone)

    def reading(self, work: Callable[[CommitReader], T]) -> T:
        """Run `work` on the commits of one read transaction, for the layers above."""
        with self.store.read() as reader:
            return work(self._commits(reader))


# What moving a ref writes: a few records of some hundred bytes.
_SMALL = 16 << 10


def _without(root: Value, released: list[str]) -> Value:
    if not isinstance(root, Map):
        return root
    return Map(tuple([(key, item) for key, item in root.entries if key not in released]))
