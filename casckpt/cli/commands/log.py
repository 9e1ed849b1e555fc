"""`casckpt log`: the history as a graph, the newest commit first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, complete_branch, limit_option, revision_argument
from casckpt.cli.session import Session
from casckpt.cli.units import first_line, human_age, human_bytes, human_number, printable, short

if TYPE_CHECKING:
    from rich.text import Text

    from casckpt.history.commits import Commit
    from casckpt.history.repository import History

_METRICS_SHOWN = 2


@click.command("log", short_help="Show the history as a graph.")
@revision_argument(metavar="[REV]", required=False)
@limit_option("commits")
@click.option("--all", "everything", is_flag=True, help="From every branch and tag, side by side.")
@click.option(
    "--branch",
    metavar="NAME",
    shell_complete=complete_branch,
    help="From the tip of this branch, e.g. --branch try-lr.",
)
@common_options
@click.pass_obj
def command(session: Session, revision: str | None, limit: int, everything: bool, branch: str | None) -> None:
    """Show the commits that REV leads to (else those of the current branch), the newest first.

    new: bytes that a commit added to the store. shared: bytes of its state that were there before. A commit drawn as x
    was pruned: it stays in the log, its state is no longer kept.

    \b
    casckpt log
    casckpt log -n 5 main~10
    casckpt log --all
    casckpt log --json -n 0 best:val_loss:min
    """
    if everything and (revision is not None or branch is not None):
        raise click.UsageError("--all leaves no room for REV or --branch: it shows every branch")
    with session.history(branch) as history:
        commits = history.log(None if everything else revision or "HEAD", limit + 1 if limit else None)
        refs = refs_by_commit(history)
        if session.json:
            shown = islice(commits, limit or None)
            document.write_list(document.commit_fields(commit, refs.get(commit.id, ())) for commit in shown)
        else:
            _print_graph(history, list(commits), limit, refs)


def refs_by_commit(history: History) -> dict[str, list[str]]:
    """Names such as "branch/main" and "tag/v1" by the commit that they point to."""
    found: dict[str, list[str]] = {}
    for ref in history.refs():
        found.setdefault(ref.commit, []).append(f"{ref.kind}/{ref.name}")
    return found


def _print_graph(history: History, commits: list[Commit], limit: int, refs: dict[str, list[str]]) -> None:
    if not commits:
        click.echo(f"{history.current_branch} has no commit yet")
        return
    from rich.text import Text

    from casckpt.cli.console import Cell, Column, print_table
    from casckpt.cli.graph import Graph

    more = bool(limit) and len(commits) > limit
    graph = Graph()
    rows: list[list[Cell]] = []
    for commit in commits[: limit or None]:
        edges, line = graph.draw(commit.id, commit.parents, "x" if commit.pruned else "*")
        rows += [[Text(edge, "red"), *[""] * 7] for edge in edges]
        figures = commit.figures
        rows.append(
            [
                Text(line, "red"),
                Text(short(commit.id), "yellow"),
                "" if commit.step is None else str(commit.step),
                _metrics(commit),
                human_age(commit.time),
                "" if figures is None else human_bytes(figures.stored),
                "" if figures is None else human_bytes(figures.logical - figures.new),
                _message(commit, refs.get(commit.id, ()), history.current_branch),
            ]
        )
    columns = [
        Column(""),
        Column("commit"),
        Column("step", right=True),
        Column("metrics"),
        Column("age", right=True),
        Column("new", right=True),
        Column("shared", right=True),
        Column("message", gives=True),
    ]
    print_table(columns, rows)
    if more:
        click.echo(f"({limit} commits shown; -n 0 shows all)")


def _metrics(commit: Commit) -> str:
    named = [f"{printable(name)} {human_number(number)}" for name, number in commit.metrics.items()]
    left_out = len(named) - _METRICS_SHOWN
    return ", ".join(named[:_METRICS_SHOWN]) + (f" +{left_out}" if left_out > 0 else "")


def _message(commit: Commit, refs: Iterable[str], current: str) -> Text:
    from rich.text import Text

    text = Text()
    names = [_ref_name(ref, current) for ref in refs]
    if names:
        text.append(f"({', '.join(names)}) ", "bold green")
    if commit.pruned:
        text.append("[pruned] ", "red")
    elif commit.released:
        text.append(f"[without {printable(', '.join(commit.released))}] ", "red")
    text.append(first_line(commit.message))
    return text


def _ref_name(ref: str, current: str) -> str:
    kind, _, name = ref.partition("/")
    if kind == "tag":
        return f"tag: {name}"
    return f"HEAD -> {name}" if name == current else name
