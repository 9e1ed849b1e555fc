"""The test vectors of docs/format.md, as casckpt computes them: `python -m tests.compat.vectors` prints them."""

from __future__ import annotations

import struct
import textwrap
import uuid

import msgspec
import numpy as np

from casckpt.objects.chooser import Choice
from casckpt.objects.codec import encode
from casckpt.objects.commit import CommitObject, pack_commit
from casckpt.objects.encoding import Base
from casckpt.objects.frame import DELTAS, Codec
from casckpt.objects.ids import SCHEMES, Kind, id_scheme
from casckpt.objects.node import StorageNode, pack_node
from casckpt.objects.tree import canonical, write_tree
from casckpt.objects.values import Map, TensorRecord, Typed
from casckpt.store.checked import with_check
from casckpt.store.format import encode_format
from casckpt.store.mark import Mark, _encode
from casckpt.store.protocol import Space, StoreFormat
from tests.objects.chunks import forced

CHUNK = b"casckpt"
STORAGE = bytes(range(256)) + bytes(44)
UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"
# What zstd makes of bytes may change with its version; this is one way to say 300 zeros.
ZSTD = bytes.fromhex(
    "f1434b4601010110000000002c01000012000000ca6d7ebca5803352bf66c516629af657b1c7a1ec28b52ffd602c0045"
    "000008000100282a1002"
)
# Likewise, of the 300 words of two bytes from 0 to 299, the upper plane.
ZSTD_PLANES = bytes.fromhex(
    "f1434b46010102100202000058020000420100005e66700c929eab434b75dec44094d36e15d7e2ce2c01000016000000"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
    "303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"
    "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e8f"
    "909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
    "c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeef"
    "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "202122232425262728292a2b28b52ffd602c006500001800000102000053ec298005"
)
TENSOR = TensorRecord("float32", (2, 1), None, 0, bytes.fromhex("0000803f000000c0"), None, 1)
STATE = Map((("w", TENSOR), (0, (True, None, -0.0)), ("big", 2**64), ("when", Typed("date", (2026, 1, 2)))))

# Five float32, the fourth of them denormal, and a tail; then the chunk that comes after it.
BEFORE = struct.pack("<5f", 1.0, -1.5, 0.5, 1e-39, float("inf")) + b"abc"
AFTER = struct.pack("<3I", 0x3F400002, 0xBF900000, 0x3EC00001) + BEFORE[12:20] + b"end"
CONSTANT = b"\1\2\3\4" * 4 + b"\1\2"
CODED = {
    Codec.PLANES: (2, AFTER),
    Codec.DELTA_PLANES: (4, AFTER),
    Codec.SPARSE_DELTA: (4, AFTER),
    Codec.CONSTANT: (4, CONSTANT),
    Codec.ROTATED_PLANES: (4, AFTER),
    Codec.SCALED_DELTA: (4, AFTER),
    Codec.SORTED_DELTA: (4, AFTER),
}


HALVED = (Codec.DELTA_PLANES, Codec.ROTATED_PLANES, Codec.SORTED_DELTA)


def coded(codec: Codec, halved: bool = False) -> bytes:
    """The frame of a chunk by a codec, its planes too short for zstd to make them shorter."""
    width, raw = CODED[codec]
    base = Base(id_scheme("xxh3_128").digest(Kind.CHUNK, BEFORE), memoryview(BEFORE), 0)
    oid = id_scheme("xxh3_128").digest(Kind.CHUNK, raw)
    return forced(oid, raw, Choice(codec, halved, np.float32(0.75)), width, base if codec in DELTAS else None)


def vectors() -> dict[str, bytes]:
    """Every vector by its name, in the order of the page."""
    found: dict[str, bytes] = {"chunk": CHUNK, "state": write_tree(STATE, [], lambda raw: raw)}
    by_hash: dict[str, dict[str, bytes]] = {}
    for name in SCHEMES:
        scheme = id_scheme(name)
        chunks = b"".join(scheme.digest(Kind.CHUNK, part) for part in (STORAGE[:256], STORAGE[256:]))
        node = pack_node(StorageNode(len(STORAGE), 256, chunks))
        commit = pack_commit(
            CommitObject(
                tree=scheme.digest(Kind.TREE, found["state"]),
                parents=(),
                branch="main",
                step=7,
                metrics=(("loss", 0.5),),
                message="hi",
                time=1_700_000_000_000_000_000,
                host="h",
                meta=Map((("git", "a1b2c3"),)),
            )
        )
        by_hash[name] = {
            "id of the chunk": scheme.digest(Kind.CHUNK, CHUNK),
            "id of the same bytes as a tree": scheme.digest(Kind.TREE, CHUNK),
            "frame of the chunk": encode(Kind.CHUNK, scheme.digest(Kind.CHUNK, CHUNK), CHUNK, "none"),
            "id of the state": scheme.digest(Kind.TREE, found["state"]),
            "node": node,
            "id of the node": scheme.digest(Kind.NODE, node),
            "commit": commit,
            "id of the commit": scheme.digest(Kind.COMMIT, commit),
        }
    found |= {f"{what}, {name}": raw for name, made in by_hash.items() for what, raw in made.items()}
    found["frame with codec 1, xxh3_128"] = ZSTD
    found["chunk before"], found["chunk after"] = BEFORE, AFTER
    found |= {f"frame with codec {codec:d}, xxh3_128": coded(codec) for codec in CODED}
    found |= {f"frame with codec {codec:d} in halves, xxh3_128": coded(codec, halved=True) for codec in HALVED}
    found["frame with codec 2 and planes by zstd, xxh3_128"] = ZSTD_PLANES
    found["key that is a tuple"] = canonical(("a", 1))
    found["format record"] = encode_format(StoreFormat(3, UUID, "xxh3_128", 1 << 20, "auto", 1 << 44))
    found["mark"] = _encode(Mark(str(uuid.UUID(UUID)), 258))
    entry = msgspec.msgpack.encode((1, "branch/main", None, bytes(16), "commit"))
    found["entry of the reflog"] = entry
    found["the same as entry 7, with its check"] = with_check(Space.REFLOG, (7).to_bytes(8, "big"), entry)
    found["the branch main at 16 zeros, with its check"] = with_check(Space.REF, b"branch/main", bytes(16))
    return found


def main() -> None:
    for name, raw in vectors().items():
        print(name, *textwrap.wrap(raw.hex(), 96), sep="\n    ")


if __name__ == "__main__":
    main()
