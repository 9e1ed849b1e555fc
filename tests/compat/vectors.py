"""The test vectors of docs/format.md, as casckpt computes them: `python -m tests.compat.vectors` prints them."""

from __future__ import annotations

import textwrap
import uuid

import msgspec

from casckpt.objects.codec import encode
from casckpt.objects.commit import CommitObject, pack_commit
from casckpt.objects.ids import SCHEMES, Kind, id_scheme
from casckpt.objects.node import StorageNode, pack_node
from casckpt.objects.tree import canonical, write_tree
from casckpt.objects.values import Map, TensorRecord, Typed
from casckpt.store.format import encode_format
from casckpt.store.mark import Mark, _encode
from casckpt.store.protocol import StoreFormat

CHUNK = b"casckpt"
STORAGE = bytes(range(256)) + bytes(44)
UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"
# What zstd makes of bytes may change with its version; this is one way to say 300 zeros.
ZSTD = bytes.fromhex(
    "f1434b4601010110000000002c01000012000000ca6d7ebca5803352bf66c516629af657b1c7a1ec28b52ffd602c0045"
    "000008000100282a1002"
)
TENSOR = TensorRecord("float32", (2, 1), None, 0, bytes.fromhex("0000803f000000c0"), None, 1)
STATE = Map((("w", TENSOR), (0, (True, None, -0.0)), ("big", 2**64), ("when", Typed("date", (2026, 1, 2)))))


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
    found["key that is a tuple"] = canonical(("a", 1))
    found["format record"] = encode_format(StoreFormat(1, UUID, "xxh3_128", 1 << 20, "auto", 1 << 44))
    found["mark"] = _encode(Mark(str(uuid.UUID(UUID)), 258))
    found["entry of the reflog"] = msgspec.msgpack.encode((1, "branch/main", None, bytes(16), "commit"))
    return found


def main() -> None:
    for name, raw in vectors().items():
        print(name, *textwrap.wrap(raw.hex(), 96), sep="\n    ")


if __name__ == "__main__":
    main()
