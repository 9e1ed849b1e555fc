"""The measure of memory: `dst.copy_(src)` of a whole state, into memory that was touched before.

By all threads or by one, whichever is faster: where others use the cores, the threads of a copy wait for each other at
every tensor, and a copy that takes ten times as long would flatter whatever is held against it.
"""

from __future__ import annotations

import torch

from benchmarks.measure import timed
from benchmarks.states import State


class Copy:
    """A second state of the same shape, to copy to."""

    def __init__(self, state: State) -> None:
        self._source = state
        self._target = {name: tensor.clone() for name, tensor in state.items()}

    def turn(self) -> float:
        """Seconds that the copy takes."""
        all_threads = torch.get_num_threads()
        try:
            return min(self._seconds(threads) for threads in (all_threads, 1))
        finally:
            torch.set_num_threads(all_threads)

    def _seconds(self, threads: int) -> float:
        torch.set_num_threads(threads)
        with timed() as watch:
            for name, tensor in self._source.items():
                self._target[name].copy_(tensor)
        return watch.seconds
