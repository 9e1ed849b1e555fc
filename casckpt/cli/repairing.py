"""`casckpt fsck --repair-from`: heal a store by another, and say what was healed and what is left."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import human_count
from casckpt.errors import CorruptObjectError, TruncatedStoreError

if TYPE_CHECKING:
    from casckpt.history.repair import RepairReport

# Objects that are named to people; programs get all.
_SHOWN = 10


def repair(session: Session, path: str, other: str, dry_run: bool) -> None:
    """Heal the store at `path`; ends with fsck's exit code."""
    from casckpt.history.maintained import Maintained
    from casckpt.store.lmdb_store import open_store

    try:
        store = open_store(path, create=False)
    except (CorruptObjectError, TruncatedStoreError):  # it is the file that is at fault, not here and now
        if not session.json:
            click.echo(_salvage_first(path, other), err=True)
        raise
    # a History would read HEAD, which may be what is damaged
    with Maintained(store) as handle, Watch("looking at the pages of the database", unit="bytes") as watch:
        if not dry_run:
            session.done = "what was fetched so far is in the store"
        report = handle.repair(other, dry_run=dry_run, progress=watch)
    if session.json:
        document.write({"path": path, "ok": report.ok, **asdict(report)})
    else:
        _print(path, report)
    if not report.ok:
        raise click.exceptions.Exit(CorruptObjectError.exit_code)


def _print(path: str, report: RepairReport) -> None:
    from casckpt.cli.commands.fsck import print_report

    if report.after.stopped:
        print_report(path, report.after)
        click.echo(_salvage_first(path, report.other))
        return
    would = "would be " if report.dry_run else ""
    for kind, count in report.healed.items():
        click.echo(f"{human_count(count, kind)} {would}fetched from {report.other}")
    if report.records:
        click.echo(f"{human_count(report.records, 'record')} of deltas {would}mended")
    if not report.healed and not report.records:
        click.echo("nothing to repair")
    for name in report.lost[:_SHOWN]:
        click.echo(f"{name} is not to be had there")
    if len(report.lost) > _SHOWN:
        click.echo(f"and {len(report.lost) - _SHOWN:,} more; --json names them")
    if not report.dry_run:
        click.echo()
        print_report(path, report.after)


def _salvage_first(path: str, other: str) -> str:
    return (
        "the database itself is damaged, and cannot be written to. "
        f"Make a new store of it first: casckpt salvage {path} NEW --with {other}"
    )
