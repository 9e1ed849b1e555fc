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


def main(pages: list[Path]) -> int:
    """Update pages; returns how many have code that did not run to its good end, which stay as they are."""
    interpreter = Interpreter()
    failed = 0
    for page in pages:
        before = page.read_text()
        try:
            after = updated(before, run_page(page, interpreter))
        except AssertionError as error:
            print(f"{page.relative_to(ROOT)}: {error}", file=sys.stderr)
            failed += 1
            continue
        if page.read_text() != before:
            print(f"{page.relative_to(ROOT)} was changed meanwhile", file=sys.stderr)
            failed += 1
        elif after != before:
            page.write_text(after)
            print(f"updated {page.relative_to(ROOT)}")
    interpreter.close()
    return failed


if __name__ == "__main__":
    sys.exit(main([Path(page).resolve() for page in sys.argv[1:]] or all_pages()))
