"""Chains of deltas in a damaged file: each link is decoded about once, and none is longer than a reader follows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from casckpt.history.salvage import chunks
from casckpt.history.salvage.chunks import Chunks
from casckpt.history.salvage.remains import Remains, look_through
from casckpt.limits import MAX_CHAIN
from casckpt.objects.chain import Chain, read_chain, verified
from casckpt.objects.codec import encode
from casckpt.objects.encoding import Base, encode_chunk
from casckpt.objects.frame import head_size, pack_head, read_frame
from casckpt.objects.ids import XXH3_128, IdScheme, Kind
from casckpt.objects.words import Words
from casckpt.store.protocol import no_progress
from casckpt.store.scan import Scanned
from tests.history.damage import steps


def digest(raw: bytes) -> bytes:
    return XXH3_128.digest(Kind.CHUNK, raw)


def delta(raw: bytes, base: bytes) -> bytes:
    room = memoryview(bytearray(head_size(16)) + bytearray(raw))
    return bytes(encode_chunk(digest(raw), room, Words(4, False), "small", Base(digest(base), memoryview(base), 0)))


def alone(raw: bytes) -> bytes:
    return encode(Kind.CHUNK, digest(raw), raw, "none")


def chained(count: int) -> tuple[list[bytes], list[bytes]]:
    """Chunks of which each is a delta of the one before, and their frames."""
    raws = [run[:256] for run in steps(count)]
    return raws, [alone(raws[0]), *(delta(raw, base) for base, raw in pairwise(raws))]


def written(path: Path, frames: list[bytes]) -> Path:
    path.write_bytes(b"".join(frame + b"\0" * (len(frame) % 2) for frame in frames) + bytes(64))
    return path


def found(file: Scanned, raws: list[bytes]) -> Chunks:
    heap, _ = look_through(file, no_progress)
    chosen = Chunks(Remains(file, heap, XXH3_128, []))
    chosen.find([digest(raw) for raw in raws], no_progress)
    return chosen


@pytest.mark.parametrize("held", [None, 0], ids=["held", "nothing held"])
def test_each_link_of_a_chain_is_decoded_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int | None
) -> None:
    decoded = 0

    def counted(scheme: IdScheme, chain: Chain) -> memoryview:
        nonlocal decoded
        decoded += len(chain.links)
        return verified(scheme, chain)

    monkeypatch.setattr(chunks, "verified", counted)
    if held is not None:
        monkeypatch.setattr(chunks, "_HELD", held)
    raws, frames = chained(400)
    with Scanned(written(tmp_path / "file", frames[::-1])) as file:
        found(file, raws)
    assert decoded <= (2 * MAX_CHAIN if held is None else MAX_CHAIN * MAX_CHAIN)


def test_a_chain_is_as_long_as_a_reader_follows_and_no_longer(tmp_path: Path) -> None:
    raws, frames = chained(100)
    frames.append(alone(raws[90]))
    with Scanned(written(tmp_path / "file", frames)) as file:
        chosen = found(file, raws)
        there = {number for number, raw in enumerate(raws) if digest(raw) in chosen}
        assert there == {*range(MAX_CHAIN + 1), *range(90, 100)}
        stored = {oid: chosen.frame(oid) for oid in chosen.needed([digest(raws[number]) for number in there])}
        for number in there:
            chain = read_chain(digest(raws[number]), lambda at: memoryview(stored[at]))
            assert verified(XXH3_128, chain) == raws[number]
            assert chosen.alone(digest(raws[number])) == alone(raws[number])


def test_frames_over_a_chunk_that_lie_are_passed_over(tmp_path: Path) -> None:
    raws, frames = chained(5)
    broken = bytearray(frames[2])
    broken[-1] ^= 1
    head, payload = read_frame(memoryview(frames[3]))
    longer = bytes(512)
    stray = pack_head(replace(head, base=digest(longer))) + payload
    with Scanned(written(tmp_path / "file", [stray, *frames, alone(longer), bytes(broken), stray])) as file:
        chosen = found(file, [*raws, longer])
        assert all(digest(raw) in chosen for raw in raws)
