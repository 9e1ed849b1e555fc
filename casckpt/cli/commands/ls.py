"""`casckpt ls`: the leaves of a commit's state, or what is under its first keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, complete_revision, limit_option, split_globs
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes, human_count, printable, readable_path
from casckpt.errors import UnknownRevisionError

if TYPE_CHECKING:
    from casckpt.history.listing import Leaf


@dataclass(frozen=True, slots=True)
class Group:
    """What is under the first keys of paths. nbytes, chunks: of the storages, each once."""

    path: str
    tensors: int
    values: int
    nbytes: int
    chunks: int
    released: bool


@click.command("ls", short_help="List what is in a commit's state.")
@click.argument("words", metavar="[REV] [GLOB…]", nargs=-1, shell_complete=complete_revision)
@click.option(
    "--sort",
    "order",
    type=click.Choice(["path", "size"]),
    help="By path, or the largest first: --sort size. Else in the order of the state.",
)
@click.option("--depth", metavar="N", type=click.IntRange(min=1), help="One line for the same first N keys: --depth 2.")
@limit_option("lines", 0)
@common_options
@click.pass_obj
def command(session: Session, words: tuple[str, ...], order: str | None, depth: int | None, limit: int) -> None:
    """List the leaves of the state of REV (else the newest commit): path, what it is, bytes, chunks.

    A word with *, ? or [ in it is a GLOB over paths, and so is every word after REV, and a word that is no revision but
    a path; * crosses dots, and a path that is taken is taken with all under it. Tensors that share a storage have their
    bytes at the first of them. Nothing but the commit's trees is read.

    \b
    casckpt ls
    casckpt ls step:1000 --depth 2
    casckpt ls 'optimizer.*' --sort size -n 10
    casckpt ls v1 model.encoder
    """
    revisions, globs = split_globs(words, 1)
    with session.history() as history:
        try:
            leaves = history.ls(revisions[0] if revisions else "HEAD", globs or None)
        except UnknownRevisionError:
            leaves = history.ls("HEAD", words)  # a path without a wildcard, then
            if not leaves:
                raise
    if not leaves and not session.json:
        click.echo("nothing in the state fits" if words else "the state is empty")
    elif depth is not None:
        _print_groups(session, _grouped(leaves, depth), order, limit)
    else:
        _print_leaves(session, leaves, order, limit)


def _grouped(leaves: Iterable[Leaf], depth: int) -> list[Group]:
    from casckpt.objects.paths import keys

    found: dict[str, Group] = {}
    for leaf in leaves:
        path = ".".join(keys(leaf.path)[:depth])
        before = found.get(path) or Group(path, 0, 0, 0, 0, leaf.kind == "released")
        tensor = leaf.kind in ("tensor", "array")
        found[path] = Group(
            path,
            before.tensors + tensor,
            before.values + (not tensor and not before.released),
            before.nbytes + leaf.nbytes,
            before.chunks + leaf.chunks,
            before.released,
        )
    return list(found.values())


def _sorted(items: list[Leaf] | list[Group], order: str | None) -> list[Leaf | Group]:
    if order == "path":
        return sorted(items, key=lambda item: item.path)
    if order == "size":
        return sorted(items, key=lambda item: (-item.nbytes, item.path))
    return list(items)


def _print_leaves(session: Session, leaves: list[Leaf], order: str | None, limit: int) -> None:
    shown = _sorted(leaves, order)[: limit or None]
    if session.json:
        document.write_list(asdict(leaf) for leaf in shown)
        return
    from rich.text import Text

    from casckpt.cli.console import Cell, Column, print_table

    rows: list[list[Cell]] = []
    for leaf in shown:
        assert not isinstance(leaf, Group)
        what = Text(printable(leaf.what), "red" if leaf.kind == "released" else "")
        if leaf.shares is not None:
            what.append(f" = {readable_path(leaf.shares)}", "cyan")
        size = human_bytes(leaf.nbytes) if leaf.nbytes else ""
        rows.append([readable_path(leaf.path), what, size, f"{leaf.chunks:,}" if leaf.chunks else ""])
    columns = [
        Column("path", gives=True, path=True),
        Column("what", gives=True),
        Column("bytes", right=True),
        Column("chunks", right=True),
    ]
    print_table(columns, rows)
    tensors = sum(leaf.kind in ("tensor", "array") for leaf in leaves)
    values = sum(leaf.kind in ("blob", "value") for leaf in leaves)
    _print_total(tensors, values, sum(leaf.nbytes for leaf in leaves), len(leaves), limit)


def _print_groups(session: Session, groups: list[Group], order: str | None, limit: int) -> None:
    shown = _sorted(groups, order)[: limit or None]
    if session.json:
        document.write_list(asdict(group) for group in shown)
        return
    from casckpt.cli.console import Column, print_table

    rows = []
    for group in shown:
        assert isinstance(group, Group)
        if group.released:
            rows.append([readable_path(group.path), "", "", "released", ""])
        else:
            counts = [f"{count:,}" for count in (group.tensors, group.values)]
            rows.append([readable_path(group.path), *counts, human_bytes(group.nbytes), f"{group.chunks:,}"])
    columns = [
        Column("path", gives=True, path=True),
        Column("tensors", right=True),
        Column("values", right=True),
        Column("bytes", right=True),
        Column("chunks", right=True),
    ]
    print_table(columns, rows)
    tensors, values, nbytes = (
        sum(getattr(group, name) for group in groups) for name in ("tensors", "values", "nbytes")
    )
    _print_total(tensors, values, nbytes, len(groups), limit)


def _print_total(tensors: int, values: int, nbytes: int, lines: int, limit: int) -> None:
    if limit and lines > limit:
        click.echo(f"({limit} of {lines:,} lines shown; -n 0 shows all)")
    counts = f"{human_count(tensors, 'tensor')}, {human_count(values, 'value')}"
    click.echo(f"{counts}, {human_bytes(nbytes)}")
