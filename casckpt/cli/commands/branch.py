"""`casckpt branch`: list branches, make one, take one away."""

from __future__ import annotations

import click

from casckpt.cli.options import at_option, common_options, complete_branch, dry_run_option
from casckpt.cli.refs import refs_command
from casckpt.cli.session import Session


@click.command("branch", short_help="List, make and take away branches.")
@click.argument("name", required=False)
@at_option("Where the new branch begins, e.g. --at main~2; else at the current commit.")
@click.option(
    "--delete", metavar="NAME", shell_complete=complete_branch, help="Take a branch away, e.g. --delete try-lr."
)
@dry_run_option
@common_options
@click.pass_obj
def command(session: Session, name: str | None, at: str | None, delete: str | None, dry_run: bool) -> None:
    """List branches; with NAME, make one; with --delete, take one away.

    Making a branch does not switch to it: `casckpt switch` does. The commits of a branch taken away stay until the
    reflog is expired and gc runs.

    \b
    casckpt branch
    casckpt branch try-lr --at main~2
    casckpt branch --delete try-lr
    """
    refs_command(session, "branch", name, at, delete, dry_run)
