"""The demo's progress display, and its outcome for people and for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from casckpt.cli import document
from casckpt.cli.console import console, print_lines
from casckpt.cli.units import human_bytes

if TYPE_CHECKING:
    from casckpt.cli.demo.story import Outcome
    from casckpt.cli.session import Session

_ACTS = 4


class Stage:
    """Shows how far the demo is: a bar where stderr is a terminal, else a line for each act."""

    def __init__(self, session: Session, store: str, bar: Progress | None, task: TaskID | None) -> None:
        self._session = session
        self._store = store
        self._bar = bar
        self._task = task
        self._acts = 0

    def act(self, title: str) -> None:
        self._acts += 1
        self._session.done = f"the demo was at: {title}; what was saved until then is in {self._store}"
        numbered = f"{self._acts}/{_ACTS} {title}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=numbered, loss="")
        else:
            click.echo(numbered, err=True)

    def advance(self, loss: float) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, loss=f"loss {loss:.3f}")


@contextmanager
def stage(session: Session, store: str, updates: int) -> Iterator[Stage]:
    """The display, for as long as the block runs. updates: how many there will be."""
    if not sys.stderr.isatty():
        yield Stage(session, store, None, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        yield Stage(session, store, bar, bar.add_task("starting", total=updates, loss=""))


def write_json(outcome: Outcome) -> None:
    """Everything that was seen."""
    document.write({"ok": outcome.ok, **asdict(outcome)})


def print_table(outcome: Outcome) -> None:
    """What happened, what was seen, and what that shows, for somebody who has never met casckpt."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), leading=1)
    table.add_column("what happened", ratio=5)
    table.add_column("what was seen", ratio=5)
    table.add_column("so", ratio=3)
    for row in _rows(outcome):
        table.add_row(*row)
    print_lines(table)
    for claim, held in outcome.proofs.items():
        print_lines(Text.assemble(("proved  ", "bold green") if held else ("FAILED  ", "bold red"), claim))
    click.echo()
    click.echo(f"{outcome.seconds:.0f} s. The store is yours to look at:")
    click.echo(f"  casckpt -C {outcome.store} log --all")


def _rows(outcome: Outcome) -> Iterator[tuple[str, str, str]]:
    plan, seen = outcome.plan, outcome.figures
    dense, frozen, spike, pruned = seen["dense"], seen["frozen"], seen["spike"], seen["pruned"]
    millions = f"{seen['parameters'] / 1e6:.1f} million"
    yield (
        f"a transformer of {millions} weights trained on Python's own sources, {plan.steps} updates of AdamW",
        f"loss {seen['first_loss']:.2f} → {seen['last_loss']:.2f}",
        "the reference, without casckpt",
    )
    often = "each update" if plan.every == 1 else f"every {plan.every} updates"
    yield (
        f"the same with a commit {often}, SIGKILLed inside the commit of update {plan.killed_at}",
        f"the store opens in {seen['open_ms']:.0f} ms and shows update {seen['shown_step']}; "
        f"{human_bytes(seen['torn_bytes'])} of the torn commit stay unseen",
        "nothing is lost, nothing half done",
    )
    yield (
        f"resumed at update {seen['resumed_at']} in a new process, trained to the end",
        f"{seen['equal_losses']} of {plan.steps} losses and every bit of the final weights are the reference's",
        "as if it had never stopped",
    )
    yield (
        "commits while all layers train",
        f"{_cost(dense, 'commit')} each; torch.save {_cost(dense, 'file')}",
        f"{dense['file_bytes'] / dense['commit_bytes']:.1f} times fewer bytes, though every weight moved: as deltas",
    )
    yield (
        f"commits with {plan.layers - 1} of {plan.layers} layers frozen",
        f"{_cost(frozen, 'commit')} each; torch.save {_cost(frozen, 'file')}",
        f"{frozen['file_bytes'] / frozen['commit_bytes']:.1f} times fewer bytes: only what changed",
    )
    yield (
        "a bad batch, committed; rolled back to the commit before it, and on from there on a branch",
        f"loss {spike['before']:.2f} → {spike['spike']:.2f}; back in {spike['rollback_ms']:.0f} ms, every bit as "
        f"before; on at {spike['after']:.2f}",
        "any commit comes back whole",
    )
    yield (
        "old commits pruned, old optimizer states released, the rest collected",
        f"{pruned['kept']} of {pruned['commits']} commits kept; {human_bytes(pruned['before'])} → "
        f"{human_bytes(pruned['after'])} in {pruned['gc_ms'] / 1000:.1f} s",
        f"{1 - pruned['after'] / pruned['before']:.0%} of the bytes given back",
    )


def _cost(figures: dict[str, Any], what: str) -> str:
    return f"{human_bytes(int(figures[f'{what}_bytes']))} in {figures[f'{what}_ms']:.0f} ms"
