"""Of one object a file may hold many frames: which are tried must not hang on how many copies of another lie about."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from casckpt.history.salvage.evidence import Evidence
from casckpt.history.salvage.remains import _KEPT, _SORTS, Heap
from casckpt.objects.frame import Codec, FrameHead
from casckpt.objects.ids import Kind

OID = b"o" * 16


def kept(bases: list[int | None]) -> list[int]:
    """The places that are tried of frames of one chunk, each over the base of that number, or by itself."""
    heap = Heap(Evidence(16))
    for at, base in enumerate(bases):
        over = None if base is None else base.to_bytes(16, "big")
        heap.frame(FrameHead(Kind.CHUNK, Codec.RAW, OID, 4096, 4096, over, 0, ()), at * 100)
    return [place >> _SORTS for place in heap.places[Kind.CHUNK][OID]]


@given(st.lists(st.sampled_from([None, 1, 2, 3, 4, 5]), max_size=200), st.integers(0, 200))
def test_the_one_frame_of_its_sort_is_tried_however_many_copies_of_others_there_are(
    copies: list[int | None], at: int
) -> None:
    """Seen in a sound store: the frame by itself lay in the middle of nineteen stale deltas, whose bases were gone."""
    at = min(at, len(copies))
    places = kept([*copies[:at], 6, *copies[at:]])
    assert at * 100 in places and places == sorted(places)
    assert len(places) == min(_KEPT, len(copies) + 1)


@given(st.integers(0, 300), st.booleans())
def test_lies_on_one_side_of_a_good_frame_do_not_push_it_out(count: int, before: bool) -> None:
    lies: list[int | None] = list(range(10, 10 + count))
    places = kept([*lies, None] if before else [None, *lies])
    assert (count * 100 if before else 0) in places
