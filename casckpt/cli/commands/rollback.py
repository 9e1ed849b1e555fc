"""`casckpt rollback`: move the current branch back to an earlier commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, dry_run_option, revision_argument
from casckpt.cli.session import Session
from casckpt.cli.units import short

if TYPE_CHECKING:
    from casckpt.history.commits import Commit


@click.command("rollback", short_help="Move the current branch back.")
@revision_argument()
@dry_run_option
@common_options
@click.pass_obj
def command(session: Session, revision: str, dry_run: bool) -> None:
    """Move the current branch to the commit that REV names; the next commit follows that one.

    Nothing is deleted: the reflog remembers where the branch was. Live objects of a training process are not touched;
    `Checkpointer.rollback` does that.

    \b
    casckpt rollback main~3
    casckpt rollback best:val_loss:min --dry-run
    casckpt rollback main@{1}              take the last move back
    """
    with session.history() as history:
        branch = history.current_branch
        before = next(history.log(limit=1), None)
        if not dry_run:
            session.changing(f"the move of {branch}")
        after = history.rollback(revision, dry_run=dry_run)
        session.done = "nothing was changed" if dry_run else f"{branch} was moved to {after.id}"
        if session.json:
            document.write(
                {
                    "dry_run": dry_run,
                    "branch": branch,
                    "from": None if before is None else document.commit_fields(before),
                    "to": document.commit_fields(after),
                }
            )
            return
        verb = "would move" if dry_run else "moved"
        origin = "" if before is None else f" from {_name(before)}"
        click.echo(f"{branch} {verb}{origin} to {_name(after)}")
        if before is not None and not dry_run:
            click.echo(f"take it back with: casckpt rollback '{branch}@{{1}}'")


def _name(commit: Commit) -> str:
    return short(commit.id) + ("" if commit.step is None else f" (step {commit.step})")
