"""`casckpt salvage`: a new store out of what a damaged one still holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from casckpt.cli import document
from casckpt.cli.options import dry_run_option, json_option
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes, human_count, printable, short
from casckpt.limits import MAX_HURT

if TYPE_CHECKING:
    from casckpt.history.salvage.report import HurtState, SalvageReport

INCOMPLETE: Final = 11
"""The exit code where a store was made, and not all came back that history led to."""

# Lines of one kind that people are shown; programs get all.
_SHOWN: Final = 10


@click.command("salvage", short_help="Make a new store of what a damaged one holds.")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--with",
    "others",
    metavar="STORE",
    multiple=True,
    help="Take what is lost from another store, such as a backup: --with backups/friday. May be given several times.",
)
@dry_run_option
@json_option
@click.pass_obj
def command(session: Session, source: str, destination: str, others: tuple[str, ...], dry_run: bool) -> None:
    """Make a new store in the folder DST, which must be empty or not there yet, of what can still be had out of SRC: a
    store that cannot be opened or is damaged, or its data file.

    SRC is read only, and nobody may have it open. Nothing in it is trusted but what proves itself by its hash; every
    commit that is whole comes back, with its own id. Those to which no branch or tag leads any more come back as
    branches salvaged/ID, also some that had been given up: delete what you don't want.

    The exit code is 0 where all came back that history led to, and 11 where something is lost, which is then said.

    \b
    casckpt salvage runs/gpt runs/gpt-salvaged
    casckpt salvage runs/gpt runs/gpt-salvaged --with backups/friday
    """
    from casckpt.history.salvage.run import salvage

    # From the first on: an interrupt that comes late lets the store be put in its place, before anybody hears of that.
    session.done = f"{source} is as it was, and the store in {destination} is whole if it has a data.mdb"
    with Watch("looking through the file", unit="bytes", units={"decoding chunks": "chunks"}) as watch:
        report = salvage(source, destination, others=others, dry_run=dry_run, progress=watch)
    session.done = f"the store in {report.destination} is whole"
    if session.json:
        document.write(asdict(report))
    else:
        _print(report)
    if not report.complete:
        raise click.exceptions.Exit(INCOMPLETE)


def _print(report: SalvageReport) -> None:
    from casckpt.cli.console import print_fields

    objects = [
        human_count(report.trees, "tree"),
        human_count(report.nodes, "node"),
        human_count(report.chunks, "chunk"),
    ]
    fields = [
        ("read", f"{human_bytes(report.bytes)} of {report.source}"),
        ("would make" if report.dry_run else "made", report.destination),
        (
            "history",
            f"{human_count(report.commits, 'commit')}, {report.whole:,} with all that was kept of their states",
        ),
        ("objects", f"{', '.join(objects)}; {human_bytes(report.stored_bytes)}"),
    ]
    if report.taken:
        fields.append(("elsewhere", f"{human_count(report.taken, 'object')} came from other stores"))
    if not report.format_found:
        fields.append(("format", "its record is lost: hash and chunk size are those of the objects"))
    print_fields(fields)
    lines = [
        f"{ref.kind} {ref.name} at {short(ref.commit)}" + (f": {ref.doubt}" if ref.doubt else "") for ref in report.refs
    ]
    _list("branches and tags", lines)
    _list("refs of which nothing is left", [name.replace("/", " ", 1) for name in report.lost_refs])
    _list("states that lost something", [_hurt_line(one) for one in report.hurt])
    _list("commits that are lost", [short(oid) for oid in report.lost_commits])
    rewritten = [f"{short(old)} is {short(new)} now" for old, new in report.rewritten.items()]
    _list("commits with new ids, since an ancestor is lost", rewritten)
    _list("left out: given up before, and not whole", [short(oid) for oid in report.left])
    click.echo()
    if report.complete:
        click.echo(
            f"all that history led to {'would come' if report.dry_run else 'came'} back ({report.seconds:.1f} s)"
        )
    else:
        click.echo(f"NOT ALL of what history led to {'would come' if report.dry_run else 'came'} back")


def _hurt_line(hurt: HurtState) -> str:
    named = short(hurt.commit) + ("" if hurt.step is None else f" (step {hurt.step})")
    what = f"without {', '.join(map(printable, hurt.parts))}" if hurt.parts else "marked as pruned"
    return f"{named}: {what} ({human_count(len(hurt.lost), 'object')}{' or more' * (len(hurt.lost) >= MAX_HURT)} lost)"


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    click.echo(f"\n{title} ({len(lines):,})")
    for line in lines[:_SHOWN]:
        click.echo(f"  {line}")
    if len(lines) > _SHOWN:
        click.echo(f"  and {len(lines) - _SHOWN:,} more; --json names them")
