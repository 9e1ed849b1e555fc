"""Writes what the code of pages really prints into the pages: `python -m tests.docs.update [PAGE…]`.

A page whose outputs differ only by what changes from run to run stays as it is; of any other all outputs are written,
so that an id is the same in all of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.docs.alike import alike, ids_agree
from tests.docs.pages import all_pages
from tests.docs.running import Interpreter, Outcome, promised, run_page
from tests.processes import ROOT


def updated(text: str, outcomes: list[Outcome]) -> str:
    """The page with the outputs that came out, where the code and what it showed still stand in it."""
    if ids_agree(promised(outcomes)) and all(
        alike(outcome.shown, outcome.printed, numbers_vary=outcome.block.numbers_vary) for outcome in outcomes
    ):
        return text
    behind = 0  # outcomes come in the order of the page
    for outcome in outcomes:
        start = text.find(outcome.source + outcome.shown, behind)
        if start < 0:
            print(f"{outcome.where}: left as it is", file=sys.stderr)
            continue
        start += len(outcome.source)
        printed = outcome.printed.strip("\n") + "\n" * bool(outcome.printed.strip())
        text = text[:start] + printed + text[start + len(outcome.shown) :]
        behind = start + len(printed) - 1  # the newline before the next command
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
