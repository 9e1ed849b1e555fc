"""The `casckpt` command: a group that imports a command only when it is used, so that none waits for another."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

import click

from casckpt.cli.options import repo_option

COMMANDS = (
    "demo",
    "init",
    "log",
    "show",
    "ls",
    "diff",
    "status",
    "rollback",
    "restore",
    "branch",
    "tag",
    "switch",
    "reflog",
    "prune",
    "gc",
    "repack",
    "fsck",
    "salvage",
    "compact",
    "backup",
    "import",
    "watch",
    "export",
    "stats",
    "config",
    "completion",
)


class LazyGroup(click.Group):
    """A group whose commands are `command` in modules of `casckpt.cli.commands` of their names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = import_module(f"casckpt.cli.commands.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            close = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "see 'casckpt --help'"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from casckpt import __version__

        click.echo(f"casckpt {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@repo_option(envvar="CASCKPT_REPO")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Say which casckpt."
)
def app() -> None:
    """Look at a store of checkpoints, move in its history, and give bytes back.

    A store is found by -C PATH, else by CASCKPT_REPO, else it is the nearest one from the current folder up.

    \b
    casckpt demo                        all of it at work, on a real training run
    casckpt -C runs/gpt log             what was saved
    casckpt show best:val_loss:min      one commit
    casckpt prune --keep-last 5 --gc    give back the bytes of all but five
    """
