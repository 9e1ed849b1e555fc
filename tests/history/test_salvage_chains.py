"""Chains of deltas in a damaged file: each link is decoded about once, and none is written that no reader follows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import casckpt
from casckpt.history.repository import History
from casckpt.history.salvage import chunks
from casckpt.history.salvage.chunks import Chunks
from casckpt.history.salvage.remains import Remains, look_through
from casckpt.limits import MAX_CHAIN
from casckpt.objects.chain import Chain, read_chain, verified
from casckpt.objects.codec import encode
from casckpt.objects.encoding import Base, encode_chunk
from casckpt.objects.frame import head_size, pack_head, read_frame, read_head
from casckpt.objects.ids import XXH3_128, IdScheme, Kind
from casckpt.objects.words import Words
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import no_progress
from casckpt.store.scan import Scanned
from tests.history.damage import steps
from tests.history.world import commit, load


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
    assert decoded <= (2 * 400 if held is None else 400 * MAX_CHAIN)


def test_a_chain_that_no_reader_follows_is_ended_by_chunks_that_are_made_anew(tmp_path: Path) -> None:
    raws, frames = chained(200)
    frames.append(alone(raws[190]))
    with Scanned(written(tmp_path / "file", frames)) as file:
        chosen = found(file, raws)
        stored = {oid: chosen.frame(oid) for oid in chosen.needed([digest(raw) for raw in raws])}
        assert list(stored)[:2] == [digest(raws[0]), digest(raws[190])]
        for raw in raws:
            chain = read_chain(digest(raw), lambda at: memoryview(stored[at]))
            assert verified(XXH3_128, chain) == raw
            assert chosen.alone(digest(raw)) == alone(raw)
        bases = [read_head(frame)[0].base for frame in stored.values()]
        assert bases.count(None) == 4  # the first, the copy, and two that were made


def test_so_many_frames_are_made_anew_and_the_rest_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raws, frames = chained(200)
    monkeypatch.setattr(chunks, "_ANEW", 2 * len(alone(raws[0])) - 1)
    with Scanned(written(tmp_path / "file", frames)) as file:
        chosen = found(file, raws)
        there = [number for number, raw in enumerate(raws) if digest(raw) in chosen]
        assert there == list(range(2 * (MAX_CHAIN + 1)))
        assert list(chosen.needed([digest(raw) for raw in raws])) == [digest(raws[number]) for number in there]


def test_a_commit_over_such_a_chain_comes_back(tmp_path: Path) -> None:
    with History(open_store(tmp_path / "store", chunk_size=256)) as history:
        runs = steps(100)
        for step, run in enumerate(runs):
            commit(history, {"model": {"w": run}}, step=step)
    data = bytearray((tmp_path / "store" / "data.mdb").read_bytes())
    for one, base in zip(runs[:0:-1], runs[-2::-1], strict=True):  # each frame, but of the first, is a delta now
        for at in (0, 256, 512):
            frame = delta(one[at : at + 256], base[at : at + 256])
            old = alone(one[at : at + 256])
            while (where := data.find(old)) >= 0:
                data[where : where + len(old)] = frame.ljust(len(old), b"\0")
    (tmp_path / "file").write_bytes(data)
    report = casckpt.salvage(tmp_path / "file", tmp_path / "new")
    assert report.whole == 100 and not report.hurt
    with History(open_store(tmp_path / "new", create=False)) as history:
        assert history.fsck(read_data=True).ok
        assert [load(history, one.id) for one in history.log()] == [{"model": {"w": run}} for run in runs[::-1]]


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
