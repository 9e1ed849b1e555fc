"""`casckpt compact`: give the free pages of the file back to the disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, dry_run_option
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes

if TYPE_CHECKING:
    from casckpt.store.protocol import CompactReport


@click.command("compact", short_help="Give free pages back to the disk.")
@dry_run_option
@common_options
@click.pass_obj
def command(session: Session, dry_run: bool) -> None:
    """Rewrite the store's file without the pages that gc freed, so that other files can have their room.

    No other process may have the store open, and the new file needs room beside the old one.

    \b
    casckpt compact --dry-run
    casckpt compact
    """
    with session.history() as history, Watch("looking who has it open", unit="bytes") as watch:
        if not dry_run:  # from the first on: one that comes late lets it be finished, before anybody hears of that
            session.done = "the file was rewritten, or is as it was; either way it holds everything"
        report = history.compact(dry_run=dry_run, progress=watch)
    if session.json:
        document.write({**asdict(report), "given_back": report.given_back})
    else:
        _print(report)


def _print(report: CompactReport) -> None:
    before, after = human_bytes(report.before), human_bytes(report.after)
    given = human_bytes(report.given_back)
    if report.dry_run:
        click.echo(f"compact would give back {given} or more: {before} on the disk, at most {after} then")
    else:
        click.echo(f"compact gave back {given}: {before} on the disk before, {after} now ({report.seconds:.1f} s)")
    if report.reserve:
        click.echo(f"{human_bytes(report.reserve)} of that are a reserve, by which gc works on a full disk")
    for holder in report.holders:
        click.echo(f"in the way: {holder}")
