"""Targets: frames, chains of deltas, trees, nodes and commits, as a store or a peer may hand them over."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Final

import numpy as np
import xxhash

from casckpt.errors import MissingObjectError
from casckpt.history.listing import describe, whole_leaves
from casckpt.objects.chain import Link, decode_into, read_chain, read_link
from casckpt.objects.chooser import Choice
from casckpt.objects.codec import decode, encode
from casckpt.objects.commit import CommitObject, pack_commit, unpack_commit
from casckpt.objects.encoding import Base
from casckpt.objects.frame import DELTAS, MAGIC, MAX_PLANES, Codec, head_size, read_frame
from casckpt.objects.ids import XXH3_128, IdScheme, Kind
from casckpt.objects.node import NodeRef, StorageNode, chunk_bounds, pack_node, unpack_node
from casckpt.objects.paths import Globs, find, leaves, select
from casckpt.objects.tree import LIST, MAP, canonical, decode_tree, expand, references, shallow, write_tree
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Paged, TensorRecord, TreeRef, Typed, Value
from tests.objects.chunks import chunk_id, forced
from tests.trials.hostile.target import Target, joined, taken_apart

_ID: Final = 16
_FIXED: Final = 24
_NUMBERS: Final = tuple(
    struct.pack("<I", number) for number in (0, 1, 4, 255, 1 << 16, 1 << 26, 1 << 31, (1 << 32) - 1)
)

# A scheme that takes any bytes for those of any id: what an attacker makes of a hash that keeps out accidents only.
_answers: list[bytes] = []
BELIEVING: Final = IdScheme("xxh3_128", _ID, lambda kind, data: _answers[0])


# -- frames ------------------------------------------------------------------------------------------------------------


@cache
def frames() -> tuple[bytes, ...]:
    """A frame of every codec, and of every kind of object."""
    before = np.arange(100, dtype=np.float32).tobytes() + b"end"
    after = (np.arange(100, dtype=np.float32) * np.float32(1.001)).tobytes() + b"END"
    made: list[bytes] = [forced(chunk_id(before), before, Choice(Codec.PLANES), 4, None)]
    for codec in Codec:
        if codec in (Codec.RAW, Codec.ZSTD, Codec.CONSTANT):
            continue
        base = Base(chunk_id(before), memoryview(before), 0) if codec in DELTAS else None
        halves = (False, True) if codec in (Codec.ROTATED_PLANES, Codec.DELTA_PLANES, Codec.SORTED_DELTA) else (False,)
        made += [forced(chunk_id(after), after, Choice(codec, halved, np.float32(0.75)), 4, base) for halved in halves]
    made += [forced(chunk_id(one), one, Choice(Codec.CONSTANT), 4, None) for one in (b"abcd" * 40, b"\0" * 302)]
    for kind in Kind:
        for raw in (b"x" * 300, bytes(range(256)) * 2, b"a"):
            made.append(encode(kind, XXH3_128.digest(kind, raw), raw, "small"))
    return tuple(made)


def mend_frame(data: bytes, random: Random) -> bytes:
    """Lengths and the checksum of a frame's head put right."""
    if len(data) < _FIXED:
        return data
    head = bytearray(data)
    planes, has_base, id_size = head[9], head[10], head[7]
    if random.random() < 0.7:
        head[:5] = MAGIC + b"\1"
        id_size = head[7] = id_size if id_size in (16, 32) else 16
        planes = head[9] = planes if planes <= MAX_PLANES else planes % 10
        head[10], head[11] = has_base & 1, 0
        has_base = head[10]
    start = head_size(id_size, has_base=bool(has_base), planes=planes)
    if len(head) >= start and random.random() < 0.8:
        struct.pack_into("<I", head, 16, len(head) - start)
        if planes and random.random() < 0.7:  # the planes add up
            at = start - 4 * planes
            lengths = [*struct.unpack_from(f"<{planes}I", head, at)]
            lengths[random.randrange(planes)] += len(head) - start - sum(lengths)
            struct.pack_into(f"<{planes}I", head, at, *[length % (1 << 32) for length in lengths])
    struct.pack_into("<I", head, 20, 0)
    check = xxhash.xxh32_intdigest(bytes(head[:start]))
    struct.pack_into("<I", head, 20, check)
    return bytes(head)


