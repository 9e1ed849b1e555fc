"""The measure of memory: `dst.copy_(src)` of a whole state, into memory that was touched before."""

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
        with timed() as watch, torch.no_grad():
            for name, tensor in self._source.items():
                self._target[name].copy_(tensor)
        return watch.seconds
