"""Writes what the code of pages really prints into the pages: `python -m tests.docs.update [PAGE…]`.

An output that differs only by what changes from run to run stays as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.docs.alike import alike
from tests.docs.pages import all_pages
from tests.docs.running import Interpreter, Outcome, run_page
from tests.processes import ROOT


def updated(text: str, outcomes: list[Outcome]) -> str:
    """The page with the outputs that came out."""
    for outcome in reversed(outcomes):
        if not alike(outcome.shown, outcome.printed, numbers_vary=outcome.block.remark == "numbers vary"):
            # a blank line between two commands stays
            gap = "\n" if outcome.shown.endswith("\n\n") or outcome.shown == "\n" else ""
            text = (
                text[: outcome.start]
                + outcome.printed.strip("\n")
                + "\n" * bool(outcome.printed.strip())
                + gap
                + (text[outcome.end :])
            )
    return text


def main(pages: list[Path]) -> None:
    interpreter = Interpreter()
    try:
        for page in pages:
            before = page.read_text()
            after = updated(before, run_page(page, interpreter))
            if page.read_text() != before:
                raise SystemExit(f"{page} was changed meanwhile")
            if after != before:
                page.write_text(after)
                print(f"updated {page.relative_to(ROOT)}")
    finally:
        interpreter.close()


if __name__ == "__main__":
    main([Path(page).resolve() for page in sys.argv[1:]] or all_pages())
