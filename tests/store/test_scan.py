"""Looking through a file that may be anything: what is read of it, and what is not believed."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from casckpt.objects.codec import MOST, encode
from casckpt.objects.frame import Codec, FrameHead, pack_head
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.store import scan
from casckpt.store.layout import LEAF, NODE, OVERFLOW, PAGE
from casckpt.store.scan import Scanned


def frame(raw: bytes) -> bytes:
    return encode(Kind.CHUNK, XXH3_128.digest(Kind.CHUNK, raw), raw, "none")


def looked(path: Path) -> tuple[list[tuple[FrameHead, int]], list[tuple[bytes, bytes]]]:
    frames: list[tuple[FrameHead, int]] = []
    entries: list[tuple[bytes, bytes]] = []
    with Scanned(path) as file:
        file.look_through(
            lambda head, at: frames.append((head, at)),
            lambda key, value: entries.append((key, value)),
            lambda record: None,
            lambda stage, done, total: None,
        )
    return frames, entries


def leaf(number: int, size: int, entries: dict[bytes, bytes]) -> bytes:
    """A leaf page as LMDB writes it."""
    page = bytearray(size)
    at, offsets = size, []
    for key, value in entries.items():
        node = NODE.pack(len(value), 0, 0, len(key)) + key + value
        at -= len(node) + len(node) % 2
        page[at : at + len(node)] = node
        offsets.append(at)
    PAGE.pack_into(page, 0, number, 0, LEAF, PAGE.size + 2 * len(offsets), at)
    struct.pack_into(f"={len(offsets)}H", page, PAGE.size, *offsets)
    return bytes(page)


@pytest.mark.parametrize("place", [0, 2, 4094, (8 << 20) - 30, (8 << 20) - 4, (8 << 20) - 2, 8 << 20, 9_000_000])
def test_a_frame_is_found_wherever_it_lies_also_across_blocks(tmp_path: Path, place: int) -> None:
    whole = frame(b"some bytes" * 50)
    (tmp_path / "file").write_bytes(bytes(place) + whole + bytes(9 << 20))
    ((head, at),), _ = looked(tmp_path / "file")
    assert at == place and head.raw_length == 500
    with Scanned(tmp_path / "file") as file:
        found = file.frame(place)
        assert found is not None and found[1] == whole and file.head(place) == head


def test_what_begins_on_an_odd_byte_or_ends_behind_the_file_is_none(tmp_path: Path) -> None:
    whole = frame(b"some bytes" * 50)
    for data in (b"\0" + whole, bytes(100) + whole[:-1], whole[:20], whole.replace(b"CKF\x01", b"CKF\x02")):
        (tmp_path / "file").write_bytes(data)
        assert looked(tmp_path / "file") == ([], [])


@pytest.mark.parametrize("size", [512, 4096, 16384, 65536])
def test_the_size_of_pages_is_told_by_their_numbers(tmp_path: Path, size: int) -> None:
    pages = [leaf(number, size, {b"key": bytes([number])}) for number in range(2, 40)]
    (tmp_path / "file").write_bytes(bytes(2 * size) + b"".join(pages))
    with Scanned(tmp_path / "file") as file:
        assert file.page_size == size and file.heads == []
    assert looked(tmp_path / "file")[1] == [(b"key", bytes([number])) for number in range(2, 40)]


def test_a_page_in_another_place_or_with_a_hole_says_nothing(tmp_path: Path) -> None:
    good = [leaf(number, 4096, {b"key": b"value"}) for number in range(2, 20)]
    for spoilt in (good[3], good[4][:16] + b"\1\1" + good[4][18:], good[4][:-2] + b"", bytes(4096)):
        data = bytes(8192) + b"".join([*good[:4], spoilt.ljust(4096, b"\0")[-4096:], *good[5:]])
        (tmp_path / "file").write_bytes(data)
        with Scanned(tmp_path / "file") as file:
            file.look_through(lambda head, at: None, lambda key, value: None, lambda record: None, scan_nothing)
            assert not file.unbroken or spoilt == good[4][:-2]
    (tmp_path / "file").write_bytes(bytes(8192) + b"".join(good))
    with Scanned(tmp_path / "file") as file:
        file.look_through(lambda head, at: None, lambda key, value: None, lambda record: None, scan_nothing)
        assert file.unbroken


def test_pages_of_a_value_need_no_heads(tmp_path: Path) -> None:
    run = PAGE.pack(2, 0, OVERFLOW, 3, 0) + frame(b"x" * 10_000)
    pages = run.ljust(3 * 4096, b"\xff") + b"".join([leaf(number, 4096, {b"k": b"v"}) for number in range(5, 9)])
    (tmp_path / "file").write_bytes(bytes(8192) + pages)
    with Scanned(tmp_path / "file") as file:
        file.look_through(lambda head, at: None, lambda key, value: None, lambda record: None, scan_nothing)
        assert file.unbroken


def test_a_sector_that_cannot_be_read_takes_only_what_is_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frame(b"some bytes" * 50)
    (tmp_path / "file").write_bytes(whole.ljust(4096, b"\0") + bytes(4096) + whole.ljust(8192, b"\0"))
    real = os.pread

    def bad(descriptor: int, length: int, at: int) -> bytes:
        if at < 8192 and at + length > 4096:
            raise OSError(5, "Input/output error")
        return real(descriptor, length, at)

    monkeypatch.setattr(scan.os, "pread", bad)
    assert [at for _, at in looked(tmp_path / "file")[0]] == [0, 8192]


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_a_head_that_claims_more_than_its_kind_may_have_is_none(tmp_path: Path, kind: Kind) -> None:
    most = MOST[kind]
    heads = [FrameHead(kind, Codec.ZSTD, bytes(16), *lengths) for lengths in ((most, 0), (most + 1, 0), (0, most + 1))]
    with (tmp_path / "file").open("wb") as file:
        file.write(b"".join(map(pack_head, heads)))
        file.truncate(min(most, 16 << 20) + 4096)  # holes
    assert [head for head, _ in looked(tmp_path / "file")[0]] == heads[:1]


def test_so_much_of_a_file_is_read_as_frames_however_many_claim_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [pack_head(FrameHead(Kind.CHUNK, Codec.ZSTD, bytes(16), 100, (3 << 20) + n)) for n in range(1000)]
    data = b"".join(heads).ljust(4 << 20, b"\0")
    (tmp_path / "file").write_bytes(data)
    found = looked(tmp_path / "file")[0]
    assert len(found) == 1000
    real, count = os.pread, 0

    def counted(descriptor: int, length: int, at: int) -> bytes:
        nonlocal count
        count += length
        return real(descriptor, length, at)

    monkeypatch.setattr(scan.os, "pread", counted)
    with Scanned(tmp_path / "file") as file:
        tried = [file.candidate(at) for _, at in found]
    assert sum(one is not None for one in tried) == 8 and count < 9 * len(data)


def test_a_frame_within_a_frame_and_what_lies_beside_lies_can_be_tried(tmp_path: Path) -> None:
    lies = b"".join(pack_head(FrameHead(Kind.CHUNK, Codec.ZSTD, bytes(16), 100, 1 << 20)) for n in range(100))
    inner = frame(b"some bytes" * 50)
    outer = frame(bytes(1000) + inner + bytes(2 << 20))
    (tmp_path / "file").write_bytes(lies.ljust(3 << 20, b"\0") + outer)
    with Scanned(tmp_path / "file") as file:
        for lie in range(0, len(lies), len(lies) // 100):
            file.candidate(lie)
        assert file.candidate(3 << 20) == outer
        assert file.candidate((3 << 20) + outer.index(inner)) == inner


def scan_nothing(stage: str, done: int, total: int) -> None:
    pass
