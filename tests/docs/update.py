"""Writes what the code of pages really prints into the pages: `python -m tests.docs.update [PAGE…]`.

A page whose outputs differ only by what changes from run to run stays as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.docs.alike import alike
from tests.docs.pages import all_pages
from tests.docs.running import Interpreter, Outcome, run_page
from tests.processes import ROOT


def updated(text: str, outcomes: list[Outcome]) -> str:
    """The page with the outputs that came out, where the code and what it showed still stand in it, and only once.

    All of them, so that an id is the same in all of a page; or none, if none is another than what is shown.
    """
    if all(alike(outcome.shown, outcome.printed, numbers_vary=outcome.block.numbers_vary) for outcome in outcomes):
        return text
    for outcome in outcomes:
        old = outcome.source + outcome.shown
        if text.count(old) != 1:
            print(f"{outcome.where}: left as it is", file=sys.stderr)
            continue
        printed = outcome.printed.strip("\n") + "\n" * bool(outcome.printed.strip())
        text = text.replace(old, outcome.source + printed)
    return text


def main(pages: list[Path]) -> int:
    """Update pages; returns how many have code that did not run to its good end, which stay as they are."""
    interpreter = Interpreter()
    failed = 0
    for page in pages:
        try:
            outcomes = run_page(page, interpreter, long=True)
        except AssertionError as error:
            print(f"{page.relative_to(ROOT)}: {error}", file=sys.stderr)
            failed += 1
            continue
        before = page.read_text()  # as it is now: somebody may have written to it meanwhile
        after = updated(before, outcomes)
        if after != before:
            page.write_text(after)
            print(f"updated {page.relative_to(ROOT)}")
    interpreter.close()
    return failed


if __name__ == "__main__":
    sys.exit(main([Path(page).resolve() for page in sys.argv[1:]] or all_pages()))
