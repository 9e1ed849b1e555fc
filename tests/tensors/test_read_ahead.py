"""Reading ahead: of what comes next in a file, once, and only where that is not in memory."""

from __future__ import annotations

import mmap
from itertools import pairwise

import pytest

from casckpt.limits import KIB, MIB
from casckpt.tensors import advice
from casckpt.tensors.read_ahead import _WINDOW, ReadAhead

# Of no memory: nothing here looks into a frame, or asks the kernel.
BASE = 1 << 40


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """From where to where is read ahead, from BASE on."""
    seen: list[tuple[int, int]] = []
    places: dict[int, int] = {}

    def advise(start: int, length: int, what: int) -> bool:
        assert what == advice.WILLNEED
        assert start % mmap.PAGESIZE == length % mmap.PAGESIZE == 0
        seen.append((start - BASE, start + length - BASE))
        return True

    def watch(ahead: ReadAhead, at: int, length: int) -> None:
        frame = memoryview(bytes(length))
        places[id(frame)] = BASE + at
        ahead.looked_up(frame)

    monkeypatch.setattr(advice, "advise", advise)
    monkeypatch.setattr(advice, "is_resident", lambda page: False)
    monkeypatch.setattr(advice, "address", lambda frame: places[id(frame)])
    monkeypatch.setattr(ReadAhead, "at", watch, raising=False)
    return seen


def test_frames_in_order_are_read_ahead_of_once_each(asked: list[tuple[int, int]]) -> None:
    ahead = ReadAhead()
    for number in range(200):
        at = number ^ 4  # two threads, each at a run of its own
        ahead.at(at * MIB + 56, MIB - 56)  # type: ignore[attr-defined]
        if number > 8:
            assert asked[-1][1] >= at * MIB + _WINDOW // 2, "the next ones are on their way"
    assert all(one[1] == other[0] for one, other in pairwise(asked))
    assert asked[-1][1] <= 205 * MIB + _WINDOW
    assert len(asked) < 20


def test_scattered_and_small_frames_are_left_to_the_kernel(asked: list[tuple[int, int]]) -> None:
    ahead = ReadAhead()
    for number in range(100):
        ahead.at((number * 37 % 100) * 3 * _WINDOW, MIB)  # type: ignore[attr-defined]
    for number in range(5000):
        ahead.at(number * 8 * KIB, 4 * KIB)  # type: ignore[attr-defined]
    assert not asked


def test_what_is_in_memory_is_not_asked_for(asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "is_resident", lambda page: True)
    ahead = ReadAhead()
    for number in range(100):
        ahead.at(number * MIB, MIB)  # type: ignore[attr-defined]
    assert not asked


def test_the_kernel_is_asked_without_harm() -> None:
    with mmap.mmap(-1, 4 * MIB) as mapped:
        start = advice.address(memoryview(mapped))
        assert advice.advise(start, 4 * MIB, advice.WILLNEED) in (True, False)
        mapped[0] = 1
        assert advice.is_resident(start)
    assert advice.advise(1 << 46, mmap.PAGESIZE, advice.WILLNEED) is False
    assert advice.is_resident(1 << 46), "where nothing is, nothing is read"
