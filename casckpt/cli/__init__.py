"""The command line. The only layer that prints, and the only one that reads the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `casckpt` with these arguments (those of the process, if None); returns the exit code, and never raises."""
    try:
        from casckpt.cli.app import app
        from casckpt.cli.failures import run

        asked = os.environ.get("_CASCKPT_COMPLETE") if arguments is None else None
        if asked is not None:
            from casckpt.cli.completion import answer

            return answer(app, asked)

        return run(app, sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:  # before there was anything to interrupt, or a second one while the first was answered
        return 130
