"""`casckpt fsck`: check a store, say of each thing that is wrong what it hurts and what to do; heal it by another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, dry_run_option
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes, human_count, printable, short
from casckpt.errors import CasckptError, CorruptObjectError, HistoryLostError

if TYPE_CHECKING:
    from casckpt.history.fsck.findings import Finding
    from casckpt.history.fsck.report import FsckReport
    from casckpt.store.protocol import Store

# Findings of one id that people are shown, and commits and paths of one finding; programs get all.
_SHOWN: Final = 5
_COLOURS: Final = {"error": "bold red", "warning": "bold yellow", "info": "bold"}


def _subset(ctx: click.Context, option: click.Parameter, text: str | None) -> str | None:
    from casckpt.history.fsck.subset import parse_subset

    if text is not None:
        try:
            parse_subset(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return text


@click.command("fsck", short_help="Check the store.")
@click.option("--read-data", is_flag=True, help="Read every chunk too, and hold it against its id.")
@click.option(
    "--read-data-subset",
    metavar="SHARE",
    callback=_subset,
    help="Read a share of the chunks: --read-data-subset 5% or 500M at random, or 2/7, the second of seven groups.",
)
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Where acknowledged changes are missing, forget that they were acknowledged, and go on from what is there.",
)
@click.option(
    "--repair-from",
    metavar="OTHER",
    help="Fetch what is bad or missing from another store that has it, such as --repair-from backups/friday.",
)
@dry_run_option
@common_options
@click.pass_obj
def command(
    session: Session,
    read_data: bool,
    read_data_subset: str | None,
    accept_loss: bool,
    repair_from: str | None,
    dry_run: bool,
) -> None:
    """Check every page of the database, every commit, tree and record, and that every chunk is there.

    Others may go on reading and writing; nothing is changed, but by --repair-from, which fetches what is bad or missing
    from a backup, say, and checks again. The exit code is 0 where there is no error, whatever warnings there are, and
    10 where there is one; a store that cannot be opened gives the code of that error.

    \b
    casckpt fsck
    casckpt fsck --read-data
    casckpt fsck --read-data-subset 1/7     on Mondays; 2/7 on Tuesdays ...
    casckpt fsck --repair-from backups/friday
    """
    if dry_run and repair_from is None:
        raise click.UsageError("--dry-run goes with --repair-from; a check changes nothing")
    if repair_from is not None and (read_data_subset is not None or accept_loss):
        raise click.UsageError(
            "--repair-from reads all data; it goes with neither --read-data-subset nor --accept-loss"
        )
    if read_data and read_data_subset is not None:
        raise click.UsageError("--read-data reads all; it does not go with --read-data-subset")
    from casckpt.store.filesystem import whole_path

    path = str(whole_path(session.store_path()))
    if repair_from is not None:
        from casckpt.cli.repairing import repair

        repair(session, path, repair_from, dry_run)
        return
    report, code = _check(session, path, read_data, read_data_subset, accept_loss)
    if session.json:
        document.write({"path": path, "ok": report.ok, **asdict(report)})
    else:
        print_report(path, report)
    if code:
        raise click.exceptions.Exit(code)


def _check(
    session: Session, path: str, read_data: bool, subset: str | None, accept_loss: bool
) -> tuple[FsckReport, int]:
    """The report, and the exit code."""
    from casckpt.history.fsck.findings import finding
    from casckpt.history.fsck.report import unopened
    from casckpt.history.maintained import Maintained

    try:
        store, lost = _open(session, path, accept_loss)
    except CasckptError as error:
        report = unopened(error, path)
        if report is None:
            raise
        return report, error.exit_code
    # a History would read HEAD, which may be what is damaged
    with Maintained(store) as handle, Watch("looking at the pages of the database", unit="bytes") as watch:
        report = handle.fsck(read_data=read_data, subset=subset, progress=watch)
    if lost:
        report = report.add(finding("loss-accepted", lost))
    return report, 0 if report.ok else CorruptObjectError.exit_code


def _open(session: Session, path: str, accept_loss: bool) -> tuple[Store, str]:
    """The store, and the loss that was accepted, in words, or ""."""
    from casckpt.store.lmdb_store import open_store

    try:
        return open_store(path, create=False), ""
    except HistoryLostError as error:
        if not accept_loss:
            raise
        session.changing("accepting the loss")
        store = open_store(path, create=False, accept_loss=True)
        session.done = "the loss was accepted; nothing else was changed"
        return store, error.problem


# -- for people --------------------------------------------------------------------------------------------------------


def print_report(path: str, report: FsckReport) -> None:
    from casckpt.cli.console import print_fields
    from casckpt.history.fsck.findings import SEVERITIES

    print_fields([("store", path), *_looked(report)])
    for severity in SEVERITIES:
        found = [one for one in report.findings if one.severity == severity]
        for id in dict.fromkeys(one.id for one in found):
            click.echo()
            _print_findings([one for one in found if one.id == id], report.counts[id])
    click.echo()
    _print_verdict(report)


def _looked(report: FsckReport) -> list[tuple[str, str]]:
    looked = report.looked
    if report.stopped:
        return [("stopped", report.stopped)]
    counts = [
        ("pages", [human_count(looked.pages, "page")] if looked.pages else []),
        ("history", [human_count(looked.commits, "commit"), human_count(looked.refs, "ref")]),
        ("objects", [human_count(looked.trees, "tree"), human_count(looked.nodes, "node")]),
    ]
    chunks = human_count(looked.chunks, "chunk")
    if looked.chunks_read or not looked.chunks:
        data = f"{looked.chunks_read:,} of {chunks} read and hashed" + (f" ({report.subset})" if report.subset else "")
        data += f"; {looked.deltas:,} are deltas" if looked.deltas else ""
    else:
        data = chunks + (f", {looked.deltas:,} of them deltas" if looked.deltas else " there")
        data += ", none read (--read-data reads them)"
    fields = [(name, ", ".join(words)) for name, words in counts]
    return [*fields, ("data", data), ("read", f"{human_bytes(report.bytes)} in {report.seconds:.1f} s")]


def _print_findings(found: Sequence[Finding], count: int) -> None:
    """All findings of one id: what it means, then each, then what to do."""
    from rich.text import Text

    first = found[0]
    _line(Text.assemble((f"{first.severity}: {first.id}", _COLOURS[first.severity]), f" ({count:,})"))
    _line(Text(first.meaning), 2)
    for one in found[:_SHOWN]:
        _line(Text(f"- {printable(one.what)}"), 2)
        if one.hurt.commits:
            commits = [
                short(commit.id) + ("" if commit.step is None else f" (step {commit.step})")
                for commit in one.hurt.commits
            ]
            _line(Text(f"hurts {_first(commits, one.hurt.more_commits)}"), 4)
        if one.hurt.paths:
            paths = [printable(path) or "all of the state" for path in one.hurt.paths]
            _line(Text(f"at {_first(paths, one.hurt.more_paths)}"), 4)
    if count > _SHOWN:
        more = f"- {count - min(_SHOWN, len(found)):,} more"
        _line(Text(more + ("; --json names them" if len(found) == count else f"; --json names {len(found):,}")), 2)
    _line(Text.assemble(("What to do: ", "dim"), first.remedy), 2)


def _first(names: Sequence[str], more: int) -> str:
    left = len(names) - _SHOWN + more
    return ", ".join(names[:_SHOWN]) + (f" and {left:,} more" if left > 0 else "")


def _line(text: object, indent: int = 0) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from casckpt.cli.console import print_lines

    assert isinstance(text, Text)
    print_lines(Padding(text, (0, 0, 0, indent)))


def _print_verdict(report: FsckReport) -> None:
    from rich.text import Text

    others = [
        human_count(number, noun)
        for number, noun in ((report.number("warning"), "warning"), (report.number("info"), "note"))
        if number
    ]
    if report.ok:
        _line(Text.assemble(("sound", "bold green"), ": " + ", ".join(["no errors", *others])))
    else:
        errors = human_count(report.number("error"), "error")
        _line(Text.assemble(("NOT SOUND", "bold red"), ": " + ", ".join([errors, *others])))
