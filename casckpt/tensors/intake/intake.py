"""Takes checkpoints into a branch one by one, each as a commit: none twice, and never two in memory.

Nobody is kept from writing to a file that is being read here. So what was read is published only if the file still
looks as it did before it was opened.
"""

from __future__ import annotations

import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from casckpt.errors import CasckptError, ImportFormatError, NewerFormatError, StateError
from casckpt.history.commits import Commit
from casckpt.store.protocol import Progress, no_progress
from casckpt.tensors.intake.discover import Checkpoint, Found, checkpoint, discover, is_checkpoint_folder
from casckpt.tensors.intake.private import private_copy
from casckpt.tensors.intake.report import ImportReport, Item, OnItem, Outcome
from casckpt.tensors.look import look

if TYPE_CHECKING:
    from casckpt.tensors.repository import Repository


class Intake:
    """Takes checkpoints into the branch that a repository is bound to.

    part: the key of the commit's state under which a checkpoint's state stands; None: it is the commit's state.
    codec: as for `Repository.commit`.
    """

    def __init__(self, repo: Repository, part: str | None = None, codec: str | None = None) -> None:
        self._repo = repo
        self._part = part
        self._codec = codec
        self.look_again()

    def look_again(self) -> None:
        """Learn from the branch, as it is now, what it has."""
        self._present: dict[tuple[object, ...], Commit] = {}
        for commit in self._repo.log():
            source = commit.meta.get("source")
            if isinstance(source, dict):
                key = tuple([source.get(field) for field in ("name", "bytes", "mtime_ns", "part")])
                self._present.setdefault(key, commit)

    def present(self, one: Checkpoint) -> Commit | None:
        """The commit of the branch that this very file became."""
        return self._present.get(self._key(one))

    def _key(self, one: Checkpoint) -> tuple[object, ...]:
        return one.path.resolve().name, one.look.nbytes, one.look.mtime_ns, self._part

    def take(
        self, one: Checkpoint, message: str | None = None, step: int | None = None, *, private: bool = False
    ) -> Commit:
        """Read a checkpoint and commit it; when this returns it is durable, and its memory is given back.

        message: instead of its name. step: instead of what the name or the state says. private: read a copy of it in
        memory, as its writer may cut it off at any time.

        Raises:
            ImportFormatError, StateError, UnsupportedTypeError: it cannot be read or saved.
            RefMovedError, StoreFullError, StoreFailedError: as `Repository.commit`.
        """
        from casckpt.tensors.formats import read_state, source_record

        with private_copy(one.path) if private else nullcontext(one.path) as readable:
            imported = read_state(readable)
            source = source_record(one.path, one.look, imported.format)
            if self._part is not None:
                source["part"] = self._part
            if step is None:
                step = one.number if one.named_step or imported.step is None else imported.step
            commit = self._repo.commit(
                imported.state if self._part is None else {self._part: imported.state},
                one.name if message is None else message,
                step=step,
                meta={**imported.meta, "source": source},
                codec=self._codec,
                before_publish=lambda: _check_unchanged(one),
            )
        self._present[self._key(one)] = commit
        return commit


def _check_unchanged(one: Checkpoint) -> None:
    if look(one.path) != one.look:
        raise ImportFormatError(
            "it was written to while it was read", file=str(one.path), remedy="import it again when it is finished"
        )


def find(path: Path, pattern: str | None) -> Found:
    """The checkpoint that a path is, or those of the folder that it is.

    Raises:
        ImportFormatError: there is none.
    """
    try:
        if not path.is_dir() or (pattern is None and is_checkpoint_folder(path)):
            one = checkpoint(path)
            if one is None:
                raise ImportFormatError("there is no such file or folder", file=str(path))
            if not path.is_file() and not path.is_dir():  # a pipe would keep who opens it waiting
                raise ImportFormatError("neither a file nor a folder", file=str(path))
            return Found((one,), ())
        found = discover(path, pattern)
    except OSError as error:
        raise ImportFormatError(f"cannot be read: {error.strerror}", file=str(path)) from error
    if not found.checkpoints:
        left_out = f" ({', '.join([f'{one.name}: {one.reason}' for one in found.left_out[:3]])})" * bool(found.left_out)
        raise ImportFormatError(
            f"no checkpoint is in this folder{left_out}",
            file=str(path),
            remedy="name what to take with --pattern, or import one file by its path",
        )
    return found


def plan(found: Found, intake: Intake | None) -> list[Item]:
    """What is to be done with each checkpoint: the branch has it, or it waits. intake: None where there is no store."""
    items = []
    for one in found.checkpoints:
        commit = None if intake is None else intake.present(one)
        outcome = Outcome.WAITING if commit is None else Outcome.PRESENT
        items.append(Item(one.name, one.number if commit is None else commit.step, one.look.nbytes, outcome, commit))
    return items


def take_in(
    repo: Repository,
    path: Path,
    *,
    pattern: str | None = None,
    part: str | None = None,
    codec: str | None = None,
    message: str | None = None,
    step: int | None = None,
    skip_bad: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
    on_item: OnItem | None = None,
) -> ImportReport:
    """Take in a checkpoint, or all those of a folder in their order. Stops at one that fails, unless it skips such.

    message: of a single checkpoint the commit's message; of a folder's what stands before their names in theirs.
    step: of a single one. A checkpoint that fails is told in the report. For the rest see `Repository.import_folder`.
    """
    found = find(path, pattern)
    intake = Intake(repo, part, codec)
    before = repo.store.size()
    items = plan(found, intake)
    total = sum(item.nbytes for item in items if item.outcome is Outcome.WAITING)
    done = 0
    for index, (one, item) in enumerate(zip(found.checkpoints, items, strict=True)):
        if dry_run:
            break
        if item.outcome is Outcome.WAITING:
            progress(one.name, done, total)
            said = message if message is None or one.path == path else f"{message}: {one.name}"
            items[index] = item = try_to_take(intake, one, said, step)
            done += item.nbytes
            progress(one.name, done, total)
        if on_item is not None:
            on_item(item)
        if item.outcome is Outcome.FAILED and not skip_bad:
            break
    return ImportReport(
        str(path), repo.current_branch, dry_run, tuple(items), found.left_out, before, repo.store.size()
    )


def try_to_take(
    intake: Intake, one: Checkpoint, message: str | None = None, step: int | None = None, *, private: bool = False
) -> Item:
    """Take a checkpoint and say what became of it. Whatever is not its own fault is raised."""
    try:
        commit = intake.take(one, message, step, private=private)
    except (ImportFormatError, NewerFormatError, StateError) as error:
        return Item(one.name, one.number, one.look.nbytes, Outcome.FAILED, error=_without_frames(error))
    return Item(one.name, commit.step, one.look.nbytes, Outcome.TAKEN, commit)


def _without_frames(error: CasckptError) -> CasckptError:
    """The error without what it saw on its way: its frames would keep the whole state in memory."""
    chained: BaseException | None = error
    while chained is not None:
        traceback.clear_frames(chained.__traceback__)
        chained = chained.__cause__ or chained.__context__
    return error.with_traceback(None)
