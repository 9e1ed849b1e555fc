"""Every error that casckpt raises on purpose, grouped by what the person who meets it would do.

CasckptError
├── StateError                  the state that was handed in cannot be saved
│   └── UnsupportedTypeError        a leaf of a type that has no codec
├── RegistrationError           a type cannot be registered so
├── RevisionError               the name of a commit leads nowhere
│   ├── UnknownRevisionError        no such branch, tag, id, step or metric
│   └── AmbiguousRevisionError      an id prefix that fits several commits
├── RefError                    a branch or tag cannot be made, moved or deleted
│   ├── InvalidRefNameError
│   ├── RefExistsError
│   ├── RefNotFoundError
│   └── RefMovedError               somebody else moved the branch first
├── ReleasedError               the bytes asked for were given up by a retention policy
│   ├── PrunedCommitError           the whole commit
│   └── ReleasedPartError           a part of it
├── UnknownPathError            no tensor stands at a path of a state
├── RestoreMismatchError        a saved state does not fit the live objects
├── ImportFormatError           a file that cannot be taken in: damaged, hostile, or of no format that is known
├── ExportError                 a state cannot be written as such a file, or not there
│   └── ExportFullError             no room on the disk for it
├── PolicyError                 a retention policy that says nothing, or nonsense
├── LoaderError                 a data loader whose position cannot be known
├── CorruptObjectError          stored bytes that are not what their id or format says
│   └── MissingObjectError          an object that should be there is not
├── NoMemoryError               what is asked for is larger than the memory that can be had
└── StoreError                  the store as a whole
    ├── StoreNotFoundError          there is none at that path
    ├── NotAStoreError              something else is at that path
    ├── NewerFormatError            written by a later casckpt
    ├── StoreSettingsError          opened with settings it was not created with
    ├── NetworkFilesystemError      on a file system that LMDB cannot be trusted on
    ├── StoreBusyError              somebody else holds what is needed
    ├── StoreLockLostError          other processes have it open, but its lock is gone
    ├── StoreFullError              no room on the disk
    ├── StoreFailedError            a write or sync failed: the outcome is unknown
    ├── TruncatedStoreError         the file ends before its contents do
    ├── HistoryLostError            acknowledged changes are missing from the file
    ├── AbandonedCommitError        a commit in flight whose predecessor failed
    ├── ForkedStoreError            used in a child of the process that opened it
    └── StoreClosedError            used after close()

An error carries `kind` (a stable name for programs), `remedy` (the way out) and `exit_code` (for the command line).
"""

from __future__ import annotations


class CasckptError(Exception):
    """Base of all errors that casckpt raises on purpose.

    `str(error)` is what went wrong, naming the thing at fault, followed by the remedy where there is one.
    """

    kind = "error"
    exit_code = 1
    partly_restored = False
    """Whether live objects had been changed already when a restore failed with it."""

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class StateError(CasckptError):
    """The state that was handed in cannot be saved; `path` says where in it the trouble is."""

    kind = "bad-state"
    exit_code = 3

    def __init__(self, problem: str, *, path: str = "", remedy: str = "") -> None:
        super().__init__(f"at {path or 'the root of the state'}: {problem}", remedy=remedy)
        self.path = path


class UnsupportedTypeError(StateError):
    """A leaf, or a container, of a type that has no codec."""

    kind = "unsupported-type"


class RegistrationError(CasckptError):
    """A type cannot be registered so: its name is taken, or there is no way to save it."""

    kind = "bad-registration"
    exit_code = 3


