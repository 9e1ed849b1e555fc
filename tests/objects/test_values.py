"""Records: what a tensor shows and how far it reaches, worked out without torch."""

from __future__ import annotations

import pytest

from casckpt.objects.values import TensorRecord, contiguous_strides, reach


@pytest.mark.parametrize(
    ("shape", "strides"), [((2, 3, 4), (12, 4, 1)), ((), ()), ((5,), (1,)), ((2, 0, 3), (3, 3, 1)), ((1, 1), (1, 1))]
)
def test_a_contiguous_tensor_has_row_major_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    assert contiguous_strides(shape) == strides


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "end"),
    [((2, 3), (3, 1), 0, 6), ((2, 3), (1, 2), 4, 10), ((), (), 7, 8), ((9, 2), (0, 1), 0, 2), ((0, 5), (9, 9), 9, 0)],
)
def test_a_tensor_reaches_to_just_past_its_last_element(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, end: int
) -> None:
    assert reach(shape, strides, offset) == end


def test_a_record_tells_what_it_shows() -> None:
    record = TensorRecord("bfloat16", (3, 4), (0, 1), 0, b"", None, 0)
    assert (record.elements, record.nbytes, record.strides) == (12, 24, (0, 1))
    assert TensorRecord("complex128", (), None, 0, b"", None, 0).nbytes == 16
    assert TensorRecord("int8", (2, 3), None, 0, b"", None, 0).strides == (3, 1)
