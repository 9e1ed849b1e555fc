"""`casckpt prune`: release what a policy does not keep, saying why each commit is kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.commands.gc import collect, print_report, report_fields
from casckpt.cli.options import common_options, dry_run_option, span
from casckpt.cli.policy import keep_from_options
from casckpt.cli.session import Session
from casckpt.cli.units import first_line, human_count, short

if TYPE_CHECKING:
    from casckpt.history.prune import Decision, PruneReport

# Characters of a message that the table shows: enough to know the commit by, with room for the reasons.
_MESSAGE = 20


@click.command("prune", short_help="Release what a policy does not keep.")
@click.option("--keep-last", type=click.IntRange(min=0), metavar="N", help="The newest N of each line, --keep-last 5.")
@click.option(
    "--keep-first", type=click.IntRange(min=0), metavar="N", help="The oldest N of each line, --keep-first 1."
)
@click.option(
    "--keep-every-steps",
    type=click.IntRange(min=1),
    metavar="K",
    help="The first in each K steps, --keep-every-steps 1000.",
)
@click.option("--keep-every", metavar="SPAN", callback=span, help="The first in each span of time, --keep-every 6h.")
@click.option(
    "--keep-best",
    multiple=True,
    metavar="METRIC:MODE[:N]",
    help="The N best by a metric, MODE min or max, --keep-best val_loss:min:3.",
)
@click.option(
    "--keep-tag",
    multiple=True,
    metavar="GLOB",
    help="Tagged so, --keep-tag 'v*'. If never given, whatever is tagged is kept.",
)
@click.option(
    "--keep-branch",
    multiple=True,
    metavar="GLOB",
    help="Tips of branches named so, --keep-branch main. If never given, the tip of every branch is kept.",
)
@click.option(
    "--part",
    "parts",
    multiple=True,
    metavar="PART:RULE=VALUE[,…]",
    help="Of the commits that are kept, keep this part (a top-level key) only in some, --part optimizer:last=3 or "
    "--part ema:last=2,best=val_loss:min. Rules are named as above, without --keep-.",
)
@click.option("--gc", "collecting", is_flag=True, help="Collect at once, as `casckpt gc` would.")
@dry_run_option
@common_options
@click.pass_obj
def command(
    session: Session,
    keep_last: int | None,
    keep_first: int | None,
    keep_every_steps: int | None,
    keep_every: str | None,
    keep_best: tuple[str, ...],
    keep_tag: tuple[str, ...],
    keep_branch: tuple[str, ...],
    parts: tuple[str, ...],
    collecting: bool,
    dry_run: bool,
) -> None:
    """Release the states that no rule keeps, on every line of history; what one rule keeps is kept.

    Pruned commits stay in the log. Their bytes come back when gc runs. A line of history is what leads to the tip of a
    branch, or to a commit that only the reflog remembers.

    \b
    casckpt prune --keep-last 5 --keep-best val_loss:min:3 --dry-run
    casckpt prune --keep-every-steps 1000 --part optimizer:last=3 --gc
    """
    keep = keep_from_options(
        last=keep_last or 0,
        first=keep_first or 0,
        every_steps=keep_every_steps,
        every=keep_every,
        best=keep_best,
        tags=keep_tag,
        branches=keep_branch,
        parts=parts,
    )
    with session.history() as history:
        if not dry_run:
            session.changing("the pruning")
        report = history.prune(keep, dry_run=dry_run)
        words = f"{human_count(len(report.pruned), 'commit')} pruned"
        session.done = "nothing was changed" if dry_run else f"{words}, nothing collected yet"
        collected = collect(session, history, False) if collecting and not dry_run else None
        if session.json:
            document.write(
                {
                    "dry_run": dry_run,
                    "kept": len(report.kept),
                    "pruned": len(report.pruned),
                    "commits": [asdict(decision) for decision in report.decisions],
                    "gc": None if collected is None else report_fields(collected),
                }
            )
            return
        _print(report)
        if collected is not None:
            print_report(collected)
        elif report.changes and not dry_run:
            click.echo("the bytes come back with `casckpt gc`")


def _print(report: PruneReport) -> None:
    if not report.decisions:
        click.echo("no commit is left to prune")
        return
    from rich.text import Text

    from casckpt.cli.console import Cell, Column, print_table

    rows: list[list[Cell]] = []
    for decision in report.decisions:
        what, style = _verdict(decision)
        step = "" if decision.step is None else str(decision.step)
        why = "; ".join(decision.reasons)
        message = Text(first_line(decision.message))
        message.truncate(_MESSAGE, overflow="ellipsis")
        rows.append([short(decision.id), step, Text(what, style), why, message])
    print_table(
        [
            Column("commit", style="yellow"),
            Column("step", right=True),
            Column(""),
            Column("because of", gives=True, wraps=True),
            Column("message"),
        ],
        rows,
    )
    thinned = sum(1 for decision in report.kept if decision.released)
    would = "would be " if report.dry_run else ""
    counted = f"{human_count(len(report.pruned), 'commit')} {would}pruned, {len(report.kept):,} kept"
    click.echo(counted + (f", {thinned:,} of these without a part from now on" if thinned else ""))


def _verdict(decision: Decision) -> tuple[str, str]:
    if not decision.kept:
        return "prune", "red"
    if decision.released:
        return f"keep, release {', '.join(decision.released)}", "yellow"
    return "keep", "green"
