"""`casckpt repack`: encode what is stored anew, in another mode or as deltas."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.codecs import codec_name, codec_option
from casckpt.cli.options import common_options, complete_revision, dry_run_option
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes, human_count

if TYPE_CHECKING:
    from casckpt.history.repack import RepackReport


@click.command("repack", short_help="Encode what is stored anew.")
@click.argument("revisions", metavar="[REV|REV..REV]...", nargs=-1, shell_complete=complete_revision)
@codec_option("How, --codec small to spend time on it now; else as the store says.")
@dry_run_option
@common_options
@click.pass_obj
def command(session: Session, revisions: tuple[str, ...], codec: str | None, dry_run: bool) -> None:
    """Encode chunks anew where that makes them smaller, or where --codec asks for it: those of the commits that are
    named, each REV being one and A..B all that leads to B and not to A, else of all that is kept.

    Ids and contents stay as they are, others may go on reading and writing, and it may be interrupted anywhere. The
    file keeps its size: `casckpt compact` gives back what becomes free. A store of an earlier format is upgraded, so
    that it can hold deltas; then earlier releases of casckpt do not read it any more.

    \b
    casckpt repack --dry-run
    casckpt repack --codec small
    casckpt repack step:1000..main
    """
    with session.history() as history, Watch("looking at history", unit="bytes") as watch:

        def progress(stage: str, done: int, total: int) -> None:
            watch(stage, done, total)
            if total and not dry_run:
                session.done = (
                    f"repack had come to: {watch.stage}; what is re-encoded stays so, run it again to go on with the "
                    "rest"
                )

        report = history.repack(revisions or None, codec=codec, dry_run=dry_run, progress=progress)
    if not dry_run:
        session.done = f"{human_count(report.reencoded_chunks, 'chunk')} re-encoded"
    if session.json:
        document.write(asdict(report))
    else:
        _print(report)


def _print(report: RepackReport) -> None:
    from casckpt.cli.console import Column, print_table

    names = {**report.codecs_before, **report.codecs_after}
    rows = []
    for name in names:
        amounts = report.codecs_before.get(name, (0, 0)), report.codecs_after.get(name, (0, 0))
        rows.append([codec_name(name), *[cell for one in amounts for cell in (f"{one[0]:,}", human_bytes(one[1]))]])
    if rows:
        titles = ("chunks before", "bytes", "chunks after", "bytes")
        print_table([Column("codec"), *[Column(title, right=True) for title in titles]], rows)
    looked = f"{human_count(report.chunks, 'chunk')} of {human_count(report.commits, 'commit')}"
    click.echo(f"looked at {looked}, in mode {report.mode}")
    if report.damaged:
        click.echo(f"{human_count(report.damaged, 'chunk')} cannot be read: look with `casckpt fsck --read-data`")
    if not report.reencoded_chunks:
        click.echo(f"nothing to re-encode ({report.seconds:.1f} s)")
        return
    verb = "repack would re-encode" if report.dry_run else "repack re-encoded"
    sizes = f"{human_bytes(report.reencoded_before)} before, {human_bytes(report.reencoded_after)} after"
    click.echo(f"{verb} {human_count(report.reencoded_chunks, 'chunk')}: {sizes} ({report.seconds:.1f} s)")
    if not report.dry_run:
        click.echo("what became free is for what comes next; `casckpt compact` gives it to the disk")
