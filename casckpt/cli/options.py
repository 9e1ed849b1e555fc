"""Options that several commands have, and the types of what people write after them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from casckpt.cli.session import Session

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

_SIZE: Final = re.compile(r"(\d{1,15})\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
_FACTOR: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _set_repo(ctx: click.Context, option: click.Parameter, path: str | None) -> None:
    if path is not None:
        ctx.ensure_object(Session).repo = path


def _set_json(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    ctx.ensure_object(Session).json = wanted


def _completing(what: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """A completion of `casckpt.cli.completion`, which is imported when a shell asks."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from casckpt.cli import completion

        found: list[CompletionItem] = getattr(completion, what)(ctx, parameter, incomplete)
        return found

    return complete


complete_revision = _completing("revisions")
complete_revision_or_file = _completing("revisions_or_files")
complete_branch = _completing("branches")
complete_tag = _completing("tags")


def revision_argument(name: str = "revision", *, metavar: str = "REV", required: bool = True) -> Callable[[F], F]:
    """An argument that names a commit; a shell completes it."""
    return click.argument(name, metavar=metavar, required=required, shell_complete=complete_revision)


def at_option(help: str) -> Callable[[F], F]:
    """--at REV, which a shell completes."""
    return click.option("--at", metavar="REV", shell_complete=complete_revision, help=help)


def split_globs(words: tuple[str, ...], most: int) -> tuple[list[str], tuple[str, ...]]:
    """REV and GLOB arguments told apart: at most so many revisions, up to the first word that holds a wildcard."""
    count = 0
    while count < min(most, len(words)) and (words[count].startswith("file:") or not set(words[count]) & set("*?[")):
        count += 1
    return list(words[:count]), words[count:]


def repo_option(envvar: str | None = None) -> Callable[[F], F]:
    """-C PATH, before a command's name or after it; the later one counts."""
    return click.option(
        "-C",
        "--repo",
        metavar="PATH",
        envvar=envvar,
        show_envvar=True,
        expose_value=False,
        callback=_set_repo,
        shell_complete=_completing("folders"),
        help="The store, e.g. -C runs/gpt.",
    )


def json_option(function: F) -> F:
    """--json."""
    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=_set_json, help="Print JSON, for programs."
    )
    return option(function)


def common_options(function: F) -> F:
    """What every command on a store takes: -C PATH and --json."""
    return json_option(repo_option()(function))


dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def limit_option(what: str, default: int = 20) -> Callable[[F], F]:
    """-n N, 20 where it is not given; what: the things that are counted."""
    return click.option(
        "-n",
        "--limit",
        metavar="N",
        type=click.IntRange(min=0),
        default=default,
        show_default=True,
        help=f"How many {what} to show: -n 50, or -n 0 for all.",
    )


def size(ctx: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes bytes: 65536, 64K, 1MiB."""
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no number of bytes; write 65536, 64K or 1M")
    return int(found[1]) * _FACTOR[found[2].upper()]


def span(ctx: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Callback of an option that takes a span of time, as text that `casckpt.history.retention` reads."""
    from casckpt.history.retention import span_seconds

    if text is not None and span_seconds(text) is None:
        raise click.BadParameter(f"{text!r} is no span of time; write 30min, 6h, 1d or 2w")
    return text
