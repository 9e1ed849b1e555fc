"""`casckpt import`: checkpoints that other programs wrote, a single one or a whole folder, as commits."""  # noqa: N999  # as the command is called

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from casckpt.cli import document
from casckpt.cli.codecs import codec_option
from casckpt.cli.imports import left_out_lines, report_fields, totals
from casckpt.cli.options import common_options, complete_branch, dry_run_option
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session, is_store
from casckpt.cli.units import human_bytes, human_count, printable, short
from casckpt.store.protocol import StoreSize
from casckpt.tensors.intake.intake import find, plan, take_in
from casckpt.tensors.intake.report import ImportReport, Item, Outcome

# Letters of a name that are shown beside the bar.
_NAME: Final = 24


@click.command("import", short_help="Take in checkpoints of other programs.")
@click.argument("path", type=click.Path())
@click.option(
    "--branch",
    metavar="NAME",
    shell_complete=complete_branch,
    help="Take them into this branch, made if it is not there: --branch old-run. Else into the current one.",
)
@click.option("--part", metavar="KEY", help="Put each state under this key, e.g. --part model for bare weights.")
@click.option(
    "--message", metavar="TEXT", help="The commit's message, or what stands before the names: --message 'run 7'."
)
@click.option("--step", metavar="N", type=int, help="The step of a single checkpoint, e.g. --step 1000.")
@click.option(
    "--pattern", metavar="GLOB", help="Of a folder, take what is so called: --pattern 'ema_*.pt', and nothing else."
)
@codec_option("How chunks are stored, --codec small; else as the store says.")
@click.option("--skip-bad", is_flag=True, help="Go on behind a checkpoint that cannot be read.")
@dry_run_option
@common_options
@click.pass_obj
def command(
    session: Session,
    path: str,
    branch: str | None,
    part: str | None,
    message: str | None,
    step: int | None,
    pattern: str | None,
    codec: str | None,
    skip_bad: bool,
    dry_run: bool,
) -> None:
    """Take in the checkpoint at PATH, or all those of the folder PATH, in their order, as commits of one history.

    Read are files of torch.save (weights only, never other pickles), safetensors and npz, folders that from_pretrained
    reads, and checkpoints of transformers' Trainer. What the branch has already is passed over, so run it again after
    an interruption. A store that is not there is made. The files stay as they are.

    \b
    casckpt -C runs/gpt import old-run/checkpoints
    casckpt import old-run/checkpoints --dry-run
    casckpt import model.safetensors --part model --step 1000
    """
    place = Path(path)
    found = find(place, pattern)
    if step is not None and found.checkpoints[0].path != place:
        raise click.UsageError(
            f"--step {step} goes with a single checkpoint; those of a folder have steps of their own"
        )
    made = not is_store(Path(session.store_path()))
    if made and dry_run:
        nothing = StoreSize(0, 0, 0)
        planned = tuple(plan(found, None))
        report = ImportReport(path, branch or "main", True, planned, found.left_out, nothing, nothing)
        _print(session, report, session.store_path())
        return
    with session.repository(branch, create=True) as repo:
        if made:
            session.done = f"{repo.path} is a store now"
            if not session.json:
                click.echo(session.done)
        with _Telling(session, len(found.checkpoints)) as telling:
            report = take_in(
                repo,
                place,
                pattern=pattern,
                part=part,
                codec=codec,
                message=message,
                step=step,
                skip_bad=skip_bad,
                dry_run=dry_run,
                progress=telling.progress,
                on_item=telling.item,
            )
        _print(session, report, repo.path)
    if report.error is not None:
        if not skip_bad:
            raise report.error
        if not session.json:
            for item in report.of(Outcome.FAILED):
                click.echo(f"casckpt: {item.error}", err=True)
        raise click.exceptions.Exit(report.error.exit_code)


class _Telling(Watch):
    """The progress of an import, and what an interrupt leaves behind."""

    def __init__(self, session: Session, count: int) -> None:
        super().__init__("importing", unit="bytes")
        self._session = session
        self._count = count
        self._taken = 0

    def progress(self, name: str, done: int, total: int) -> None:
        shown = printable(name)
        self("importing", done, total, shown if len(shown) <= _NAME else shown[: _NAME - 1] + "…")

    def item(self, item: Item) -> None:
        if item.outcome is Outcome.TAKEN:
            self._taken += 1
        self._session.done = (
            f"{self._taken} of {human_count(self._count, 'checkpoint')} taken in, the last to be done with was "
            f"{printable(item.name)}; run it again to go on"
        )


def _print(session: Session, report: ImportReport, store: str) -> None:
    """What was done, or would be; failures that do not end the command on stderr."""
    if session.json:
        document.write(report_fields(report, store))
        return
    rows = [_row(item) for item in report.items if item.outcome is not Outcome.PRESENT]
    if rows:
        from casckpt.cli.console import Column, print_table

        print_table(
            [
                Column("checkpoint", gives=True),
                Column("step", right=True),
                Column("bytes", right=True),
                Column("new", right=True),
                Column("commit", style="yellow"),
                Column(""),
            ],
            rows,
        )
    present = len(report.of(Outcome.PRESENT))
    if present:
        click.echo(f"{human_count(present, 'checkpoint')} passed over: {report.branch} has them")
    for line in left_out_lines(report):
        click.echo(line)
    if report.dry_run:
        waiting = report.of(Outcome.WAITING)
        total = human_bytes(sum(item.nbytes for item in waiting))
        click.echo(f"{human_count(len(waiting), 'checkpoint')} would be taken into {report.branch}, {total} of files")
        return
    if report.error is not None and (behind := len(report.of(Outcome.WAITING))):
        click.echo(f"{human_count(behind, 'checkpoint')} behind it not come to")
    click.echo(totals(report))


def _row(item: Item) -> list[str]:
    step = "" if item.step is None else str(item.step)
    new = human_bytes(item.stored) if item.outcome is Outcome.TAKEN else ""
    commit = "" if item.commit is None else short(item.commit.id)
    said = "cannot be taken in" if item.outcome is Outcome.FAILED else ""
    return [printable(item.name), step, human_bytes(item.nbytes), new, commit, said]
