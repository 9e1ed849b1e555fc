"""`casckpt backup`: a copy of the store, while others use it."""

from __future__ import annotations

from dataclasses import asdict

import click

from casckpt.cli import document
from casckpt.cli.options import common_options
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes


@click.command("backup", short_help="Copy the store while others use it.")
@click.argument("destination", metavar="DEST")
@common_options
@click.pass_obj
def command(session: Session, destination: str) -> None:
    """Copy the store, as it is now, into the folder DEST, which must be empty or not there yet.

    Others may go on reading and writing. DEST may be on a network file system. The copy is a store: look at it with
    `casckpt -C DEST log`. Free pages are not copied.

    \b
    casckpt backup /mnt/nas/gpt-friday
    casckpt -C runs/gpt backup /mnt/nas/gpt-friday
    """
    with session.history() as history, Watch("copying", unit="bytes") as watch:
        # From the first on: an interrupt that comes late lets the copy be finished, before anybody hears of that.
        session.done = f"the copy in {destination} is whole if it has a data.mdb"
        report = history.backup(destination, progress=watch)
    session.done = f"the copy in {report.path} is whole"
    if session.json:
        document.write(asdict(report))
    else:
        click.echo(f"copied {human_bytes(report.bytes)} to {report.path} ({report.seconds:.1f} s)")
