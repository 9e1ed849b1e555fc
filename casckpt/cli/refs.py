"""What `casckpt branch` and `casckpt tag` have in common, which is all but the word."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.session import Session
from casckpt.cli.units import first_line, human_age, short
from casckpt.errors import RefNotFoundError

if TYPE_CHECKING:
    from casckpt.history.repository import History


def refs_command(
    session: Session, kind: str, name: str | None, at: str | None, gone: str | None, dry_run: bool
) -> None:
    """List, make (`name`) or delete (`gone`) branches or tags, as the arguments say.

    kind: "branch" or "tag".
    """
    if gone is not None and (name is not None or at is not None):
        raise click.UsageError(f"--delete {gone} takes no other name and no --at")
    if name is None and at is not None:
        raise click.UsageError(f"--at {at} needs the NAME of a {kind} to make there")
    if dry_run and gone is None:
        raise click.UsageError("--dry-run goes with --delete")
    with session.history() as history:
        if gone is not None:
            _delete(session, history, kind, gone, dry_run)
        elif name is not None:
            _create(session, history, kind, name, at or "HEAD")
        else:
            _print(session, history, kind)


def _create(session: Session, history: History, kind: str, name: str, at: str) -> None:
    session.changing(f"making the {kind} {name}")
    commit = history.branch(name, at) if kind == "branch" else history.tag(name, at)
    session.done = f"the {kind} {name} was made"
    if session.json:
        document.write({"kind": kind, "name": name, "commit": document.commit_fields(commit)})
    else:
        step = "" if commit.step is None else f" (step {commit.step})"
        click.echo(f"{kind} {name} is at {short(commit.id)}{step}")


def _delete(session: Session, history: History, kind: str, name: str, dry_run: bool) -> None:
    was = next((ref.commit for ref in history.refs() if (ref.kind, ref.name) == (kind, name)), None)
    if dry_run and was is None:
        raise RefNotFoundError(f"there is no {kind} {name!r}", ref=name, remedy=f"look with `casckpt {kind}`")
    if not dry_run:
        session.changing(f"taking the {kind} {name} away")
        if kind == "branch":
            history.delete_branch(name)
        else:
            history.delete_tag(name)
        session.done = f"the {kind} {name} was taken away"
    if session.json:
        document.write({"dry_run": dry_run, "kind": kind, "name": name, "was": was})
    else:
        verb = "would be" if dry_run else "is"
        click.echo(f"{kind} {name} {verb} gone; it was at {short(was or '')}")


def _print(session: Session, history: History, kind: str) -> None:
    found = [(ref, history.resolve(ref.commit)) for ref in history.refs() if ref.kind == kind]
    if session.json:
        document.write_list({**asdict(ref), "step": commit.step} for ref, commit in found)
        return
    if not found:
        unborn = f"; {history.current_branch} begins with the first commit" if kind == "branch" else ""
        click.echo(f"there is no {kind} yet{unborn}")
        return
    from rich.text import Text

    from casckpt.cli.console import Column, print_table

    print_table(
        [
            Column(""),
            Column(kind),
            Column("commit", style="yellow"),
            Column("step", right=True),
            Column("age", right=True),
            Column("message", gives=True),
        ],
        [
            [
                "*" if ref.current else "",
                Text(ref.name, "bold green" if ref.current else ""),
                short(commit.id),
                "" if commit.step is None else str(commit.step),
                human_age(commit.time),
                f"{'[pruned] ' if commit.pruned else ''}{first_line(commit.message)}",
            ]
            for ref, commit in found
        ],
    )
