"""`casckpt show`: one commit, and the parts of its state."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.commands.log import refs_by_commit
from casckpt.cli.options import common_options, revision_argument
from casckpt.cli.session import Session
from casckpt.cli.units import human_age, human_bytes, human_count, printable

if TYPE_CHECKING:
    from casckpt.history.commits import Commit
    from casckpt.history.parts import Part


@click.command("show", short_help="Show one commit and its parts.")
@revision_argument(metavar="[REV]", required=False)
@common_options
@click.pass_obj
def command(session: Session, revision: str | None) -> None:
    """Show the commit that REV names (else the newest), and the parts of its state with their sizes.

    \b
    casckpt show
    casckpt show step:1000
    casckpt show --json best:val_loss:min
    """
    with session.history() as history:
        commit = history.resolve(revision or "HEAD")
        parts = [] if commit.pruned else history.parts(commit.id)
        refs = refs_by_commit(history).get(commit.id, [])
        if session.json:
            document.write({**document.commit_fields(commit, refs), "parts": [asdict(part) for part in parts]})
        else:
            _print(commit, refs, parts)


def _print(commit: Commit, refs: list[str], parts: list[Part]) -> None:
    from casckpt.cli.console import Column, print_fields, print_table
    from casckpt.objects.paths import readable

    fields = [
        ("commit", commit.id),
        ("refs", ", ".join([ref.replace("/", " ", 1) for ref in refs])),
        ("parents", " ".join(commit.parents)),
        ("on branch", commit.branch),
        ("step", "" if commit.step is None else str(commit.step)),
        ("time", f"{commit.time:%Y-%m-%d %H:%M:%S} UTC, {human_age(commit.time)} ago, on {printable(commit.host)}"),
        ("metrics", "\n".join([f"{printable(name)} {number!r}" for name, number in commit.metrics.items()])),
        ("meta", "\n".join([printable(f"{key} {readable(item)}") for key, item in commit.meta.items()])),
        ("message", "\n".join([printable(line) for line in commit.message.splitlines()])),
    ]
    if (figures := commit.figures) is not None:
        new = f"{human_bytes(figures.new)} in {human_count(figures.new_chunks, 'chunk')}"
        fields += [
            ("state", f"{human_bytes(figures.logical)} in {human_count(figures.chunks, 'chunk')}"),
            ("new", f"{new}, stored in {human_bytes(figures.stored)}"),
            ("shared", human_bytes(figures.logical - figures.new)),
        ]
    if commit.pruned:
        fields.append(("pruned", "its state is no longer kept"))
    print_fields(fields)
    if parts:
        click.echo()
        print_table(
            [
                Column("part", gives=True),
                Column("tensors", right=True),
                Column("values", right=True),
                Column("bytes", right=True),
            ],
            [_row(part) for part in parts],
        )


def _row(part: Part) -> list[str]:
    name = printable(part.name) or "(the whole state)"
    if part.released:
        return [name, "", "", "released"]
    return [name, f"{part.tensors:,}", f"{part.values:,}", human_bytes(part.nbytes)]
