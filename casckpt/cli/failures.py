"""From whatever ends a command to what people read on stderr, and to the exit code. Never a bare traceback.

0 done; 2 wrong usage; 130 interrupted; 141 the reader of a pipe went away; 70 a fault of casckpt's own; every error
that casckpt raises on purpose has the code of its class in `casckpt.errors`.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback

import click

from casckpt.cli.session import Session
from casckpt.cli.units import printable
from casckpt.errors import CasckptError, NoMemoryError

INTERRUPTED = 130
BROKEN_PIPE = 141
UNEXPECTED = 70


def run(command: click.Command, arguments: list[str]) -> int:
    """Run a command to its end; returns the exit code."""
    session = Session()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no arrow still shows the rest
    try:
        code = _invoke(command, arguments, session)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _say(session, "interrupted", f"interrupted; {session.done}", INTERRUPTED)
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except click.UsageError as error:
        return _usage(session, error)
    except CasckptError as error:
        _debug()
        return _say(session, error.kind, str(error), error.exit_code)
    except MemoryError:
        _debug()
        return _say(session, NoMemoryError.kind, "there is no memory left for it", NoMemoryError.exit_code)
    except Exception as error:
        _debug()
        name = type(error).__name__
        hint = "" if _debugging() else " (set CASCKPT_DEBUG=1 to see where)"
        return _say(session, "unexpected", f"{name}: {error}{hint}", UNEXPECTED)


def _invoke(command: click.Command, arguments: list[str], session: Session) -> int:
    try:
        # not command.main(): it answers interrupts and broken pipes in ways of its own
        with command.make_context("casckpt", arguments, obj=session) as context:
            command.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    return 0


def _usage(session: Session, error: click.UsageError) -> int:
    if session.json:
        return _say(session, "usage", error.format_message(), error.exit_code)
    error.show()
    return error.exit_code


def _say(session: Session, kind: str, message: str, code: int) -> int:
    """One line on stderr; where programs read, as JSON."""
    try:
        sys.stdout.flush()  # what was found so far comes before why it ends
    except OSError:
        _discard_output()
    line = printable(" ".join(message.split("\n")))  # it may tell what a store holds
    if session.json:
        line = json.dumps({"error": {"kind": kind, "message": line, "exit_code": code}})
        click.echo(line, err=True)
    else:
        click.echo(f"casckpt: {line}", err=True)
    return code


def _debugging() -> bool:
    return os.environ.get("CASCKPT_DEBUG", "") not in ("", "0")


def _debug() -> None:
    if _debugging():
        traceback.print_exc()


def _discard_output() -> None:
    """Let nothing more be written to a stdout that failed, at exit above all."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except OSError:
        return  # a stdout without a descriptor, as in a test, is not flushed at exit
