"""Runs the Python of pages: imports torch once, and forks for each page.

A line on stdin names a page's folder; then each line is a block, {"source", "name"}, answered by {"printed", "error"};
null ends the page.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import sys
import traceback
import warnings
from typing import Any


def _serve(folder: str) -> None:
    os.chdir(folder)
    sys.path.insert(0, folder)
    namespace = {"__name__": "__main__"}
    for block in iter(_asked, None):
        printed, error = io.StringIO(), ""
        with contextlib.redirect_stdout(printed):
            try:
                exec(compile(block["source"], block["name"], "exec"), namespace)
            except BaseException:
                error = traceback.format_exc()
        _answer({"printed": printed.getvalue(), "error": error})


def _asked() -> Any:
    """The next line, and not a byte more: what is read ahead would be read twice after a fork. None at the end."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return None
        line += byte
    return json.loads(line)


def _answer(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    import torch  # noqa: F401  # for the pages

    import casckpt.training.checkpointer  # noqa: F401  # likewise

    gc.freeze()  # no child need look at any of it
    while folder := _asked():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # no thread of ours is about
            child = os.fork()
        if child == 0:
            _serve(folder)
            os._exit(0)
        os.waitpid(child, 0)
        _answer("ended")


if __name__ == "__main__":
    main()
