"""`casckpt gc`: delete what nothing refers to."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, dry_run_option
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes, human_count, human_held

if TYPE_CHECKING:
    from casckpt.history.gc import GcReport
    from casckpt.history.repository import History


@click.command("gc", short_help="Delete what nothing refers to.")
@dry_run_option
@common_options
@click.pass_obj
def command(session: Session, dry_run: bool) -> None:
    """Delete every object that no branch, tag or remembered move leads to, or that pruning released.

    What is kept, and stored as a delta of something that goes, is stored anew. Others may go on reading and writing.
    The file keeps its size: what is deleted makes room for what comes.

    \b
    casckpt gc --dry-run
    casckpt gc
    """
    with session.history() as history:
        report = collect(session, history, dry_run)
        if session.json:
            document.write(report_fields(report))
        else:
            print_report(report)


def collect(session: Session, history: History, dry_run: bool) -> GcReport:
    """gc under a progress display; an interrupt says how far it came."""
    before = "" if session.done == "nothing was changed" else f"{session.done}; "
    with Watch("looking for what is live", units={"re-encoding chunks": "bytes"}) as watch:

        def progress(stage: str, done: int, total: int) -> None:
            watch(stage, done, total)
            if total:
                session.done = (
                    f"{before}gc had come to: {watch.stage}; what it deleted was dead, what it re-encoded is the same, "
                    "run it again to go on"
                )

        report = history.gc(dry_run=dry_run, progress=progress)
    if not dry_run:
        session.done = f"{before}{human_bytes(report.freed)} given back"
    return report


def report_fields(report: GcReport) -> dict[str, object]:
    """A report as programs read it."""
    return {**asdict(report), "freed": report.freed}


def print_report(report: GcReport) -> None:
    """A report as people read it."""
    counts = [
        human_count(count, noun)
        for count, noun in (
            (report.commits, "commit"),
            (report.trees, "tree"),
            (report.nodes, "node"),
            (report.chunks, "chunk"),
        )
        if count
    ]
    live = human_count(report.live_chunks, "chunk")
    if held := human_held(report.held):
        click.echo(f"note: {held}", err=True)
    if not (counts or report.reencoded_chunks or report.kept_bases):
        click.echo(f"nothing to collect; {live} live ({report.seconds:.1f} s)")
        return
    gave, took = ("would give back", "would take") if report.dry_run else ("gave back", "took")
    size = f"{gave} {human_bytes(report.freed)}" if report.freed >= 0 else f"{took} {human_bytes(-report.freed)}"
    click.echo(f"gc {size}: {', '.join(counts) or 'nothing deleted'}; {live} live ({report.seconds:.1f} s)")
    if report.reencoded_chunks:
        chunks = human_count(report.reencoded_chunks, "chunk")
        sizes = f"{human_bytes(report.reencoded_before)} before, {human_bytes(report.reencoded_after)} after"
        click.echo(f"{'to be ' if report.dry_run else ''}re-encoded: {chunks}, {sizes}")
    if report.kept_bases:
        kept = human_count(report.kept_bases, "dead chunk")
        click.echo(f"left: {kept}, under deltas that could not be re-encoded")