def _mend_frames(data: bytes, random: Random) -> bytes:
    return joined([mend_frame(part, random) for part in taken_apart(data)])


def _object(data: bytes) -> None:
    head, _ = read_frame(memoryview(data))
    decode(XXH3_128, head.kind, head.id, memoryview(data))


def _chains() -> list[bytes]:
    """A delta and its base; a delta of itself; deltas of each other."""
    own = [one for one in frames() if read_frame(memoryview(one))[0].kind is Kind.CHUNK]
    base = own[0]
    pairs = [joined([one, base]) for one in own]
    loops = [one[:40] + one[24:40] + one[56:] for one in own if one[10]]  # based on itself
    return pairs + [joined([mend_frame(one, Random(0))]) for one in loops]


def _chain(data: bytes) -> None:
    held: dict[bytes, bytes] = {}
    for part in taken_apart(data):
        held.setdefault(part[24:40], part)

    def look_up(oid: bytes) -> memoryview:
        if oid not in held:
            raise MissingObjectError("missing")
        return memoryview(held[oid])

    for oid, frame in held.items():
        link: Link = read_link(oid, memoryview(frame))
        chain = read_chain(oid, look_up, link.head.raw_length)
        _answers[:] = [oid]
        decode_into(BELIEVING, chain, memoryview(bytearray(min(chain.length, 1 << 20))))
        return


# -- trees -------------------------------------------------------------------------------------------------------------


def record(length: int = 8, storage: bytes | NodeRef | None = None, **changes: object) -> TensorRecord:
    """A tensor of bytes; its storage stands in it unless another is given."""
    fields: dict[str, object] = {
        "dtype": "uint8",
        "shape": (length,),
        "stride": None,
        "offset": 0,
        "storage": bytes(length) if storage is None else storage,
        "alias": None,
        "flags": 0,
    }
    return TensorRecord(**(fields | changes))  # type: ignore[arg-type]


def values() -> list[Value]:
    """Values with everything in them that a tree can hold."""
    node = NodeRef(bytes(15) + b"\1", 64)
    return [
        Map((("a", 1), (0, 2.5), (("x", 1), [None, True, b"bytes"]), (1 << 70, "\ud800"), (Typed("k", 1), "v"))),
        [record(), record(64, node, alias=0), record(64, node, alias=0, shape=(4, 8), stride=(8, 2), offset=1)],
        (Typed("ordered_dict", Map((("w", record(dtype="float32", shape=(2,))),))), Typed("set", [1, 2])),
        Map(
            (
                ("array", ArrayRecord("<f4", (2,), False, False, bytes(8))),
                ("fields", ArrayRecord([("a", "<f4"), ("b", "|u1", (4,))], (1,), True, False, bytes(8))),
                ("scalar", ArrayRecord("<f8", (), False, True, bytes(8))),
                ("text", BlobRecord(True, node)),
                ("when", Typed("datetime", (2026, 1, 2, 3, 4, 5, 6, 0, None))),
                ("path", Typed("path:PurePosixPath", "a/b")),
                ("nt", Typed("named_tuple:m:C", Map((("x", 1),)))),
                ("sparse", Typed("torch.sparse", ("sparse_coo", (2,), False, 0, record(), record()))),
                ("decimal", Typed("decimal", "1.5")),
                ("deque", Typed("deque:3", [1, 2])),
                ("complex", Typed("complex", (1.0, 2.0))),
                ("fraction", Typed("fraction", (1, 2))),
                ("delta", Typed("timedelta", (1, 2, 3))),
                ("device", Typed("torch.device", "cpu")),
            )
        ),
        [[[[[[[["deep"]]]]]]]],
        [7] * 40,
    ]


def number(index: int) -> bytes:
    """The id of the n-th tree of an input."""
    return bytes((index,)).rjust(_ID, b"\0")


def _states() -> list[bytes]:
    """States of several trees that refer to each other by their place in the input; one leads to itself."""
    plain = [canonical(value) for value in values()]
    paged = [canonical(Paged(MAP, (number(1), number(2)))), b"\x93\x0a\xa1a\x01", b"\x95\x0a\xa1b\x02\xa1c\x03"]
    lists = [canonical(Paged(LIST, (number(1),) * 3)), b"\x93\x0a\x01\x02"]
    nested = [canonical([TreeRef(number(1)), TreeRef(number(2))]), *plain[:2]]
    loop = [canonical([TreeRef(number(1))]), canonical([TreeRef(number(0)), 1])]
    laughs = [canonical([TreeRef(number(index + 1))] * 2) for index in range(6)] + [plain[0]]
    return [
        joined(parts) for parts in ([plain[0]], [plain[1]], [plain[2]], [plain[3]], paged, lists, nested, loop, laughs)
    ]


