"""`casckpt status`: a store at a glance."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from casckpt.cli import document
from casckpt.cli.codecs import MODES
from casckpt.cli.options import common_options
from casckpt.cli.session import Session
from casckpt.cli.units import (
    first_line,
    human_age,
    human_bytes,
    human_count,
    human_held,
    human_reserve,
    printable,
    short,
)

if TYPE_CHECKING:
    from casckpt.history.commits import Commit
    from casckpt.history.repository import History
    from casckpt.store.protocol import HeldBack, StoreFormat, StoreSize

# compact is offered where so much of the file is free, and so many bytes.
_FREE_SHARE: Final = 0.25
_FREE_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Status:
    """What `casckpt status` tells.

    openers: a line for each other process. maintenance: who is at gc, repack or compact, None where nobody is, or
    nobody knows.
    """

    path: str
    branch: str
    tip: Commit | None
    commits: int
    branches: int
    tags: int
    size: StoreSize
    held: HeldBack | None
    openers: tuple[str, ...]
    maintenance: str | None
    settings: StoreFormat

    @property
    def compact_pays(self) -> bool:
        """Whether compact would give back what is worth its while."""
        return self.size.free_share >= _FREE_SHARE and self.size.free >= _FREE_BYTES


@click.command("status", short_help="The store at a glance.")
@common_options
@click.pass_obj
def command(session: Session) -> None:
    """Show where the store is and what is in it: the current branch and its newest commit, how large the file is and
    how much of it is free, who has it open, whether gc, repack or compact is under way, and its settings.

    Nothing is scanned: `casckpt stats` counts objects and bytes. commits are all that the store holds, also those that
    gc would take.

    \b
    casckpt status
    casckpt status --json
    """
    with session.history() as history:
        found = _look(history)
    if session.json:
        document.write(_fields(found))
    else:
        _print(found)


def _look(history: History) -> Status:
    from casckpt.store.protocol import Space

    refs = history.refs()
    with history.store.read() as reader:
        commits = reader.count(Space.COMMIT)
    return Status(
        path=history.path,
        branch=history.current_branch,
        tip=next(history.log(limit=1), None),
        commits=commits,
        branches=sum(ref.kind == "branch" for ref in refs),
        tags=sum(ref.kind == "tag" for ref in refs),
        size=history.store.size(),
        held=history.store.held_back(),
        openers=_others(history.store.openers()),
        maintenance=_maintenance(Path(history.path)),
        settings=history.store.format,
    )


def _others(openers: tuple[str, ...]) -> tuple[str, ...]:
    """The openers without this process, which is one of them."""
    mine = f"process {os.getpid()} on {socket.gethostname()} "
    here = next((line for line in openers if line.startswith(mine)), None)
    return tuple(line for line in openers if line is not here)


def _maintenance(folder: Path) -> str | None:
    from casckpt.store.locks import is_seen_held
    from casckpt.store.openers import describe

    path = folder / "maintenance"
    return describe(path) if is_seen_held(path) else None


def _fields(found: Status) -> dict[str, object]:
    return {
        "path": found.path,
        "branch": found.branch,
        "commit": None if found.tip is None else document.commit_fields(found.tip),
        "commits": found.commits,
        "branches": found.branches,
        "tags": found.tags,
        "size": asdict(found.size),
        "held": None if found.held is None else asdict(found.held),
        "compact_pays": found.compact_pays,
        "openers": found.openers,
        "maintenance": found.maintenance,
        "settings": {
            name: getattr(found.settings, name) for name in ("version", "uuid", "hash", "chunk_size", "codec")
        },
    }


def _print(found: Status) -> None:
    from casckpt.cli.console import print_fields

    tip, size, settings = found.tip, found.size, found.settings
    newest = "no commit yet"
    if tip is not None:
        step = "" if tip.step is None else f", step {tip.step}"
        newest = f"{short(tip.id)}{step}, {human_age(tip.time)} ago"
    hint = "; `casckpt compact` would give back what is free" if found.compact_pays else ""
    counts = [(found.commits, "commit"), (found.branches, "branch"), (found.tags, "tag")]
    print_fields(
        [
            ("store", found.path),
            ("branch", found.branch),
            ("newest", newest),
            ("message", "" if tip is None else first_line(tip.message)),
            ("holds", ", ".join([human_count(count, noun) for count, noun in counts])),
            (
                "file",
                f"{human_bytes(size.file)}: {human_bytes(size.free)} ({size.free / max(1, size.file):.0%}) of it free"
                f"{human_reserve(size.reserve)}{hint}",
            ),
            ("held back", human_held(found.held)),
            ("open in", "\n".join(map(printable, found.openers)) or "no other process"),
            (
                "under way",
                "" if found.maintenance is None else f"gc, repack or compact, by {printable(found.maintenance)}",
            ),
            ("codec", f"{settings.codec} (chunks {MODES[settings.codec]})"),
            (
                "settings",
                f"hash {settings.hash}, chunks of {human_bytes(settings.chunk_size)}, format {settings.version}",
            ),
        ]
    )
