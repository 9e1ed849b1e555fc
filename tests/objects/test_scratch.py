"""Scratch memory: a thread's own, kept where it is of a usual size."""

from __future__ import annotations

import threading

import numpy as np

from casckpt.limits import MIB
from casckpt.objects.scratch import Working, scratch


def test_what_is_asked_for_again_is_the_same_memory_and_no_other_threads() -> None:
    mine = scratch("test", 1000)
    assert np.shares_memory(scratch("test", 500), mine)
    assert not np.shares_memory(scratch("another", 1000), mine)
    others: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: others.append(scratch("test", 1000)))
    thread.start()
    thread.join()
    assert not np.shares_memory(others[0], mine)


def test_what_is_unusually_large_is_not_kept() -> None:
    assert not np.shares_memory(scratch("large", 5 * MIB), scratch("large", 5 * MIB))


def test_work_within_work_has_memory_of_its_own_and_the_outer_one_gets_its_own_back() -> None:
    with Working():
        outer = scratch("test", 100)
        with Working():
            inner = scratch("test", 100)
        assert not np.shares_memory(inner, outer)
        assert np.shares_memory(scratch("test", 100), outer)
    with Working():
        assert np.shares_memory(scratch("test", 100), outer)  # kept for the next one
