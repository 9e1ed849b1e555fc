"""What people read: tables that fit the terminal. Imported by the commands that print one, as rich takes its time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    gives: it is narrowed where the table is too wide, by cutting or, if it wraps, folding. path: it is cut in its
    middle, since both ends of a path tell it from others.
    """

    title: str
    right: bool = False
    gives: bool = False
    wraps: bool = False
    path: bool = False
    style: str = ""


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: what a store holds is never markup."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    """Rows under their titles. A column in which every cell is empty is left out."""
    target = console()
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    used = [index for index in range(len(columns)) if any(row[index].plain for row in cells)]
    widths = {index: max(len(columns[index].title), *(row[index].cell_len for row in cells)) for index in used}
    gap = 2 if sum(widths.values()) + 2 * (len(used) - 1) <= target.width else 1
    room = target.width - sum(widths[index] for index in used if not columns[index].gives) - gap * (len(used) - 1)
    narrowed = _shares(room, {index: widths[index] for index in used if columns[index].gives})
    widths |= {index: max(width, len(columns[index].title), 1) for index, width in narrowed.items()}
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style=Style(dim=True))
    for index in used:
        column = columns[index]
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
            width=widths[index],
            style=column.style,
        )
    for row in cells:
        table.add_row(*[_middle(row[index], widths[index]) if columns[index].path else row[index] for index in used])
    print_lines(table, target)


def _shares(room: int, wanted: dict[int, int]) -> dict[int, int]:
    """What each column gets of the room: what it wants, or an equal share of what the more modest ones leave."""
    found: dict[int, int] = {}
    for index in sorted(wanted, key=lambda index: wanted[index]):
        found[index] = min(wanted[index], room // (len(wanted) - len(found)))
        room -= found[index]
    return found


def _middle(cell: Text, width: int) -> Text:
    """A cell cut in its middle to a width."""
    if cell.cell_len <= width:
        return cell
    head = (width - 1) // 3
    return cell[:head] + Text("…") + cell[-(width - 1 - head) :] if width > 1 else cell


def bar(share: float, width: int = 10) -> str:
    """A share of 1 as a bar; whatever is more than nothing is seen: bar(0.25, 4) -> "█"."""
    if not share > 0:  # nor nan
        return ""
    eighths = max(1, round(min(share, 1.0) * width * 8))
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def print_fields(fields: Iterable[tuple[str, Cell]]) -> None:
    """Names and what stands behind them, one below the other; empty ones are left out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style=Style(dim=True))
    grid.add_column(overflow="fold")
    for name, cell in fields:
        text = cell if isinstance(cell, Text) else Text(cell)
        if text.plain:
            grid.add_row(name, text)
    print_lines(grid)


def print_lines(what: RenderableType, target: Console | None = None) -> None:
    """By way of a string: without the spaces that pad the last column, and leaving a broken pipe to its one answer."""
    target = target or console()
    with target.capture() as captured:
        target.print(what, crop=False)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")
