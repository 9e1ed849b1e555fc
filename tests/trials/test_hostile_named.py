"""Harm that has a name, each with the error that it gets."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
import zstandard

import casckpt
from casckpt.errors import CasckptError, CorruptObjectError
from casckpt.limits import MAX_CHAIN, MAX_COMMIT, MAX_NODE, MAX_TREE, MIB
from casckpt.objects.chain import read_chain
from casckpt.objects.codec import decode, encode
from casckpt.objects.frame import Codec, FrameHead, pack_head
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.tree import decode_tree
from casckpt.objects.zstd import decompressed
from tests.trials.hostile.child import Case, in_child
from tests.trials.hostile.planted import NAMES

_RAW = b"abcd" * 100
_PACKED = zstandard.ZstdCompressor().compress(_RAW)
LIES = {
    "more than it holds": zstandard.ZstdCompressor().compress(_RAW[:-1]),
    "less than it holds": zstandard.ZstdCompressor().compress(_RAW + b"x"),
    "nothing of its size": zstandard.ZstdCompressor(write_content_size=False).compress(_RAW),
    "two frames": zstandard.ZstdCompressor().compress(_RAW[:200]) + zstandard.ZstdCompressor().compress(_RAW[200:]),
    "a second frame behind the first": _PACKED + _PACKED,
    "a dictionary that nobody has": zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(_RAW * 10, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    ).compress(_RAW)[:5]
    + b"\xff" * 20,
    "a skippable frame": b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip" + _PACKED,
    "a size of 2^63": b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x7f" + _PACKED[6:],
    "an end that is missing": _PACKED[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_zstd_frame_that_lies_is_refused(lie: str) -> None:
    with pytest.raises(CorruptObjectError, match="lies about its size|does not decompress"):  # noqa: RUF043
        decompressed(memoryview(LIES[lie]), len(_RAW))


@pytest.mark.parametrize(
    ("kind", "most"), [(Kind.TREE, MAX_TREE), (Kind.COMMIT, MAX_COMMIT), (Kind.NODE, MAX_NODE), (Kind.CHUNK, 64 * MIB)]
)
def test_no_object_is_asked_for_more_than_its_kind_may_have(kind: Kind, most: int) -> None:
    oid = bytes(16)
    head = FrameHead(kind, Codec.ZSTD, oid, most + 1, len(_PACKED))
    with pytest.raises(CorruptObjectError, match=f"of {most + 1} bytes"):
        decode(XXH3_128, kind, oid, memoryview(pack_head(head) + _PACKED))


@pytest.mark.parametrize("length", [1, 2, 5, 1000])
def test_deltas_over_themselves_or_over_too_many_are_told(length: int) -> None:
    """A ring of so many; the last is a chain that ends, but too late."""

    def frame(number: int) -> memoryview:
        oid, base = (struct.pack("<QQ", 7, n) for n in (number, (number + 1) % length))
        head = FrameHead(Kind.CHUNK, Codec.DELTA_PLANES, oid, 40, 40, base, 1, (40,))
        return memoryview(pack_head(head) + bytes(40))

    looked = 0

    def look_up(oid: bytes) -> memoryview:
        nonlocal looked
        looked += 1
        return frame(struct.unpack("<QQ", oid)[1])

    with pytest.raises(CorruptObjectError, match=f"more than {MAX_CHAIN} others, or over itself"):
        read_chain(struct.pack("<QQ", 7, 0), look_up)
    assert looked == MAX_CHAIN + 1


@pytest.mark.parametrize(
    "head", [b"\x91", b"\x92\x01", b"\x92\x04\xa1x", b"\xdd\0\0\0\2\x01", b"\x93\x03\xa1a", b"\x81\xa1a"]
)
def test_nesting_of_a_hundred_thousand_levels_is_refused(head: bytes) -> None:
    with pytest.raises(CasckptError):
        decode_tree(head * 100_000 + b"\xc0", 16)


def test_a_node_of_one_chunk_a_million_times_is_read_in_bounded_memory(tmp_path: Path) -> None:
    from casckpt.objects.node import StorageNode, pack_node, unpack_node

    count = 1 << 20
    raw = pack_node(StorageNode(count * 256, 256, bytes(16) * count))
    oid = XXH3_128.digest(Kind.NODE, raw)
    frame = encode(Kind.NODE, oid, raw, "small")
    assert len(frame) < 10_000

    def work(case: Case) -> int:
        case.begin(0)
        return len(unpack_node(decode(XXH3_128, Kind.NODE, oid, memoryview(frame)), 16).ids())

    assert in_child(work, tmp_path, memory=256 * MIB) == count


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_names_that_are_paths_come_back_and_make_no_files(tmp_path: Path, format: str) -> None:
    state = {name: torch.full((2,), float(number)) for number, name in enumerate(NAMES)}
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    with casckpt.open(tmp_path / "store") as repo:
        repo.commit(state)
        repo.export("HEAD", inside / "out", format=format)
        assert [path.name for path in inside.iterdir()] == ["out"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "store"]
        repo.import_file(inside / "out", message="back")
        loaded = repo.load("HEAD")
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
