"""A diff as people read it: by part, by tensor with what changed most first, and plain values side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import click
from rich.text import Text

from casckpt.cli.console import Cell, Column, bar, print_lines, print_table
from casckpt.cli.units import human_bytes, printable, readable_path, short

if TYPE_CHECKING:
    from casckpt.cli.commands.diff import Found, Named
    from casckpt.history.diff import Change, Difference
    from casckpt.history.summary import PartSummary

_BAR: Final = 8
_STYLE: Final = {"added": "green", "removed": "red"}


def print_differences(found: Found, values: bool, limit: int) -> None:
    """All of a diff. limit: of tensors, and of values; 0 for all."""
    heading = Text(_name(found.old), "yellow")
    heading.append(" → ", "default").append(_name(found.new), "yellow")
    if found.part is not None:
        heading.append(f", {printable(found.part)} only", "default")
    print_lines(heading)
    if found.released:
        print_lines(Text(f"left out, since it was released: {printable(', '.join(found.released))}", "red"))
    if not found.changes:
        click.echo("nothing that fits differs" if found.globs else "nothing differs")
        return
    click.echo()
    _print_parts([part for part in found.parts if part.tensors or part.values])
    tensors = [change for change in found.changes if change.kind in ("tensor", "array")]
    if tensors:
        click.echo()
        _print_values(tensors, limit) if values else _print_tensors(tensors, limit)
    plain = [change for change in found.changes if change.kind in ("blob", "value")]
    if plain:
        click.echo()
        _print_plain(plain, limit)


def _name(side: Named) -> str:
    if side.commit is None:
        return printable(str(side.file))
    step = "" if side.commit.step is None else f" (step {side.commit.step})"
    told = short(side.commit.id)
    return f"{told}{step}" if side.word.startswith(told) else f"{printable(side.word)} {told}{step}"


def _print_parts(parts: list[PartSummary]) -> None:
    columns = [
        Column("part", gives=True),
        Column("tensors", right=True),
        Column("values", right=True),
        Column("changed", right=True),
        Column("of", right=True),
        Column(""),
    ]
    rows: list[list[Cell]] = [
        [
            readable_path(part.name),
            _of(part.tensors, part.total_tensors),
            _of(part.values, part.total_values),
            human_bytes(part.nbytes),
            human_bytes(part.total_nbytes),
            Text(bar(part.nbytes / part.total_nbytes if part.total_nbytes else 0.0, _BAR), "cyan"),
        ]
        for part in parts
    ]
    print_table(columns, rows)


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,}" if total else ""


def _print_tensors(changes: list[Change], limit: int) -> None:
    columns = [
        Column("tensor", gives=True, path=True),
        Column("what", gives=True),
        Column("chunks", right=True),
        Column("bytes", right=True),
        Column(""),
    ]
    rows: list[list[Cell]] = []
    ordered = sorted(changes, key=lambda change: (-change.nbytes, change.path))
    for change in ordered[: limit or None]:
        share = change.nbytes / change.total_nbytes if change.total_nbytes else 0.0
        what = Text(_what(change), _STYLE.get(change.change, "yellow" if change.old != change.new else ""))
        if change.shares is not None:
            what.append(f" = {readable_path(change.shares)}", "cyan")
        chunks = f"{change.chunks:,} of {change.total_chunks:,}"
        rows.append(
            [readable_path(change.path), what, chunks, human_bytes(change.nbytes), Text(bar(share, _BAR), "cyan")]
        )
    print_table(columns, rows)
    _print_left_out(len(rows), len(changes), "tensors")


def _what(change: Change) -> str:
    if change.change != "changed":
        return f"{change.change}: {printable(change.new or change.old)}"
    if change.old == change.new:
        return printable(change.new)
    return printable(f"{change.old} → {change.new}")


def _print_values(changes: list[Change], limit: int) -> None:
    columns = [
        Column("tensor", gives=True, path=True),
        Column("max abs", right=True),
        Column("mean abs", right=True),
        Column("relative", right=True),
        Column("cosine", right=True),
        Column(""),
    ]
    ordered = sorted(changes, key=lambda change: (-_weight(change), -change.nbytes, change.path))
    largest = max((weight for change in ordered if math.isfinite(weight := _weight(change))), default=0.0)
    rows: list[list[Cell]] = []
    for change in ordered[: limit or None]:
        found = change.values
        if found is None:
            rows.append(
                [readable_path(change.path), Text(_why_none(change), _STYLE.get(change.change, "yellow")), *[""] * 4]
            )
            continue
        figures = [_figure(number) for number in (found.max_abs, found.mean_abs, found.relative, found.cosine)]
        share = _weight(change) / largest if largest else 0.0
        rows.append([readable_path(change.path), *figures, Text(bar(share, _BAR), "cyan")])
    print_table(columns, rows)
    for change in ordered[: limit or None]:
        if change.values is not None and (said := _odd(change.values)):
            print_lines(Text(f"{readable_path(change.path)}: {said}, left out of the figures", "red"))
    _print_left_out(len(rows), len(changes), "tensors")


def _weight(change: Change) -> float:
    """By how much a tensor changed: what has no figure changed altogether."""
    if change.values is None or math.isnan(change.values.relative):
        return math.inf
    return change.values.relative


def _why_none(change: Change) -> str:
    if change.change != "changed":
        return change.change
    return "reshaped" if change.old != change.new else "no numbers"


def _figure(number: float) -> str:
    return f"{number:.2e}" if math.isfinite(number) and number else "0" if number == 0 else str(number)


def _odd(found: Difference) -> str:
    told = [
        f"{name} {old:,} → {new:,}"
        for name, old, new in (("nan", found.old_nan, found.new_nan), ("inf", found.old_inf, found.new_inf))
        if old or new
    ]
    return ", ".join(told)


def _print_plain(changes: list[Change], limit: int) -> None:
    columns = [Column("value", gives=True, path=True), Column("old", gives=True), Column("new", gives=True)]
    rows: list[list[Cell]] = [
        [
            readable_path(change.path),
            Text(printable(change.old) or "-", "red"),
            Text(printable(change.new) or "-", "green"),
        ]
        for change in changes[: limit or None]
    ]
    print_table(columns, rows)
    _print_left_out(len(rows), len(changes), "values")


def _print_left_out(shown: int, total: int, what: str) -> None:
    if shown < total:
        click.echo(f"({shown:,} of {total:,} {what} shown; -n 0 shows all)")
