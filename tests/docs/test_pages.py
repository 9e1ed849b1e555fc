"""All code in the documentation runs, and prints what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.alike import alike, ids_agree, normal
from tests.docs.pages import DOCS, all_pages, blocks
from tests.docs.running import Interpreter, promised, run_page


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    made = Interpreter()
    yield made
    made.close()


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page: Path, interpreter: Interpreter) -> None:
    outcomes = run_page(page, interpreter, long=False)
    for outcome in outcomes:
        assert alike(outcome.shown, outcome.printed, numbers_vary=outcome.block.numbers_vary), (
            f"{outcome.where}\nprints\n{normal(outcome.printed)}\nand the page shows\n{normal(outcome.shown)}\n"
            "(python -m tests.docs.update writes it anew)"
        )
    assert ids_agree(promised(outcomes)), "a commit has two ids on the page (python -m tests.docs.update cures it)"


def test_code_that_is_not_run_says_why_and_no_block_is_left_out_by_accident() -> None:
    for page in DOCS.rglob("*.md"):
        for block in blocks(page.read_text()):
            assert block.language in ("python", "sh", "console", "text"), f"{page}:{block.line}"
            assert not block.is_only_shown or re.search(r"not run: \w+ \w+", block.text + block.remark)
            assert block.is_console or not re.search(r"^\$ ", block.text, re.MULTILINE), f"{page}:{block.line}"
            assert block.is_console or block.language != "console", f"{page}:{block.line}"


# -- that it would notice ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ("*   ad6857b4  176 loss 2.457  1 s 5.07 MiB", "*   0d685704  176 loss 2.457 12 s 5.08 MiB"),
        ("time 2026-11-21 07:42:14 UTC, 2 s ago", "time  2027-01-02 17:42:14 UTC, 3 min ago"),
        ("4 chunks live (0.0 s)", "4 chunks live (1.2 s)"),
        ("on from bef…", "on from b…"),
        ("loss 0.3566616", "loss 0.3566618"),
        ("ratio 3.9 (logical / stored)", "ratio 3.6 (logical / stored)"),
        ("at 5e91b4db", "at faceddab"),
    ],
)
def test_ids_ages_and_dates_may_differ(shown: str, real: str) -> None:
    assert alike(shown, real)


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ("ad6857b4 176 loss 2.457", "ad6857b4 176 loss 2.557"),
        ("ad6857b4 176 loss 2.457", "ad6857b4 177 loss 2.457"),
        ("5.07 MiB", "7.07 MiB"),
        ("ratio 3.9 (logical / stored)", "ratio 2.9 (logical / stored)"),
        ("5.07 MiB", "5.07 KiB"),
        ("one\ntwo", "one"),
        ("6 commits", "7 commits"),
        ("main moved", "main  stayed"),
        ("on from bef…", "on …"),
        ("on from bef…", "on then b…"),
    ],
)
def test_nothing_else_may(shown: str, real: str) -> None:
    assert not alike(shown, real)


def test_an_id_is_the_same_one_all_over_a_page() -> None:
    assert ids_agree([("commit 11111111 of 22222222", "commit aaaaaaaa of bbbbbbbb"), ("11111111ff", "aaaaaaaaee")])
    assert not ids_agree([("at 11111111", "at aaaaaaaa"), ("at 11111111", "at bbbbbbbb")])
    assert not ids_agree([("at 11111111", "at aaaaaaaa"), ("at 22222222", "at aaaaaaaa")])
