"""What a shell is told when somebody presses the tab key: branches, tags, steps, folders.

Completing must never print an error, wait, or make anything: where a store cannot be looked at, nothing is offered.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from casckpt.cli.session import Session
from casckpt.cli.units import first_line

if TYPE_CHECKING:
    from casckpt.history.repository import History

VARIABLE: Final = "_CASCKPT_COMPLETE"
# Steps that are offered: those that somebody is likely to mean.
_STEPS: Final = 20
# Seconds after which nothing is offered.
_PATIENCE: Final = 2.0


class _Bash(BashComplete):
    """click's, but for words that hold `:`, `@` or `=`: bash takes those for the ends of words, revisions do not."""

    source_template = """\
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" kind value cut=""
    local current="${line##*[[:space:]]}" breaks="${COMP_WORDBREAKS//[^:@=]/}"
    [[ -n $breaks && $current == *["$breaks"]* ]] && cut="${current%%"${current##*["$breaks"]}"}"
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) COMPREPLY=(); compopt -o dirnames 2>/dev/null; return 0 ;;
            file) COMPREPLY=(); compopt -o default 2>/dev/null; return 0 ;;
            plain) COMPREPLY+=("${value#"$cut"}") ;;
        esac
    done < <(COMP_WORDS="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        from click.shell_completion import split_arg_string

        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        if line[-1:].isspace() or not words:
            return words, ""
        return words[:-1], words[-1]


SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": _Bash, "zsh": ZshComplete, "fish": FishComplete}


def script(command: click.Command, shell: str) -> str:
    """The script that a shell reads to complete `casckpt`."""
    # not the class's own source(): bash's asks the bash that is installed here for its version, and prints
    return ShellComplete.source(SHELLS[shell](command, {}, "casckpt", VARIABLE))


def answer(command: click.Command, instruction: str) -> int:
    """Answer a shell that asks, as "bash_complete"; returns the exit code."""
    shell, _, what = instruction.partition("_")
    if shell not in SHELLS or what != "complete":
        return 1
    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()), _in_time():
        complete = SHELLS[shell](command, {"obj": Session()}, "casckpt", VARIABLE)
        sys.stdout.write(complete.complete() + "\n")
    return 0


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Nobody waits at a prompt until somebody else's compact is done."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- what is offered ---------------------------------------------------------------------------------------------------


def folders(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders, by the shell itself."""
    return [CompletionItem(incomplete, type="dir")]


def revisions(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """HEAD, branches, tags and the newest steps."""
    return _fitting(incomplete, _offer(ctx, _revisions))


def revisions_or_files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Revisions; where none fits, files, by the shell itself."""
    return revisions(ctx, parameter, incomplete) or [CompletionItem(incomplete, type="file")]


def branches(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of branches."""
    return _fitting(incomplete, _offer(ctx, lambda history: _refs(history, "branch")))


def tags(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of tags."""
    return _fitting(incomplete, _offer(ctx, lambda history: _refs(history, "tag")))


def _offer(ctx: click.Context, find: Callable[[History], Iterable[CompletionItem]]) -> list[CompletionItem]:
    session = ctx.find_object(Session) or Session()
    if session.repo is None:
        session.repo = os.environ.get("CASCKPT_REPO") or None
    try:
        with session.history() as history:
            return list(find(history))
    except Exception:
        return []


def _fitting(incomplete: str, offered: list[CompletionItem]) -> list[CompletionItem]:
    return [item for item in offered if str(item.value).startswith(incomplete)]


def _refs(history: History, kind: str) -> Iterator[CompletionItem]:
    for ref in history.refs():
        if ref.kind == kind:
            yield CompletionItem(ref.name, help=kind)


def _revisions(history: History) -> Iterator[CompletionItem]:
    yield CompletionItem("HEAD", help=f"the tip of {history.current_branch}")
    yield from _refs(history, "branch")
    yield from _refs(history, "tag")
    seen = set()
    for commit in islice(history.log(), _STEPS):
        if commit.step is not None and commit.step not in seen:
            seen.add(commit.step)
            yield CompletionItem(f"step:{commit.step}", help=first_line(commit.message) or "commit")
