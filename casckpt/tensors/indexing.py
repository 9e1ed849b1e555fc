"""Indices into a tensor that is not in memory: what they choose of it, and which bytes that is.

Pure arithmetic: nothing here reads a store or takes memory.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from casckpt.objects.values import contiguous_strides


@dataclass(frozen=True, slots=True)
class View:
    """A tensor over stored bytes. Strides and offset count elements; no stride is negative. item: bytes of one."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    item: int


def choose(view: View, index: object) -> View:
    """What a basic index takes of a view: ints, slices with steps, `...`, None, or a tuple of these, as torch has it.

    Raises:
        IndexError: out of range, or more indices than dimensions.
        TypeError: anything else, such as a mask or an index tensor.
        ValueError: a slice with a step below 1.
    """
    items = index if isinstance(index, tuple) else (index,)
    dots = sum(item is Ellipsis for item in items)
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if dots > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if taken > len(view.shape):
        raise IndexError(f"{taken} indices for a tensor of {len(view.shape)} dimensions")
    shape: list[int] = []
    strides: list[int] = []
    offset, at = view.offset, 0
    for item in (*items, *([] if dots else [Ellipsis])):
        if item is None:
            shape.append(1)
            strides.append(0)
        elif item is Ellipsis:
            rest = len(view.shape) - taken
            shape += view.shape[at : at + rest]
            strides += view.strides[at : at + rest]
            at += rest
        else:
            size, stride = view.shape[at], view.strides[at]
            if isinstance(item, slice):
                start, stop, step = item.indices(size)
                if step < 1:
                    raise ValueError("a slice with a step below 1; take it with the step positive, then flip() it")
                shape.append(len(range(start, stop, step)))
                strides.append(stride * step)
            else:
                start = _number(item, size, at)
            offset += start * stride
            at += 1
    return View(tuple(shape), tuple(strides), offset if 0 not in shape else 0, view.item)


def _number(item: object, size: int, dimension: int) -> int:
    """One int of an index, counted from the front."""
    # an index tensor of one element, and True, count as ints to operator.index
    if isinstance(item, bool) or getattr(item, "ndim", False) or "bool" in str(getattr(item, "dtype", "")):
        raise _unfit(item)
    try:
        number = operator.index(item)  # type: ignore[arg-type]  # what is no int is refused right here
    except TypeError:
        raise _unfit(item) from None
    if not -size <= number < size:
        raise IndexError(f"index {number} is out of range for dimension {dimension} of {size} elements")
    return number % size


def _unfit(item: object) -> TypeError:
    return TypeError(
        f"a tensor that is not in memory is indexed by ints, slices, ... and None, not by a {type(item).__name__}; "
        "load() it, or the slice that holds what you want, and index that"
    )


Steps: TypeAlias = tuple[tuple[int, int, int], ...]
"""Along which dimensions runs of bytes repeat, the outermost first: how often, and bytes from one to the next, as they
are stored and in memory."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How what a view shows lies in memory of its own, in the order in which it is stored.

    nbytes: of that memory. strides: in it, in elements, of `item` bytes each. It consists of runs of `run` bytes
    without a gap, the first of them stored from `start` on. An element that several indices show is there once, if it
    is one of such a run.
    """

    start: int
    run: int
    steps: Steps
    nbytes: int
    strides: tuple[int, ...]
    item: int

    @property
    def end(self) -> int:
        """Just past the last byte of it that is stored."""
        return self.start + _extent(self.run, self.steps)


def lay_out(view: View) -> Layout:
    """The memory for what a view shows."""
    if 0 in view.shape:
        return Layout(0, 0, (), 0, contiguous_strides(view.shape), view.item)
    strides = [1 if size == 1 else 0 for size in view.shape]
    run, held = 1, 1  # elements
    steps: list[tuple[int, int, int]] = []  # of the innermost first
    for stride, size, at in sorted(zip(view.strides, view.shape, range(len(view.shape)), strict=True)):
        if size == 1 or stride == 0:
            continue
        if stride <= run:  # no gap between them
            run += (size - 1) * stride
            held = run
            strides[at] = stride
            continue
        strides[at] = held
        if steps and stride == steps[-1][0] * steps[-1][1]:
            count, step, to = steps[-1]
            steps[-1] = (count * size, step, to)
        else:
            steps.append((size, stride, held))
        held *= size
    item = view.item
    outermost_first = tuple([(count, step * item, to * item) for count, step, to in reversed(steps)])
    return Layout(view.offset * item, run * item, outermost_first, held * item, tuple(strides), item)


@dataclass(frozen=True, slots=True)
class Box:
    """Runs of `length` bytes, the first of them stored from `source` on, and in memory from `to` on."""

    source: int
    to: int
    length: int
    steps: Steps


def boxes(layout: Layout, low: int, high: int) -> Iterator[Box]:
    """What of a layout lies in the stored bytes from `low` to just before `high`, each byte once."""
    if layout.nbytes:
        yield from _boxes(layout.steps, layout.run, layout.start, 0, low, high)


def _boxes(steps: Steps, run: int, start: int, to: int, low: int, high: int) -> Iterator[Box]:
    if not steps:
        first, last = max(start, low), min(start + run, high)
        if first < last:
            yield Box(first, to + first - start, last - first, ())
        return
    (count, step, to_step), inner = steps[0], steps[1:]
    extent = _extent(run, inner)
    first = max(0, (low - start - extent) // step + 1)  # the first and last of which anything is in there
    last = min(count, -((start - high) // step))
    whole = max(first, -((start - low) // step))  # the first and last that are there whole
    whole_end = min(last, (high - start - extent) // step + 1)
    if whole >= whole_end:
        whole = whole_end = last
    for index in (*range(first, whole), *range(whole_end, last)):
        yield from _boxes(inner, run, start + index * step, to + index * to_step, low, high)
    if whole < whole_end:
        yield Box(start + whole * step, to + whole * to_step, run, ((whole_end - whole, step, to_step), *inner))


def _extent(run: int, steps: Steps) -> int:
    """Bytes from the start of the first run to the end of the last one, as they are stored."""
    return run + sum((count - 1) * step for count, step, _ in steps)
