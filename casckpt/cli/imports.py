"""What `casckpt import` and `casckpt watch` say of the checkpoints that they took in, to people and to programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from casckpt.cli import document
from casckpt.cli.units import human_bytes, human_count, human_reserve, printable
from casckpt.tensors.intake.report import Outcome

if TYPE_CHECKING:
    from casckpt.tensors.intake.report import ImportReport, Item

_LEFT_OUT_SHOWN = 5
_NAMES_SHOWN = 3


def item_fields(item: Item) -> dict[str, object]:
    """A checkpoint as programs read it. bytes: of its files; stored: of the chunks that were written for it."""
    return {
        "name": item.name,
        "step": item.step,
        "bytes": item.nbytes,
        "outcome": item.outcome.value,
        "stored": item.stored,
        "commit": None if item.commit is None else document.commit_fields(item.commit),
        "reason": item.reason or None,
        "error": None if item.error is None else {"kind": item.error.kind, "message": str(item.error)},
    }


def report_fields(report: ImportReport, store: str) -> dict[str, object]:
    """A report as programs read it."""
    return {
        "path": report.path,
        "store": store,
        "branch": report.branch,
        "dry_run": report.dry_run,
        "checkpoints": [item_fields(item) for item in report.items],
        "left_out": [asdict(one) for one in report.left_out],
        "taken": report.taken,
        "bytes": report.nbytes,
        "stored": report.stored,
        "ratio": report.saved,
        "file_before": report.before.file,
        "file_after": report.after.file,
    }


def totals(report: ImportReport) -> str:
    """What was taken in, and what that cost."""
    if not report.taken:
        return "no checkpoint was taken in"
    less = f" ({report.saved:.1f} times less)" if report.stored else ""
    grown = human_bytes(report.after.file - report.before.file)
    return (
        f"{human_count(report.taken, 'checkpoint')} taken in: {human_bytes(report.nbytes)} in files, "
        f"{human_bytes(report.stored)} new{less}\n"
        f"the file grew by {grown} to {human_bytes(report.after.file)}: "
        f"{human_bytes(report.after.free)} of it free{human_reserve(report.after.reserve)}"
    )


def left_out_lines(report: ImportReport) -> list[str]:
    """What looks like a checkpoint and was not taken, and what of those that were; the first few."""
    lines = [f"left out: {printable(one.name)} ({printable(one.reason)})" for one in report.left_out]
    lines += [line for item in report.of(Outcome.TAKEN) if (line := left_out_of(item))]
    more = len(lines) - _LEFT_OUT_SHOWN
    return [*lines[:_LEFT_OUT_SHOWN], f"left out: {more} more (--json shows all)"] if more > 0 else lines


def left_out_of(item: Item) -> str:
    """What in the folder that a checkpoint is was not taken in with it; empty where all was."""
    names = None if item.commit is None else item.commit.meta.get("left_out")
    if not isinstance(names, list) or not names:
        return ""
    shown = ", ".join([printable(str(name)) for name in names[:_NAMES_SHOWN]])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"left out of {printable(item.name)}: {shown}{more}"
