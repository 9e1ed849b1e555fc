"""`casckpt diff`: what differs between two commits, or between a commit and a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, complete_revision_or_file, limit_option, split_globs
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.errors import StoreNotFoundError, UnknownRevisionError

if TYPE_CHECKING:
    from casckpt.history.commits import Commit, CommitReader
    from casckpt.history.diff import Change, Side
    from casckpt.history.repository import History
    from casckpt.history.summary import PartSummary

_SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")


@dataclass(frozen=True, slots=True)
class Named:
    """One of the two things that are compared: a commit, or the path of a file."""

    word: str
    commit: Commit | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What differs. part, globs: what alone was compared. released: parts left out, since one side released them."""

    old: Named
    new: Named
    part: str | None
    globs: tuple[str, ...]
    released: tuple[str, ...]
    parts: list[PartSummary]
    changes: list[Change]


@click.command("diff", short_help="Compare two commits, or one with a file.")
@click.argument("words", metavar="OLD [NEW] [GLOB…]", nargs=-1, required=True, shell_complete=complete_revision_or_file)
@click.option("--values", is_flag=True, help="Compare elements too: max and mean abs, relative and cosine difference.")
@click.option("--part", metavar="NAME", help="Only this part (a top-level key), --part model.")
@limit_option("tensors, and how many values,")
@common_options
@click.pass_obj
def command(session: Session, words: tuple[str, ...], values: bool, part: str | None, limit: int) -> None:
    """Compare the states of OLD and NEW (else the newest commit): by part, by tensor, and plain values side by side.

    A word with *, ? or [ in it is a GLOB over paths, and so is every word after NEW. Tensors are sorted by the bytes of
    the chunks that changed; with --values by the relative difference, which is |new - old| / |old| in Euclidean norms.
    cosine is 1 - cos of the angle between both. What is not finite is counted and left out of the figures.

    OLD or NEW may be a safetensors, torch or npz file, or a folder of them. A word is a file if it names one and has a
    / or a suffix such as .pt in it, if it is no revision, or if it is written file:PATH. A file of weights alone is
    compared with the part of the commit that has their names.

    \b
    casckpt diff main~1
    casckpt diff step:1000 step:2000 'model.*' --values
    casckpt diff best:loss:min main --part optimizer -n 50
    casckpt diff v1 model.safetensors --values
    """
    revisions, globs = split_globs(words, 2)
    if not revisions:
        raise click.UsageError(f"{words[0]!r} is a GLOB: say first which commit is OLD")
    both = [*revisions, "HEAD"][:2]
    with Watch(f"comparing {both[0]} and {both[1]}", unit="bytes") as watch:
        found = _compare(session, both, globs, part, values, watch)
    if session.json:
        document.write(
            {
                "old": _side_fields(found.old),
                "new": _side_fields(found.new),
                "part": found.part,
                "released": found.released,
                "parts": [asdict(summary) for summary in found.parts],
                "changes": [asdict(change) for change in found.changes],
            }
        )
    else:
        from casckpt.cli.differences import print_differences

        print_differences(found, values, limit)


def _side_fields(side: Named) -> dict[str, object]:
    return {
        "commit": None if side.commit is None else document.commit_fields(side.commit),
        "file": None if side.file is None else str(side.file),
    }


def _compare(
    session: Session, both: list[str], globs: tuple[str, ...], part: str | None, values: bool, watch: Watch
) -> Found:
    files = [_certain_file(word) for word in both]
    try:
        with session.history() as history:
            named = [_named(history, word, file) for word, file in zip(both, files, strict=True)]
            released = tuple(dict.fromkeys(gone for side in named if side.commit for gone in side.commit.released))
            ready = {side.word: _file_side(side.file, history, watch) for side in named if side.file is not None}

            def work(commits: CommitReader) -> Found:
                ids = [side.commit.id for side in named if side.commit is not None]
                held = iter(history.sides(commits, *ids))
                sides = [next(held) if side.commit is not None else ready[side.word] for side in named]
                return _found(named, sides, released, globs, part, values, watch)

            return history.reading(work)
    except StoreNotFoundError:
        if session.repo is not None or None in files:
            raise
    named = [Named(word, file=file) for word, file in zip(both, files, strict=True)]
    return _found(named, [_file_side(side.file, None, watch) for side in named], (), globs, part, values, watch)


def _certain_file(word: str) -> Path | None:
    """The file that a word means whatever revisions there are."""
    if word.startswith("file:"):
        return Path(word.removeprefix("file:")).expanduser()
    path = Path(word).expanduser()
    return path if ("/" in word or word.endswith(_SUFFIXES)) and path.exists() else None


def _named(history: History, word: str, file: Path | None) -> Named:
    if file is not None:
        return Named(word, file=file)
    try:
        return Named(word, commit=history.resolve(word))
    except UnknownRevisionError:
        path = Path(word).expanduser()
        if path.exists() or word.endswith(_SUFFIXES):
            return Named(word, file=path)  # where there is none, that is said of it as of a file
        raise


def _file_side(file: Path | None, history: History | None, watch: Watch) -> Side:
    from casckpt.limits import DEFAULT_CHUNK_SIZE
    from casckpt.objects.ids import XXH3_128
    from casckpt.tensors.compare_files import side_of_file

    assert file is not None
    watch(f"reading {file.name}", 0, 0)
    if history is None:
        return side_of_file(file, XXH3_128, DEFAULT_CHUNK_SIZE)
    return side_of_file(file, history.scheme, history.store.format.chunk_size)


def _found(
    named: list[Named],
    sides: list[Side],
    released: tuple[str, ...],
    globs: tuple[str, ...],
    part: str | None,
    values: bool,
    watch: Watch,
) -> Found:
    from casckpt.history.diff import changes, pairs
    from casckpt.history.narrow import fit, narrowed
    from casckpt.history.parts import part_of, parts_of
    from casckpt.history.summary import summarize
    from casckpt.objects.paths import Globs, child

    loose = any(side.file is not None for side in named)
    old, new = sides
    if named[0].file is None and named[1].file is not None:
        old, new, part = fit(old, new, part)
    elif named[0].file is not None and named[1].file is None:
        new, old, part = fit(new, old, part)
    elif part is not None:
        old, new = narrowed(old, part), narrowed(new, part)
    chosen = Globs.of(globs or None)
    if values or loose:
        from casckpt.tensors.compare_files import Choice, diff_sides

        told = diff_sides(old, new, Choice(part, chosen, values, loose), watch)
    else:
        told = list(changes(old, new, pairs(old, new, "" if part is None else child("", part), chosen)))
    counted = [
        parts_of(side.objects, side.root) if part is None else [part_of(side.objects, child("", part), side.root)]
        for side in (old, new)
    ]
    return Found(named[0], named[1], part, globs, released, summarize(told, *counted), told)