class RevisionError(CasckptError):
    """A revision that does not name exactly one commit; `revision` is the text that was given."""

    kind = "bad-revision"
    exit_code = 4

    def __init__(self, problem: str, *, revision: str, remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.revision = revision


class UnknownRevisionError(RevisionError):
    """No commit answers to this revision."""

    kind = "unknown-revision"


class AmbiguousRevisionError(RevisionError):
    """An id prefix that fits more than one commit."""

    kind = "ambiguous-revision"


class RefError(CasckptError):
    """A branch or tag cannot be made, moved or deleted; `ref` is its name."""

    kind = "bad-ref"
    exit_code = 5

    def __init__(self, problem: str, *, ref: str, remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.ref = ref


class InvalidRefNameError(RefError):
    """A name that no branch or tag may have."""

    kind = "invalid-ref-name"


class RefExistsError(RefError):
    """There is such a branch or tag already."""

    kind = "ref-exists"


class RefNotFoundError(RefError):
    """There is no such branch or tag."""

    kind = "ref-not-found"


class RefMovedError(RefError):
    """Somebody else moved the branch since this handle last looked; nothing of theirs was touched."""

    kind = "ref-moved"


class ReleasedError(CasckptError):
    """What was asked for was given up by a retention policy."""

    kind = "released"
    exit_code = 6


class PrunedCommitError(ReleasedError):
    """The commit is in the log, but its tree was released."""

    kind = "pruned-commit"


class ReleasedPartError(ReleasedError):
    """The commit is there, but a part of it was released; `parts` names what is gone."""

    kind = "released-part"

    def __init__(self, problem: str, *, parts: tuple[str, ...], remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.parts = parts


class UnknownPathError(CasckptError):
    """No tensor stands at this path of a commit's state, or several do; `path` is the text that was given."""

    kind = "unknown-path"
    exit_code = 4

    def __init__(self, problem: str, *, path: str, remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.path = path


class RestoreMismatchError(CasckptError):
    """A saved state does not fit the live objects; `path` says where. Nothing was written."""

    kind = "restore-mismatch"
    exit_code = 7

    def __init__(self, problem: str, *, path: str, remedy: str = "") -> None:
        super().__init__(f"at {path or 'the root of the state'}: {problem}", remedy=remedy)
        self.path = path


class ImportFormatError(CasckptError):
    """A file that cannot be taken in; `file` is its path. Nothing was committed."""

    kind = "bad-import"
    exit_code = 8

    def __init__(self, problem: str, *, file: str = "", remedy: str = "") -> None:
        super().__init__(f"{file}: {problem}" if file else problem, remedy=remedy)
        self.file = file


class ExportError(CasckptError):
    """A file cannot be written; `file` is its path. What was there before is untouched."""

    kind = "bad-export"
    exit_code = 9

    def __init__(self, problem: str, *, file: str = "", remedy: str = "") -> None:
        super().__init__(f"{file}: {problem}" if file else problem, remedy=remedy)
        self.file = file


class ExportFullError(ExportError):
    """There is no room on the disk for the file; `needed` and `available` are bytes."""

    kind = "export-full"

    def __init__(self, problem: str, *, file: str = "", needed: int = 0, available: int = 0, remedy: str = "") -> None:
        super().__init__(problem, file=file, remedy=remedy)
        self.needed = needed
        self.available = available


class PolicyError(CasckptError):
    """A retention policy that says nothing, or nonsense."""

    kind = "bad-policy"
    exit_code = 2


class LoaderError(CasckptError):
    """A data loader whose position cannot be known."""

    kind = "bad-loader"
    exit_code = 7


class CorruptObjectError(CasckptError):
    """Stored bytes that are not what their id or their format says."""

    kind = "corrupt-object"
    exit_code = 10


class MissingObjectError(CorruptObjectError):
    """An object that something live refers to is not in the store."""

    kind = "missing-object"


class NoMemoryError(CasckptError, MemoryError):
    """What is asked for is larger than the memory that can be had; `needed` is how many bytes were to be taken at once.

    Also a `MemoryError`, for programs that are prepared for that.
    """

    kind = "no-memory"
    exit_code = 12

    def __init__(self, problem: str, *, needed: int = 0, remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.needed = needed


class StoreError(CasckptError):
    """Something about the store as a whole; `store` is its path."""

    kind = "store"
    exit_code = 20

    def __init__(self, problem: str, *, store: str = "", remedy: str = "") -> None:
        super().__init__(f"{store}: {problem}" if store else problem, remedy=remedy)
        self.store = store


class StoreNotFoundError(StoreError):
    """There is no store at that path."""

    kind = "store-not-found"
    exit_code = 21


class NotAStoreError(StoreError):
    """Something else is at that path, and casckpt leaves it alone."""

    kind = "not-a-store"
    exit_code = 22


class NewerFormatError(StoreError):
    """The store was written by a later casckpt, in a format that this one does not know."""

    kind = "newer-format"
    exit_code = 23


class StoreSettingsError(StoreError):
    """A setting that is fixed when a store is created was given with another value, or with a bad one."""

    kind = "store-settings"
    exit_code = 2


class NetworkFilesystemError(StoreError):
    """The path is on a file system on which memory maps and locks cannot be trusted."""

    kind = "network-filesystem"
    exit_code = 24


class StoreBusyError(StoreError):
    """Another process or thread holds what is needed; `holders` names them."""

    kind = "store-busy"
    exit_code = 25

    def __init__(self, problem: str, *, store: str = "", holders: tuple[str, ...] = (), remedy: str = "") -> None:
        super().__init__(problem, store=store, remedy=remedy)
        self.holders = holders


class StoreLockLostError(StoreBusyError):
    """Other processes have the store open, but the lock that LMDB relies on is gone."""

    kind = "store-lock-lost"
    exit_code = 26


class StoreFullError(StoreError):
    """There is no room on the disk; `needed` and `available` are bytes. Nothing was published."""

    kind = "store-full"
    exit_code = 27

    def __init__(self, problem: str, *, store: str = "", needed: int = 0, available: int = 0, remedy: str = "") -> None:
        super().__init__(problem, store=store, remedy=remedy)
        self.needed = needed
        self.available = available


class StoreFailedError(StoreError):
    """A write or a sync failed, so whether the last change is durable is not known."""

    kind = "store-failed"
    exit_code = 28


class TruncatedStoreError(StoreError):
    """The file ends before its contents do."""

    kind = "truncated-store"
    exit_code = 29


class HistoryLostError(StoreError):
    """The store's mark says that changes were acknowledged which its file does not hold."""

    kind = "history-lost"
    exit_code = 30


class AbandonedCommitError(StoreError):
    """A commit that was in flight behind one that failed, and so was not made."""

    kind = "abandoned-commit"
    exit_code = 33


class ForkedStoreError(StoreError):
    """A store was used in a forked child of the process that opened it."""

    kind = "forked-store"
    exit_code = 31


class StoreClosedError(StoreError):
    """The store was used after it was closed."""

    kind = "store-closed"
    exit_code = 32