def fetcher(data: bytes) -> Callable[[bytes], Value]:
    """Gives the trees of an input by their number."""
    parts = taken_apart(data)

    def fetch(oid: bytes) -> Value:
        at = int.from_bytes(oid, "big")
        if at >= len(parts):
            raise MissingObjectError("missing")
        return decode_tree(parts[at], _ID)

    return fetch


_GLOBS: Final = Globs(["*a*", "model.[a-w]?", "nt.*x"])


def _tree(data: bytes) -> None:
    value = decode_tree(data, _ID)
    for _ in references(value):
        pass
    canonical(value)


def _state(data: bytes) -> None:
    fetch = fetcher(data)
    root = fetch(number(0))
    shallow(root, fetch)
    find(root, "a.0", fetch)
    select(root, _GLOBS, fetch)
    for _, leaf in whole_leaves(expand(root, fetch)):
        describe(leaf)


def _inflated(data: bytes) -> None:
    from casckpt.tensors.inflate import inflate
    from casckpt.tensors.memory import Memory

    fetch = fetcher(data)
    value = expand(fetch(number(0)), fetch)
    small = all(
        not isinstance(leaf, (TensorRecord, ArrayRecord, BlobRecord)) or _is_small(leaf) for _, leaf in leaves(value)
    )
    if not small:  # memory for what a state says that it has is taken, where there is so much
        return
    memory = Memory.for_value(value)
    for target in memory.targets:
        target.out[:] = bytes(len(target.out))
    inflate(value, memory)


def _is_small(leaf: TensorRecord | ArrayRecord | BlobRecord) -> bool:
    return not isinstance(leaf.storage, NodeRef) or leaf.storage.length < 1 << 20


# -- nodes and commits -------------------------------------------------------------------------------------------------


def _nodes() -> list[bytes]:
    nodes = [
        StorageNode(1000, 256, bytes(64)),
        StorageNode(1, 1 << 20, bytes(16)),
        StorageNode(1 << 16, 256, bytes(4096)),
    ]
    return [pack_node(node) for node in nodes]


def _node(data: bytes) -> None:
    node = unpack_node(data, _ID)
    assert len(node.ids()) == sum(1 for _ in chunk_bounds(node.length, node.chunk_size))


def _commits() -> list[bytes]:
    plain = CommitObject(bytes(16), (), "main", None, (), "", 1_700_000_000_000_000_000, "host", Map(()))
    full = CommitObject(
        b"t" * 16,
        (b"p" * 16, b"q" * 16),
        "try/lr",
        1000,
        (("loss", 1.5), ("nan", float("nan"))),
        "a message\n\x1b[31mof lines",
        -5,
        "h",
        Map((("git", "a1b2"), ("nested", Map((("x", [1, (2.5, None)]),))))),
    )
    return [pack_commit(plain), pack_commit(full)]


def _commit(data: bytes) -> None:
    from casckpt.cli.document import commit_fields, dumps
    from casckpt.history.commits import present
    from casckpt.history.records import WHOLE

    dumps(commit_fields(present(bytes(16), unpack_commit(data, _ID), WHOLE, None)))


def _whole_trees() -> list[bytes]:
    made: list[bytes] = []
    for value in values():

        def emit(raw: bytes) -> bytes:
            made.append(raw)
            return XXH3_128.digest(Kind.TREE, raw)

        write_tree(value, (), emit)
    return made


TARGETS: Final[Sequence[Target]] = (
    Target("frame", frames, lambda data: read_frame(memoryview(data)), mend_frame, _NUMBERS),
    Target("object", frames, _object, mend_frame, _NUMBERS),
    Target("chain", _chains, _chain, _mend_frames, _NUMBERS, parts=True),
    Target("tree", _whole_trees, _tree),
    Target("state", _states, _state, parts=True),
    Target("inflate", _states, _inflated, parts=True),
    Target("node", _nodes, _node),
    Target("commit", _commits, _commit),
)
