"""What is done aside: whoever waits for it never waits in vain."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest

from casckpt.store import aside as module
from casckpt.store.aside import Aside, aside

SAID = 4


def interrupted_behind(number: int) -> type[SimpleQueue[Any]]:
    """A queue from which an interrupt takes what was got so many times before, on its way to whoever asked for it."""

    class Queue(SimpleQueue[Any]):
        got = -1

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            found = super().get(block, timeout)
            self.got += 1
            if self.got == number:
                raise KeyboardInterrupt
            return found

    return Queue


@pytest.mark.timeout(20, method="thread")  # by a signal it would be taken for another interrupt
@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("number", range(SAID + 1))
def test_an_interrupt_that_takes_a_word_on_its_way_leaves_nobody_waiting(number, stops, monkeypatch) -> None:
    monkeypatch.setattr(module, "SimpleQueue", interrupted_behind(number))
    ended = []

    def work(held: Aside) -> str:
        try:
            for at in range(SAID):
                if stops:
                    held.report("at it", at, SAID)
                else:
                    held._said.put(("at it", at, SAID))
            return "done"
        finally:
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        aside(work, lambda *told: None)
    assert ended == [True]


def test_all_that_was_said_is_told_before_the_result() -> None:
    told = []

    def work(held: Aside) -> int:
        for number in range(200):
            held.report("counting", number, 200)
        return 7

    assert aside(work, lambda *said: told.append(said)) == 7
    assert told == [("counting", number, 200) for number in range(200)]
