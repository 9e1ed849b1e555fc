"""The handle that people use: history, and states in and out of it. torch is imported when a state first passes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casckpt.history.commits import Commit
from casckpt.history.records import check_not_pruned, get_mark
from casckpt.objects.paths import Globs
from casckpt.store.protocol import Progress, no_progress
from casckpt.tensors.committing import Committing

if TYPE_CHECKING:
    import torch

    from casckpt.history.commits import CommitReader
    from casckpt.history.diff import Change
    from casckpt.tensors.formats.write import ExportReport
    from casckpt.tensors.intake.report import ImportReport, Item
    from casckpt.tensors.lazy import TensorHandle


class Repository(Committing):
    """A handle on a store, bound to a branch: `casckpt.open` makes one. Thread-safe; a context manager."""

    def load(
        self,
        revision: str = "HEAD",
        *,
        paths: Iterable[str] | str | None = None,
        device: str | torch.device | None = None,
        out: object = None,
    ) -> Any:
        """The state of a commit, every byte checked.

        paths: globs over `.`-joined paths, such as "model.*"; the result keeps its nesting. device: where all tensors
        are to be; None: on the CPU. out: a state that is of no more use, as an earlier `load` gave it: where a CPU
        tensor of the same path, dtype and shape stands in it, with a storage as large as the saved one's, all of which
        it shows, the result's tensor takes over that memory, which saves much of the time. Tensors of up to 4 KiB, and
        everything else, are made anew. What was in the tensors of `out` is gone then, and undefined after an error; use
        `restore` for live ones.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
            ReleasedPartError: a part that was asked for was released.
            CorruptObjectError, MissingObjectError
            NoMemoryError: it is larger than the memory that can be had.
        """
        import torch

        from casckpt.tensors.load import load
        from casckpt.tensors.reuse import Reuse

        place = None if device is None else torch.empty(0, device=device).device  # before anything is read
        globs = Globs.of(paths)

        def work(commits: CommitReader) -> object:
            oid = self._resolve(commits, revision)
            reader = commits.objects.reader
            check_not_pruned(reader, oid)
            released = get_mark(reader, oid).released
            reuse = None if out is None else Reuse(out)
            return load(commits.objects, commits.stored(oid).tree, released, globs, place, reuse)

        return self.reading(work)

    def open_tensor(self, revision: str, path: str) -> TensorHandle:
        """A handle on one tensor or numpy array of a commit, of which `handle[a:b]` reads only the chunks it needs.

        path: as `ls` shows it, or without its escapes. No chunk is read yet, and nothing is held open.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
            UnknownPathError: no tensor or array stands there; near ones are named.
            ReleasedPartError: the part that it is in was released.
            UnsupportedTypeError: it is of a dtype that this torch, numpy or machine has not.
            CorruptObjectError, MissingObjectError
        """
        from casckpt.tensors.lazy import open_tensor

        return self.reading(lambda commits: open_tensor(self, commits, self._resolve(commits, revision), path))

    def diff(
        self,
        old: str,
        new: str = "HEAD",
        *,
        values: bool = False,
        paths: Iterable[str] | str | None = None,
        progress: Progress = no_progress,
    ) -> list[Change]:
        """What differs between the states of two commits, by leaf; parts that either has released are left out.

        values: compare the elements of tensors and arrays too, a pair in memory at a time. paths: globs over
        `.`-joined paths, such as "model.*"; only what they take is looked at. progress: called while values are read.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
            CorruptObjectError, MissingObjectError
        """
        if not values:
            return super().diff(old, new, paths=paths)
        from casckpt.tensors.compare_files import Choice, diff_sides

        def work(commits: CommitReader) -> list[Change]:
            before, after = self.sides(commits, old, new)
            return diff_sides(before, after, Choice(globs=Globs.of(paths), values=True), progress)

        return self.reading(work)

    def diff_file(
        self,
        revision: str,
        path: str | PathLike[str],
        *,
        part: str | None = None,
        reverse: bool = False,
        values: bool = False,
        paths: Iterable[str] | str | None = None,
        progress: Progress = no_progress,
    ) -> list[Change]:
        """What differs from the state of a commit to that in a file: safetensors, torch or npz, or a folder of them.

        The file is read whole, the commit's tensors one by one where they are needed. What such a file cannot hold is
        passed over: the kind and metadata of a dict, gradients required, the layout in which equal elements lie.

        part: compare this part (top-level key) of the commit. If it is not given, and the file has none of the
        commit's parts but at its top the keys of one of them (as a file of weights alone), it is that one.
        reverse: from the file to the commit. values, paths, progress: as for `diff`.

        Raises:
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError
            RestoreMismatchError: the commit has no such part, or several fit.
            ImportFormatError: the file cannot be read.
            CorruptObjectError, MissingObjectError
        """
        from casckpt.history.narrow import fit
        from casckpt.tensors.compare_files import Choice, diff_sides, side_of_file

        file = side_of_file(path, self.scheme, self.store.format.chunk_size)

        def work(commits: CommitReader) -> list[Change]:
            (commit,) = self.sides(commits, revision)
            before, after, chosen = fit(commit, file, part)
            sides = (after, before) if reverse else (before, after)
            return diff_sides(*sides, Choice(chosen, Globs.of(paths), values, loose=True), progress)

        return self.reading(work)

    def import_file(
        self,
        path: str | PathLike[str],
        message: str = "",
        *,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, object] | None = None,
        part: str | None = None,
        codec: str | None = None,
    ) -> Commit:
        """Commit the state in a file or folder of another format; `docs/reference/formats.md` says which.

        message: unless given, it names the file. step: unless given, what the file says. part: put the state under this
        key. codec: as for `commit`. The commit's meta says under "source" what it was taken from, and holds the file's
        own "file_metadata".

        Raises:
            ImportFormatError: the file cannot be read; nothing was committed.
            NewerFormatError, and whatever `commit` raises.
        """
        from casckpt.tensors.formats.importing import import_file

        return import_file(self, path, message, step=step, metrics=metrics, meta=meta, part=part, codec=codec)

    def import_folder(
        self,
        path: str | PathLike[str],
        *,
        pattern: str | None = None,
        part: str | None = None,
        codec: str | None = None,
        message: str | None = None,
        skip_bad: bool = False,
        dry_run: bool = False,
        progress: Callable[[str, int, int], None] = no_progress,
        on_item: Callable[[Item], object] | None = None,
    ) -> ImportReport:
        """Commit every checkpoint of a folder in the order in which they were made, one state in memory at a time.

        Checkpoints are ordered by the numbers in their names, those without one behind them by age; the reference of
        `casckpt import` has the rules. What the branch has already is passed over, so an import that was interrupted is
        taken up by the same call.

        pattern: take the files and folders with such names instead of those that look like checkpoints. part: put each
        state under this key. codec: as for `commit`. message: stands before the name in each commit's message.
        skip_bad: go on behind a checkpoint that cannot be read; the report says which. dry_run: only find out what
        would be taken.
        progress: called with a name, the bytes of files that were read and those to read. on_item: called with each
        checkpoint that was taken, was there or failed; what was taken is durable by then.

        Raises:
            ImportFormatError: there is none, or one cannot be read; those before it stay.
            UnsupportedTypeError, StateError: one holds what cannot be saved.
            RefMovedError, StoreFullError, StoreFailedError
        """
        from casckpt.tensors.intake.intake import take_in

        report = take_in(
            self,
            Path(path),
            pattern=pattern,
            part=part,
            codec=codec,
            message=message,
            skip_bad=skip_bad,
            dry_run=dry_run,
            progress=progress,
            on_item=on_item,
        )
        if report.error is not None and not skip_bad:
            raise report.error
        return report

    def watch(
        self,
        path: str | PathLike[str],
        *,
        interval: float = 2.0,
        settle: float = 5.0,
        stop: threading.Event | None = None,
        once: bool = False,
        pattern: str | None = None,
        part: str | None = None,
        on_item: Callable[[Item], object] | None = None,
    ) -> ImportReport:
        """Commit each checkpoint that other programs write into a folder, when it is finished, until `stop` is set.

        interval: seconds between two looks. settle: seconds for which a checkpoint must have rested. once: look twice,
        so far apart, and end. pattern, part, on_item: as for `import_folder`; one that cannot be read is told by
        `on_item`, and left alone until it changes.

        Raises:
            ImportFormatError: the folder is not there.
            StoreFullError, StoreFailedError
        """
        from casckpt.tensors.intake.watch import Watching, keep_looking

        stop = stop or threading.Event()
        watching = Watching(self, Path(path), settle=settle, pattern=pattern, part=part, stop=stop, on_item=on_item)
        return keep_looking(watching, interval=interval, stop=stop, once_after=settle if once else None)

    def export(
        self,
        revision: str,
        path: str | PathLike[str],
        *,
        format: str | None = None,
        part: str | None = None,
        paths: Iterable[str] | str | None = None,
        max_shard_size: int | None = None,
        overwrite: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> ExportReport:
        """Write the state of a commit as a file of another format, or as a folder; whole, or not at all.

        format: "safetensors", "torch", "npz" or "pretrained" (a folder that from_pretrained reads); unless given, as
        the suffix of the path says. part: only what is under this key, with its names as they are. paths: globs, as
        for `load`. max_shard_size: bytes of tensors in one file. overwrite: replace what is there. progress: called
        with the stage, the bytes written, and those to write.

        Raises:
            UnsupportedTypeError: the format cannot hold something in the state; named by its path.
            ExportError, ExportFullError: what was at the path is untouched.
            and whatever `load` raises.
        """
        from casckpt.tensors.formats.export import export

        return export(
            self,
            revision,
            path,
            format=format,
            part=part,
            paths=paths,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
            progress=progress,
        )

    def restore(self, target: Any, revision: str = "HEAD", *, strict: bool = True) -> Any:
        """Write the state of a commit into live objects, in place; returns the target.

        target: a mapping from keys of the state to modules, optimizers and other objects with `state_dict` and
        `load_state_dict`, or to plain containers of tensors and values; or one such container or object for the
        whole state. Only the keys that it has are restored.
        strict: whether a tensor that only one side has is an error.

        Raises:
            RestoreMismatchError: something does not fit. Nothing was written, unless `partly_restored` is set: then a
                `load_state_dict` refused what it got, after tensors were written.
            UnknownRevisionError, AmbiguousRevisionError, PrunedCommitError, ReleasedPartError
            CorruptObjectError, MissingObjectError: live objects may be partly restored; restore another commit.
        """
        from casckpt.tensors.restore import restore

        def work(commits: CommitReader) -> object:
            oid = self._resolve(commits, revision)
            reader = commits.objects.reader
            check_not_pruned(reader, oid)
            root = commits.stored(oid).tree
            return restore(commits.objects, root, get_mark(reader, oid).released, target, strict=strict)

        return self.reading(work)
