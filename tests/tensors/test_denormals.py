"""What torch sets for a whole thread, that denormal numbers count as zero, changes no byte of any chunk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from casckpt.objects.frame import Codec
from casckpt.objects.words import Words
from tests.objects.chunks import FLOATS_32, Frames, chunk_id


@pytest.fixture(autouse=True)
def back_to_normal() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


def _averages() -> tuple[bytes, bytes]:
    """A decaying average of numbers around the smallest normal one, with others that are none; then the next."""
    words = np.arange(0x00000001, 0x01400000, 997, dtype="<u4")
    words[::100] = np.resize(np.array(FLOATS_32, "<u4"), len(words[::100]))
    after = words.copy()
    after[1::2] -= after[1::2] // 900
    return words.tobytes(), after.tobytes()


@pytest.mark.parametrize("scale", [0.5, 0.75, 0.95, 1.0])
def test_a_scaled_delta_is_the_same_whether_or_not_denormal_numbers_are_flushed(scale: float) -> None:
    base, raw = _averages()
    made = []
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        frames = Frames()
        frames.force(base, Codec.RAW, 1)
        frames.force(raw, Codec.SCALED_DELTA, 4, base, scale=scale)
        made.append(frames)
    assert made[0].held == made[1].held
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        assert [frames.decoded(raw) == raw for frames in made] == [True, True]


def test_what_is_chosen_and_written_is_the_same_too() -> None:
    base, raw = _averages()
    made = set()
    for flush in (False, True):
        assert torch.set_flush_denormal(flush)
        frames = Frames()
        frames.force(base, Codec.RAW, 1)
        for mode in ("auto", "small"):
            frames.put(raw, Words(4, True), mode, base)
            made.add((mode, frames.held[chunk_id(raw)]))
    assert len(made) == 2
