"""Advice about memory: only about the pages that blocks lie in, never an error, and blocks that meet are one."""

from __future__ import annotations

import mmap
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casckpt.tensors import advice, huge_pages

HUGE = 2 << 20
PAGE = mmap.PAGESIZE


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Start, length and advice, instead of what the kernel would do."""
    seen: list[tuple[int, int, int]] = []

    def advise(start: int, length: int, what: int) -> bool:
        seen.append((start, length, what))
        return True

    monkeypatch.setattr(advice, "advise", advise)
    monkeypatch.setattr(huge_pages, "_huge_page", lambda: HUGE)
    return seen


def test_small_memory_is_left_alone(advised: list[tuple[int, int, int]]) -> None:
    huge_pages.prefer([])
    huge_pages.prefer([memoryview(bytearray(3 * HUGE // 2)), memoryview(bytearray(0))])
    assert not advised


def test_neighbours_are_taken_together_with_what_lies_between_them(advised: list[tuple[int, int, int]]) -> None:
    whole = memoryview(bytearray(12 * HUGE))
    blocks = [whole[at + 64 : at + HUGE // 4] for at in range(0, len(whole), HUGE // 4)]
    huge_pages.prefer(blocks)
    (start, length, what), *others = advised
    assert what == advice.HUGEPAGE
    assert start <= advice.address(blocks[0]) < start + PAGE
    assert start + length - PAGE < advice.address(blocks[-1]) + len(blocks[-1]) <= start + length
    assert {one[2] for one in others} == {advice.COLLAPSE}
    assert all(at % HUGE == 0 and size == HUGE and start <= at <= start + length - HUGE for at, size, _ in others)
    assert len(others) >= 11, "each of these pages holds the head of a block"


def test_pages_that_nobody_touched_are_left_to_their_first_use(advised: list[tuple[int, int, int]]) -> None:
    huge_pages.prefer([memoryview(bytearray(10 * HUGE))])
    assert [one[2] for one in advised] == [advice.HUGEPAGE] or len(advised) == 2


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 16))))
def test_spans_joined_are_the_pages_of_all_and_at_most_one_between_two(spans: list[tuple[int, int]]) -> None:
    ordered = sorted((start, start + length) for start, length in spans)
    joined = huge_pages._joined(ordered)
    touched = {page for start, end in ordered for page in range(start // PAGE, -(-end // PAGE))}
    pages = {page for start, end in joined for page in range(start // PAGE, end // PAGE)}
    assert touched <= pages
    assert all({page - 1, page + 1} <= touched for page in pages - touched)
    assert all(one[1] < other[0] for one, other in pairwise(joined))
    assert all(start % PAGE == end % PAGE == 0 for start, end in joined)


def test_a_kernel_that_refuses_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "advise", lambda *_: False)
    blocks = [torch.zeros(4 * HUGE, dtype=torch.uint8) for _ in range(3)]
    huge_pages.prefer([block.numpy().data for block in blocks])
    assert not any(block.any() for block in blocks)
    monkeypatch.setattr(huge_pages, "_huge_page", lambda: None)
    huge_pages.prefer([block.numpy().data for block in blocks])


def test_what_is_in_memory_stays_in_it() -> None:
    blocks = [torch.randint(0, 255, (3 * HUGE + 77,), dtype=torch.uint8) for _ in range(4)]
    copies = [block.clone() for block in blocks]
    huge_pages.prefer([block.numpy().data for block in blocks])
    assert all(torch.equal(block, copy) for block, copy in zip(blocks, copies, strict=True))
