"""`casckpt reflog`: the moves of branches and tags, and their expiry."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, complete_branch, dry_run_option, limit_option, span
from casckpt.cli.session import Session
from casckpt.cli.units import human_age, human_count, printable, short

if TYPE_CHECKING:
    from casckpt.history.repository import History


@click.command("reflog", short_help="Show where branches were; forget it.")
@click.argument("branch", required=False, shell_complete=complete_branch)
@limit_option("moves")
@click.option("--expire", is_flag=True, help="Forget old moves, so that gc may take what only they lead to.")
@click.option(
    "--older-than",
    metavar="SPAN",
    callback=span,
    help="What is old, with --expire: --older-than 6h. 0s forgets all. [30d]",
)
@dry_run_option
@common_options
@click.pass_obj
def command(
    session: Session, branch: str | None, limit: int, expire: bool, older_than: str | None, dry_run: bool
) -> None:
    """Show where BRANCH (else every branch and tag) was, the newest move first.

    BRANCH@{n} names where it was n moves ago: as long as a move is remembered here, its commits are kept.

    \b
    casckpt reflog main
    casckpt reflog --expire --older-than 30d --dry-run
    """
    if not expire and (dry_run or older_than is not None):
        raise click.UsageError("--dry-run and --older-than go with --expire")
    with session.history(branch) as history:
        if expire:
            _expire(session, history, branch, older_than or "30d", dry_run)
        else:
            _print(session, history, branch, limit)


def _expire(session: Session, history: History, branch: str | None, older_than: str, dry_run: bool) -> None:
    from casckpt.history.retention import span_seconds

    if not dry_run:
        session.changing("the expiry of the reflog")
    age = timedelta(seconds=span_seconds(older_than) or 0)
    count = history.expire_reflog(older_than=age, branch=branch, dry_run=dry_run)
    session.done = "nothing was changed" if dry_run else f"{human_count(count, 'move')} forgotten"
    if session.json:
        document.write({"dry_run": dry_run, "branch": branch, "older_than": older_than, "forgotten": count})
        return
    click.echo(f"{human_count(count, 'move')} {'would be ' if dry_run else ''}forgotten (older than {older_than})")
    if count and not dry_run:
        click.echo("what only they led to goes with the next `casckpt gc`")


def _print(session: Session, history: History, branch: str | None, limit: int) -> None:
    moves = history.reflog(branch, limit or None)
    if session.json:
        document.write_list(asdict(move) for move in moves)
        return
    if not moves:
        click.echo("no move is remembered")
        return
    from casckpt.cli.console import Column, print_table

    counts: dict[str, int] = {}
    rows = []
    for move in moves:
        back = counts[move.name] = counts.get(move.name, -1) + 1 if move.kind == "branch" else 0
        rows.append(
            [
                f"{move.name}@{{{back}}}" if move.kind == "branch" else f"tag {move.name}",
                short(move.old) if move.old else "-",
                short(move.new) if move.new else "-",
                human_age(move.time),
                printable(move.action),
            ]
        )
    print_table(
        [
            Column("where"),
            Column("from", style="yellow"),
            Column("to", style="yellow"),
            Column("age", right=True),
            Column("by", gives=True),
        ],
        rows,
    )
