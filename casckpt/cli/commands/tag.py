"""`casckpt tag`: list tags, give a commit a name that stays, take one away."""

from __future__ import annotations

import click

from casckpt.cli.options import at_option, common_options, complete_tag, dry_run_option
from casckpt.cli.refs import refs_command
from casckpt.cli.session import Session


@click.command("tag", short_help="List, make and take away tags.")
@click.argument("name", required=False)
@at_option("The commit to tag, e.g. --at step:1000; else the current one.")
@click.option("--delete", metavar="NAME", shell_complete=complete_tag, help="Take a tag away, e.g. --delete v1.")
@dry_run_option
@common_options
@click.pass_obj
def command(session: Session, name: str | None, at: str | None, delete: str | None, dry_run: bool) -> None:
    """List tags; with NAME, tag a commit; with --delete, take a tag away. Pruning keeps tagged commits.

    \b
    casckpt tag
    casckpt tag v1 --at best:val_loss:min
    casckpt tag --delete v1
    """
    refs_command(session, "tag", name, at, delete, dry_run)
