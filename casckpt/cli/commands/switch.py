"""`casckpt switch`: let another branch be the current one."""

from __future__ import annotations

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, complete_branch
from casckpt.cli.session import Session
from casckpt.cli.units import short


@click.command("switch", short_help="Choose the current branch.")
@click.argument("name", shell_complete=complete_branch)
@click.option("-c", "--create", is_flag=True, help="Make the branch first, at the current commit: switch -c try-lr.")
@common_options
@click.pass_obj
def command(session: Session, name: str, create: bool) -> None:
    """Let the branch NAME be the current one, for whoever opens the store from now on.

    A process that has the store open stays on the branch that it opened.

    \b
    casckpt switch main
    casckpt switch -c try-lr
    """
    with session.history() as history:
        session.changing(f"the switch to {name}")
        history.switch(name, create=create)
        session.done = f"{name} is the current branch"
        tip = next((ref.commit for ref in history.refs() if (ref.kind, ref.name) == ("branch", name)), None)
        if session.json:
            document.write({"branch": name, "created": create, "commit": tip})
        else:
            click.echo(f"{name} is the current branch" + (f", at {short(tip)}" if tip else "; it has no commit yet"))
