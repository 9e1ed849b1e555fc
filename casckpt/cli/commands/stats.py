"""`casckpt stats`: how much a store holds, and in how many bytes."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

import click

from casckpt.cli import codecs, document
from casckpt.cli.options import common_options, limit_option
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import first_line, human_bytes, human_count, human_held, human_reserve, short

if TYPE_CHECKING:
    from casckpt.history.codec_stats import CodecStats
    from casckpt.history.commits import Commit
    from casckpt.history.repository import History
    from casckpt.history.stats import Stats


@click.command("stats", short_help="Count commits, objects and bytes.")
@click.option("--by-commit", is_flag=True, help="A line for each commit: what it added and what it shares.")
@click.option(
    "--codec", is_flag=True, help="How chunks are stored: by codec, by what they hold, by depth and by commit."
)
@limit_option("commits, with --by-commit or --codec,")
@common_options
@click.pass_obj
def command(session: Session, by_commit: bool, codec: bool, limit: int) -> None:
    """Count commits and objects, and compare the bytes of all states with the bytes that they take here.

    logical: what the states of the commits that are kept would take as full files. With --codec: the bytes of chunks,
    raw and stored, each chunk once; what a commit has is what no commit before it had, as it is stored now.

    \b
    casckpt stats
    casckpt stats --by-commit -n 50
    casckpt stats --codec
    """
    with session.history() as history:
        with Watch("counting"):
            found = history.stats()
        commits = list(islice(history.log(None), limit or None)) if by_commit else []
        stored = _how_stored(history) if codec else None
        if session.json:
            fields: dict[str, object] = {"path": history.path, **asdict(found), "ratio": found.saved}
            if by_commit:
                fields["by_commit"] = [document.commit_fields(commit) for commit in commits]
            if stored is not None:
                fields["codec"] = codecs.fields(stored, limit)
            document.write(fields)
            return
        _print(history.path, found)
        if commits:
            _print_commits(commits)
        if stored is not None:
            codecs.print_tables(stored, limit)


def _how_stored(history: History) -> CodecStats:
    with Watch("looking at states", unit="chunks") as watch:
        return history.codec_stats(progress=watch)


def _print(path: str, found: Stats) -> None:
    from casckpt.cli.console import Column, print_fields, print_table

    names = [(found.branches, "branch"), (found.tags, "tag")]
    print_fields(
        [
            ("store", path),
            ("commits", f"{found.commits:,}" + (f", {found.pruned:,} of them pruned" if found.pruned else "")),
            ("refs", ", ".join([human_count(count, noun) for count, noun in names])),
            ("logical", human_bytes(found.logical)),
            ("stored", human_bytes(found.stored)),
            ("ratio", f"{found.saved:,.1f} (logical / stored)"),
            (
                "file",
                f"{human_bytes(found.size.file)}: {human_bytes(found.size.free)} of it free for what comes"
                + human_reserve(found.size.reserve),
            ),
            ("held back", human_held(found.held)),
        ]
    )
    click.echo()
    counts = {"chunks": found.chunks, "nodes": found.nodes, "trees": found.trees}
    print_table(
        [Column("kind"), Column("objects", right=True), Column("stored", right=True)],
        [
            [kind, f"{counts[kind]:,}" if kind in counts else "", human_bytes(stored)]
            for kind, stored in found.stored_by_kind.items()
        ],
    )


def _print_commits(commits: list[Commit]) -> None:
    from casckpt.cli.console import Column, print_table

    rows = []
    for commit in commits:
        figures = commit.figures
        sizes = [] if figures is None else [figures.logical, figures.new, figures.stored, figures.logical - figures.new]
        rows.append(
            [
                short(commit.id),
                "" if commit.step is None else str(commit.step),
                *([human_bytes(size) for size in sizes] or [""] * 4),
                ("[pruned] " if commit.pruned else "") + first_line(commit.message),
            ]
        )
    click.echo()
    print_table(
        [
            Column("commit", style="yellow"),
            Column("step", right=True),
            Column("logical", right=True),
            Column("new", right=True),
            Column("stored", right=True),
            Column("shared", right=True),
            Column("message", gives=True),
        ],
        rows,
    )
