"""`casckpt watch`: take in each finished checkpoint that another program writes, until stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.imports import item_fields, left_out_of, totals
from casckpt.cli.options import common_options, complete_branch
from casckpt.cli.session import Session, is_store
from casckpt.cli.units import human_bytes, printable, short
from casckpt.errors import ImportFormatError
from casckpt.tensors.intake.report import ImportReport, Item, Outcome

if TYPE_CHECKING:
    from casckpt.tensors.repository import Repository


@click.command("watch", short_help="Take in checkpoints as they are written.")
@click.argument("path", metavar="DIR", type=click.Path())
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="How often to look: --interval 10.",
)
@click.option(
    "--settle",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="How long a checkpoint must have rested: --settle 60 where it is written from another machine.",
)
@click.option(
    "--branch",
    metavar="NAME",
    shell_complete=complete_branch,
    help="Take them into this branch, made if it is not there: --branch run-7. Else into the current one.",
)
@click.option("--part", metavar="KEY", help="Put each state under this key, e.g. --part model for bare weights.")
@click.option("--pattern", metavar="GLOB", help="Take what is so called: --pattern 'step_*.pt', and nothing else.")
@click.option("--once", is_flag=True, help="Take in what is finished now, and end.")
@common_options
@click.pass_obj
def command(
    session: Session,
    path: str,
    interval: float,
    settle: float,
    branch: str | None,
    part: str | None,
    pattern: str | None,
    once: bool,
) -> None:
    """Take in each checkpoint that another program writes into the folder DIR, when it is finished, until stopped.

    A checkpoint is finished when it has rested for some seconds, no process of this machine has it open for writing,
    and it reads whole. When its line appears it is durable, and its file may be deleted. Ctrl-C and SIGTERM end this
    when the checkpoint at hand is done; a second one ends it at once, which harms nothing.

    \b
    casckpt -C runs/gpt watch /scratch/run-7/checkpoints
    casckpt watch checkpoints --settle 60 --branch run-7
    casckpt watch checkpoints --once
    """
    if not Path(path).is_dir():
        raise ImportFormatError("there is no such folder", file=path)
    made = not is_store(Path(session.store_path()))
    with session.repository(branch, create=True) as repo:
        watching = _Watching(repo, path, interval, settle, once, pattern, part)
        if not session.json:
            if made:
                click.echo(f"{repo.path} is a store now")
            click.echo(f"watching {path} for {repo.path} on {repo.current_branch}{'' if once else '; Ctrl-C ends it'}")
        if session.json:
            _write_lines(watching.items())
        else:
            for item in watching.items():
                click.echo(_line(item), err=item.outcome is Outcome.FAILED)
                if item.outcome is Outcome.TAKEN and (line := left_out_of(item)):
                    click.echo(line)
        report = watching.report
    if not session.json:
        for item in report.of(Outcome.WAITING):
            click.echo(f"left alone: {printable(item.name)} ({item.reason})")
        click.echo(totals(report))
    if once and report.error is not None:
        raise click.exceptions.Exit(report.error.exit_code)


class _Watching:
    """The watch in a thread of its own, so that this one is free to answer signals. What it does comes by a queue."""

    report: ImportReport

    def __init__(
        self,
        repo: Repository,
        path: str,
        interval: float,
        settle: float,
        once: bool,
        pattern: str | None,
        part: str | None,
    ) -> None:
        self._stop = threading.Event()
        self._queue: SimpleQueue[Item | BaseException | ImportReport] = SimpleQueue()

        def work() -> None:
            try:
                self._queue.put(
                    repo.watch(
                        path,
                        interval=interval,
                        settle=settle,
                        stop=self._stop,
                        once=once,
                        pattern=pattern,
                        part=part,
                        on_item=self._queue.put,
                    )
                )
            except BaseException as error:
                self._queue.put(error)

        self._thread = threading.Thread(target=work, name="casckpt watch")

    def items(self) -> Iterator[Item]:
        """What is taken in and what fails, as it comes; ends when the watch does, and raises what ended it."""
        before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        self._thread.start()
        try:
            while isinstance(found := self._queue.get(), Item):
                yield found
        finally:
            self._stop.set()
            self._thread.join()
            for number, handler in before.items():
                signal.signal(number, handler)
        if isinstance(found, BaseException):
            raise found
        self.report = found

    def _end(self, number: int, frame: FrameType | None) -> None:
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_DFL)
        self._stop.set()


def _write_lines(items: Iterable[Item]) -> None:
    """A list as JSON, of which each line is whole when its item comes."""
    click.echo("[")
    before = ""
    for item in items:
        click.echo(before + document.dumps(item_fields(item)))
        before = ","
    click.echo("]")


def _line(item: Item) -> str:
    when = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    if item.outcome is Outcome.FAILED:
        return f"{when} left alone: {item.error}"
    step = "" if item.commit is None or item.commit.step is None else f", step {item.commit.step}"
    commit = "" if item.commit is None else short(item.commit.id)
    if item.outcome is Outcome.PRESENT:
        return f"{when} {commit} {printable(item.name)}{step} (taken in by somebody else)"
    return f"{when} {commit} {printable(item.name)}{step}, {human_bytes(item.nbytes)}, {human_bytes(item.stored)} new"
