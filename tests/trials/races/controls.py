"""Ways to break casckpt in a child, each of which a recipe must see: one that cannot fail proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final


def _gc_does_not_look_again() -> None:
    """gc deletes by what its first walk saw, whatever was published since."""
    from casckpt.history.gc import _Sweep

    _Sweep._catch_up = lambda self, reader: None  # type: ignore[method-assign]


def _publishing_does_not_look_again() -> None:
    """A save takes for granted that what it relies on is still there."""
    from casckpt.history import ingest

    ingest.gc_epoch = lambda reader: 0


def _the_snapshot_ends_early() -> None:
    """A save lets go of its snapshots before it publishes."""
    from casckpt.history.ingest import Ingest

    publish = Ingest.publish

    def without(ingest: Any, *given: Any, **more: Any) -> Any:
        for snapshot in ingest._snapshots:
            snapshot.close()
        ingest._snapshots = [ingest._store.read()]
        ingest.objects.reader = ingest._snapshots[0]
        return publish(ingest, *given, **more)

    Ingest.publish = without  # type: ignore[method-assign]


def _a_ref_moves_to_what_was_pruned() -> None:
    """Nobody looks whether a commit that a ref moves to is being stripped."""
    from casckpt.history import records

    records.check_not_pruned = lambda reader, commit: None


def _a_ref_moves_without_a_look() -> None:
    """A branch is set to where a save wants it, wherever it is by then."""
    from casckpt.history import ingest, records

    move = records.move_ref

    def anyway(writer: Any, ref: str, *, expected: Any, **more: Any) -> None:
        move(writer, ref, expected=records.get_ref(writer, ref), **more)

    ingest.move_ref = anyway


def _what_is_there_is_called_pruned() -> None:
    """Loads say of every fourth commit that retention has taken it, unless it is a branch's newest."""
    from casckpt.errors import PrunedCommitError
    from casckpt.history.records import all_refs
    from casckpt.tensors import repository

    check = repository.check_not_pruned

    def wrongly(reader: Any, commit: bytes) -> None:
        check(reader, commit)
        if commit[0] % 4 == 0 and commit not in {oid for _, oid in all_refs(reader)}:
            raise PrunedCommitError("it is there")

    repository.check_not_pruned = wrongly  # type: ignore[attr-defined]


def _nobody_looks_whether_it_is_whole() -> None:
    """A file is not examined when it is opened, and fsck is content with whatever it finds."""
    from casckpt.history.fsck.report import FsckReport
    from casckpt.store import opening

    FsckReport.ok = True  # type: ignore[assignment,method-assign]
    opening._examine = lambda *given, **more: None


CONTROLS: Final[dict[str, Callable[[], None]]] = {
    "gc does not look again": _gc_does_not_look_again,
    "publishing does not look again": _publishing_does_not_look_again,
    "the snapshot ends early": _the_snapshot_ends_early,
    "a ref moves to what was pruned": _a_ref_moves_to_what_was_pruned,
    "a ref moves without a look": _a_ref_moves_without_a_look,
    "what is there is called pruned": _what_is_there_is_called_pruned,
    "nobody looks whether it is whole": _nobody_looks_whether_it_is_whole,
}

# By what each is seen, as a pattern: another break of the same game is the fault of the harness.
_MISSING: Final = r"is missing from the store|vanished while a commit was made"
BREAKS: Final[dict[str, str]] = {
    "gc does not look again": _MISSING,
    "publishing does not look again": _MISSING,
    "the snapshot ends early": _MISSING,
    "a ref moves to what was pruned": r"PrunedCommitError: commit \w+ was pruned|was stripped, though something led",
    "a ref moves without a look": r"left a commit behind|went from where it was not|is not where its",
    "what is there is called pruned": r"told that of \(.*\) one is gone, and they are there",
    "nobody looks whether it is whole": r"fsck finds nothing, and \w+Error|holds another state",
}
