"""`casckpt completion`: the script by which a shell completes commands, options, revisions and folders."""

from __future__ import annotations

import click

from casckpt.cli.options import json_option
from casckpt.cli.session import Session


@click.command("completion", short_help="Print the script for a shell's tab key.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_obj
def command(session: Session, shell: str) -> None:
    """Print the script by which SHELL completes casckpt: commands, options, branches, tags, steps and folders.

    Have your shell read it when it starts:

    \b
    bash   echo 'eval "$(casckpt completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(casckpt completion zsh)"' >> ~/.zshrc
    fish   casckpt completion fish > ~/.config/fish/completions/casckpt.fish
    """
    from casckpt.cli import document
    from casckpt.cli.completion import script

    text = script(click.get_current_context().find_root().command, shell)
    if session.json:
        document.write({"shell": shell, "script": text})
    else:
        click.echo(text)
