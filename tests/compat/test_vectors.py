"""The test vectors in docs/format.md are what casckpt writes, and what the independent reader reads."""

from __future__ import annotations

import re

import msgpack
import pytest

from casckpt.objects.codec import decode
from casckpt.objects.frame import DELTAS, Codec
from casckpt.objects.ids import Kind, id_scheme
from tests.compat.reader.objects import object_id, read_frame, unpack
from tests.compat.reader.store import Store
from tests.compat.reader.values import Mapping, State, Tensor, Typed
from tests.compat.vectors import AFTER, BEFORE, CODED, HALVED, STORAGE, UUID, ZSTD, ZSTD_PLANES, vectors
from tests.objects.chunks import Frames, chunk_id
from tests.processes import ROOT

NUMBERS = b"".join(number.to_bytes(2, "little") for number in range(300))
BLOCK = (ROOT / "docs" / "format.md").read_text().partition("## Test vectors")[2].partition("```text\n")[2]
PAGE = {
    found[1]: bytes.fromhex(found[2])
    for found in re.finditer(r"^(\S.*)\n((?: {4}[0-9a-f]+\n)+)", BLOCK.partition("```")[0], re.MULTILINE)
}


def test_the_vectors_of_the_page_are_what_casckpt_writes() -> None:
    assert vectors() == PAGE
    assert decode(id_scheme("xxh3_128"), Kind.CHUNK, ZSTD[24:40], memoryview(ZSTD)) == bytes(300)
    frames = Frames()
    frames.force(BEFORE, Codec.RAW, 1)
    for codec, (_, raw) in CODED.items():
        frames.held[chunk_id(raw)] = PAGE[f"frame with codec {codec:d}, xxh3_128"]
        assert frames.decoded(raw) == raw
    for codec in HALVED:
        frames.held[chunk_id(AFTER)] = PAGE[f"frame with codec {codec:d} in halves, xxh3_128"]
        assert frames.decoded(AFTER) == AFTER and frames.chain(AFTER).links[0].is_halved
    frames.held[chunk_id(NUMBERS)] = ZSTD_PLANES
    assert frames.decoded(NUMBERS) == NUMBERS


def test_the_reader_reads_the_frames_of_the_page_by_every_codec() -> None:
    before, after = PAGE["chunk before"], PAGE["chunk after"]
    asked = []

    def base(oid: bytes) -> bytes:
        asked.append(oid)
        return before

    for codec, (_, raw) in CODED.items():
        frame = PAGE[f"frame with codec {codec:d}, xxh3_128"]
        assert read_frame("chunk", frame, base) == (object_id("xxh3_128", "chunk", raw), raw)
    for codec in HALVED:
        frame = PAGE[f"frame with codec {codec:d} in halves, xxh3_128"]
        assert read_frame("chunk", frame, base) == (object_id("xxh3_128", "chunk", after), after)
    assert set(asked) == {object_id("xxh3_128", "chunk", before)} and len(asked) == len(DELTAS) + 2
    zstd = PAGE["frame with codec 2 and planes by zstd, xxh3_128"]
    assert read_frame("chunk", zstd) == (object_id("xxh3_128", "chunk", NUMBERS), NUMBERS)
    assert after == AFTER and {codec for codec in Codec if codec > 1} == set(CODED)


@pytest.mark.parametrize("hash", ["xxh3_128", "blake3"])
def test_the_reader_reads_the_vectors_of_the_page(hash: str) -> None:
    def vector(name: str) -> bytes:
        return PAGE[f"{name}, {hash}"]

    assert vector("id of the chunk") == object_id(hash, "chunk", b"casckpt")
    assert vector("id of the same bytes as a tree") == object_id(hash, "tree", b"casckpt")
    assert read_frame("chunk", vector("frame of the chunk")) == (vector("id of the chunk"), b"casckpt")
    assert vector("id of the state") == object_id(hash, "tree", PAGE["state"])
    length, size, ids = unpack(vector("node"))
    first, second = object_id(hash, "chunk", STORAGE[:256]), object_id(hash, "chunk", STORAGE[256:])
    assert (length, size, ids) == (300, 256, first + second)
    assert vector("id of the node") == object_id(hash, "node", vector("node"))
    *fields, meta = unpack(vector("commit"))
    assert fields == [vector("id of the state"), [], "main", 7, [["loss", 0.5]], "hi", 1_700_000_000 * 10**9, "h"]
    assert State(None).value(unpack(meta), 0) == Mapping([("git", "a1b2c3")])
    assert vector("id of the commit") == object_id(hash, "commit", vector("commit"))


def test_the_reader_reads_the_state_and_the_records_of_the_page() -> None:
    class Nothing:
        """No tree or storage stands outside of this state."""

    read = State(Nothing()).value(unpack(PAGE["state"]), 0)  # type: ignore[arg-type]  # none of it is asked for
    assert repr(read.entries[1]) == "(0, (True, None, -0.0))"
    tensor = Tensor("float32", [2, 1], [1, 1], 0, bytes.fromhex("0000803f000000c0"), None, 1)
    assert read.entries[0] == ("w", tensor) and read.entries[2:] == [
        ("big", 2**64),
        ("when", Typed("date", (2026, 1, 2))),
    ]
    zeros = PAGE["frame with codec 1, xxh3_128"]
    assert read_frame("chunk", zeros) == (object_id("xxh3_128", "chunk", bytes(300)), bytes(300))
    assert State(None).value(unpack(PAGE["key that is a tuple"]), 0) == ("a", 1)
    form = msgpack.unpackb(PAGE["format record"])
    assert form == {
        "version": 3,
        "uuid": UUID,
        "hash": "xxh3_128",
        "chunk_size": 2**20,
        "codec": "auto",
        "map_size": 2**44,
    }
    assert PAGE["mark"][:8] == b"casmark1" and int.from_bytes(PAGE["mark"][24:32], "little") == 258
    assert unpack(PAGE["entry of the reflog"]) == [1, "branch/main", None, bytes(16), "commit"]
    store = Store.__new__(Store)
    store.format = {"version": 3}
    entry, branch = PAGE["the same as entry 7, with its check"], PAGE["the branch main at 16 zeros, with its check"]
    assert store._value("reflog", (7).to_bytes(8, "big"), entry) == PAGE["entry of the reflog"]
    assert store._value("ref", b"branch/main", branch) == bytes(16)
