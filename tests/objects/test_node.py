"""Storage nodes and the plan that cuts a span into chunks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError
from casckpt.limits import INLINE_STORAGE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE
from casckpt.objects.node import StorageNode, chunk_bounds, chunk_count, pack_node, stands_inline, unpack_node


@given(st.integers(0, 10_000), st.integers(1, 500))
def test_chunks_cover_a_span_without_gap_or_overlap(length: int, size: int) -> None:
    bounds = list(chunk_bounds(length, size))
    assert len(bounds) == chunk_count(length, size)
    assert [start for start, _ in bounds] == [0, *[end for _, end in bounds]][: len(bounds)]
    assert (bounds[-1][1] if bounds else 0) == length
    assert all(0 < end - start <= size for start, end in bounds)


@given(st.integers(1, 5), st.integers(1, MIN_CHUNK_SIZE), st.sampled_from([16, 32]), st.randoms())
def test_a_node_is_read_as_it_was_packed(full: int, rest: int, id_size: int, random: Any) -> None:
    ids = [random.randbytes(id_size) for _ in range(full)]
    node = StorageNode((full - 1) * MIN_CHUNK_SIZE + rest, MIN_CHUNK_SIZE, b"".join(ids))
    assert unpack_node(pack_node(node), id_size) == node
    assert node.ids() == ids


@given(st.binary(max_size=80))
def test_any_bytes_are_a_node_or_damage(raw: bytes) -> None:
    try:
        node = unpack_node(raw, 16)
    except CorruptObjectError:
        return
    assert pack_node(node)


@pytest.mark.parametrize(
    "fields",
    [
        (0, 256, b""),
        (-1, 256, b""),
        (1, MIN_CHUNK_SIZE - 1, bytes(16)),
        (1, MAX_CHUNK_SIZE + 1, bytes(16)),
        (1, 0, bytes(16)),
        (257, 256, bytes(16)),
        (256, 256, bytes(32)),
        (256, 256, bytes(15)),
        (1 << 80, 256, bytes(16)),
        (256, 256),
        (256, 256, bytes(16), 1),
        ("256", 256, bytes(16)),
        (256, 256, "0" * 16),
        {},
    ],
)
def test_a_node_that_contradicts_itself_is_refused(fields: Any) -> None:
    raw = msgspec.msgpack.encode(fields) if fields and fields[0] != 1 << 80 else b"\xc1"
    with pytest.raises(CorruptObjectError):
        unpack_node(raw, 16)


def test_a_storage_stands_inline_up_to_its_limit_or_one_chunk() -> None:
    assert stands_inline(0, 1 << 20) and stands_inline(INLINE_STORAGE, 1 << 20)
    assert not stands_inline(INLINE_STORAGE + 1, 1 << 20)
    assert stands_inline(256, 256) and not stands_inline(257, 256)
