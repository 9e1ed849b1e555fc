"""How chunks are stored: the option that chooses it, tables for people, fields for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from casckpt.cli.units import first_line, human_bytes, short
from casckpt.limits import CODECS

if TYPE_CHECKING:
    from casckpt.history.codec_stats import Amount, CodecStats, CommitAmount

F = TypeVar("F", bound=Callable[..., Any])


# What the modes mean, in a few words.
MODES: Final = {
    "none": "as they are",
    "fast": "each by itself",
    "auto": "also as deltas",
    "small": "deltas, slowly",
}


def codec_option(help: str) -> Callable[[F], F]:
    """--codec MODE; help: what it is for, with an example."""
    modes = "; ".join([f"{mode}: {meaning}" for mode, meaning in MODES.items()])
    return click.option("--codec", type=click.Choice(CODECS), help=f"{help} {modes}.")


def fields(found: CodecStats, limit: int) -> dict[str, object]:
    """As programs read it. limit: commits; 0: all."""

    def each(amounts: Mapping[str, Amount] | Mapping[int, Amount]) -> dict[str, object]:
        return {str(name): _amount(amount) for name, amount in amounts.items()}

    return {
        "total": _amount(found.total),
        "by_codec": each(found.by_codec),
        "by_group": each(found.by_group),
        "by_depth": each(found.by_depth),
        "unreferenced": _amount(found.unreferenced),
        "by_commit": [
            {"id": one.id, "step": one.step, "message": one.message, **_amount(one.added)}
            for one in found.by_commit[: limit or None]
        ],
    }


def _amount(amount: Amount) -> dict[str, object]:
    return {**asdict(amount), "ratio": amount.ratio}


def print_tables(found: CodecStats, limit: int) -> None:
    """As people read it, each table behind an empty line. limit: commits; 0: all."""
    by_codec = [(codec_name(name), amount) for name, amount in found.by_codec.items()]
    _print("codec", [*by_codec, ("all", found.total)])
    groups = [(name, amount) for name, amount in found.by_group.items() if amount.chunks]
    groups += [("unreferenced", found.unreferenced)] if found.unreferenced.chunks else []
    if groups:
        _print("holds", groups)
    if found.by_depth:
        _print("deltas", [(str(depth), amount) for depth, amount in found.by_depth.items()])
    if found.by_commit:
        _print_commits(found.by_commit[: limit or None])


def codec_name(name: str) -> str:
    """A codec as people call it: "delta_planes" -> "delta planes"."""
    return name.replace("_", " ")


def human_ratio(ratio: float) -> str:
    """Raw bytes for each stored one: 1.7204 -> "1.72", 250.3 -> "250"."""
    return f"{ratio:.2f}" if ratio < 99.995 else f"{ratio:,.0f}"


def _cells(amount: Amount) -> list[str]:
    ratio = human_ratio(amount.ratio) if amount.chunks else ""
    return [f"{amount.chunks:,}", human_bytes(amount.raw), human_bytes(amount.stored), ratio]


def _print(title: str, rows: Iterable[tuple[str, Amount]]) -> None:
    from casckpt.cli.console import Column, print_table

    click.echo()
    columns = [Column(title), *[Column(name, right=True) for name in ("chunks", "raw", "stored", "ratio")]]
    print_table(columns, [[name, *_cells(amount)] for name, amount in rows])


def _print_commits(commits: Sequence[CommitAmount]) -> None:
    from casckpt.cli.console import Column, print_table

    click.echo()
    print_table(
        [
            Column("commit", style="yellow"),
            Column("step", right=True),
            *[Column(name, right=True) for name in ("chunks", "raw", "stored", "ratio")],
            Column("message", gives=True),
        ],
        [
            [short(one.id), "" if one.step is None else str(one.step), *_cells(one.added), first_line(one.message)]
            for one in commits
        ],
    )
