"""Stores whose objects have the ids that their bytes give, and whose contents are made to harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import msgspec

from casckpt.history.records import get_ref
from casckpt.history.repository import History
from casckpt.objects.codec import encode
from casckpt.objects.commit import CommitObject, pack_commit
from casckpt.objects.frame import Codec, FrameHead, pack_head
from casckpt.objects.ids import Kind
from casckpt.objects.node import NodeRef, StorageNode, pack_node
from casckpt.objects.paths import escape
from casckpt.objects.tree import LIST, MAP, canonical
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Paged, TreeRef, Typed, Value
from casckpt.objects.zstd import compressor
from casckpt.store.checked import CHECKED_SPACES, with_check
from casckpt.store.protocol import Space
from tests.trials.hostile import objects
from tests.trials.hostile.mutate import mutated

ESCAPES: Final = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\x00\u202e\ud800"
NAMES: Final = (
    *("..", "../../etc/passwd", "/etc/passwd", "a\0b", "a/b", "x" * 5000, "Weight", "weight", "WEIGHT", "con", "", "."),
    *("C:\\x", "~", "-rf", "*", "$(touch ran)", "a\nb", ESCAPES, "__metadata__", "__casckpt__", "file", "é", "e\u0301"),
)


@dataclass
class Planter:
    """Puts objects into a store behind the history's back, right or wrong, in one transaction."""

    history: History
    writer: Any

    def put(self, kind: Kind, raw: bytes, mode: str = "auto") -> bytes:
        """An object; returns its id."""
        oid = self.history.scheme.digest(kind, raw)
        self.writer.put(Space[kind.name], oid, encode(kind, oid, raw, mode))
        return oid

    def tree(self, value: Value | bytes) -> bytes:
        """A tree object."""
        return self.put(Kind.TREE, value if isinstance(value, bytes) else canonical(value))

    def node(self, length: int, chunk_size: int, chunks: bytes) -> NodeRef:
        """A storage node."""
        return NodeRef(self.put(Kind.NODE, pack_node(StorageNode(length, chunk_size, chunks)), "small"), length)

    def chunk(self, raw: bytes) -> bytes:
        """A chunk; returns its id."""
        return self.put(Kind.CHUNK, raw)

    def commit(self, tree: bytes, **changes: Any) -> bytes:
        """A commit that follows the one before; the branch moves to it."""
        before = get_ref(self.writer, "branch/main")
        fields: dict[str, Any] = {
            "tree": tree,
            "parents": () if before is None else (before,),
            "branch": "main",
            "step": 1,
            "metrics": (("loss", 1.0),),
            "message": "planted",
            "time": 1_700_000_000_000_000_000,
            "host": "host",
            "meta": Map(()),
        }
        oid = self.put(Kind.COMMIT, pack_commit(CommitObject(**(fields | changes))))
        self.record(Space.REF, b"branch/main", oid)
        return oid

    def record(self, space: Space, key: bytes, value: bytes) -> None:
        """A record with its check."""
        self.writer.put(space, key, with_check(space, key, value))


Plant = Callable[[Planter, Random], None]


def _state(planter: Planter, random: Random, item: Value) -> None:
    """Two commits that hold it, in different places, so that a diff follows both."""
    for number in range(2):
        planter.commit(planter.tree(Map((("model", item), ("n", number)))))


def _laughs(planter: Planter, random: Random) -> None:
    for leaf in range(2):
        oid = planter.tree(Map((("w", objects.record()), ("n", leaf))))
        for _ in range(random.choice((5, 40, 90))):
            oid = planter.tree([TreeRef(oid)] * random.choice((2, 3)))
        planter.commit(planter.tree(Map((("model", TreeRef(oid)),))))


def _deep(planter: Planter, random: Random) -> None:
    levels = random.choice((99, 101, 400))
    for leaf in range(2):
        oid = planter.tree([leaf])
        for _ in range(levels):
            oid = planter.tree(
                [TreeRef(oid)] if random.random() < 0.5 else Typed("ordered_dict", Map((("a", TreeRef(oid)),)))
            )
        planter.commit(oid)


def _pages(planter: Planter, random: Random) -> None:
    count = random.choice((3, 1001, 1 << 14))
    head = b"\xdd" + count.to_bytes(4, "big") + random.choice((b"\x0a", b"\x0a", b"\x0b"))
    page = planter.tree(head + b"\xc0" * (count - 1))
    tag = random.choice((LIST, MAP))
    _state(planter, random, TreeRef(planter.tree(Paged(tag, (page,) * random.choice((2, 30, 100_000))))))


def _chunks(planter: Planter, random: Random) -> None:
    """One chunk a million times, and less than it says."""
    count = 1 << random.choice((4, 12, 17))
    chunk = planter.chunk(bytes(256))
    ref = planter.node(count * 256, 256, chunk * count)
    _state(planter, random, objects.record(ref.length, ref))


def _sizes(planter: Planter, random: Random) -> None:
    """Records and nodes that promise more than there is."""
    chunk = planter.chunk(b"x" * 300)
    length = random.choice((1 << 20, 1 << 34, 1 << 60))
    good = planter.node(300, 4096, chunk)
    big = planter.node(1 << 26, 1 << 26, chunk)
    for storage in (NodeRef(good.id, length), big, NodeRef(chunk, 300)):
        dtype = random.choice(("uint8", "float32", "float64"))
        _state(planter, random, objects.record(1, storage, dtype=dtype, shape=(storage.length // 8,)))


def _shapes(planter: Planter, random: Random) -> None:
    storage = bytes(64)
    huge = 1 << 61
    shapes: list[tuple[tuple[int, ...], tuple[int, ...] | None, int]] = [
        ((huge, huge), (0, 0), 0),
        ((1 << 31, 1 << 31), (0, 0), 0),
        ((4, 4), (1, 1), 0),
        ((4, 4), (0, 1), 60),
        ((64,), None, 1),
        ((0, huge, huge), None, 0),
        ((0,), None, huge),
        ((1,) * 64, None, 0),
        ((huge,), (0,), 0),
    ]
    for shape, stride, offset in random.sample(shapes, 3):
        _state(planter, random, objects.record(64, storage, shape=shape, stride=stride, offset=offset))
    planter.commit(planter.tree(Map((("a", ArrayRecord("<f8", (huge, huge), False, False, bytes(8))),))))


def _names(planter: Planter, random: Random) -> None:
    names = random.sample(NAMES, 12)
    _state(planter, random, Map(tuple([(name, objects.record(4)) for name in names])))
    nested = Map(tuple([(name, Map(((escape(name) + ".x", objects.record(2)),))) for name in names]))
    _state(planter, random, nested)


def _texts(planter: Planter, random: Random) -> None:
    """Text that a terminal would obey, wherever a commit and its state have text."""
    text = ESCAPES.replace("\ud800", "")
    big = 10**5000
    state: Value = Map(
        (
            (ESCAPES, Typed(f"user:{text}", ESCAPES)),
            (Typed(text, text), Map((((text, big), [big, text]),))),
            ("blob", BlobRecord(True, text.encode())),
            ("array", ArrayRecord(text, (1,), False, False, b"x")),
        )
    )
    for _ in range(2):
        planter.commit(
            planter.tree(state),
            message=f"{text}\n{text}",
            host=text,
            metrics=((text, float("nan")), ("inf", float("inf"))),
            meta=Map(((text, [text, big, -0.0, b"\xff"]),)),
            step=random.choice((None, -1, (1 << 64) - 1, 0)),
            time=random.choice((0, -(1 << 63), (1 << 64) - 1)),
        )
        state = Map((("x", state),))


def _rows(planter: Planter, random: Random) -> None:
    """Rows beside the objects that nobody of ours wrote."""
    tip = get_ref(planter.writer, "branch/main")
    assert tip is not None
    escapes = "branch/\x1b[31m"
    move = (
        1,
        random.choice((escapes, "branch/main", "x", "")),
        random.choice((None, tip, b"")),
        b"\1" * 600,
        "\x1b[31m",
    )
    rows = [
        (Space.REFLOG, (99).to_bytes(8, "big"), msgspec.msgpack.encode(move)),
        (Space.MARK, tip, msgspec.msgpack.encode((False, ("\x1b[31m", "model")))),
        (Space.FIGURES, tip, msgspec.msgpack.encode((-1, 1 << 63, -(1 << 63), 5, 5))),
        (Space.REF, b"tag/v1", b""),
        (Space.REF, b"branch/\x1b", tip),
        (Space.REF, b"branch/x", b"\1" * 16),
        (Space.META, b"gc_epoch", b"\xff" * 8),
        (Space.CHUNK, b"k", b"v"),
        (Space.BASE, b"k", b"v" * 600),
        (Space.DEPENDANT, b"k", b""),
    ]
    for space, key, value in random.sample(rows, 2):
        is_checked = space in CHECKED_SPACES or space is Space.META
        (planter.record if is_checked and random.random() < 0.9 else planter.writer.put)(space, key, value)


def _deltas(planter: Planter, random: Random) -> None:
    """Deltas of each other, or of a hundred others, of which none can be what its id says."""
    count = random.choice((1, 2, 70, 200))
    ids = [bytes((7, number)).ljust(16, b"d") for number in range(count)]
    payload = b"\0" * 40
    for number, oid in enumerate(ids):
        base = ids[(number + 1) % count] if random.random() < 0.9 else planter.chunk(b"q" * 300)
        head = FrameHead(Kind.CHUNK, Codec.DELTA_PLANES, oid, 300, len(payload), base, 1, (len(payload),))
        planter.writer.put(Space.CHUNK, oid, pack_head(head) + payload)
        planter.writer.put(Space.BASE, oid, base)
        planter.writer.put(Space.DEPENDANT, base + oid, b"")
    ref = planter.node(300, 4096, ids[0])
    _state(planter, random, objects.record(300, ref))


def _bombs(planter: Planter, random: Random) -> None:
    """Frames that become as long as they may, out of a few kilobytes, or say that they do."""
    kind = random.choice((Kind.TREE, Kind.COMMIT, Kind.NODE, Kind.CHUNK))
    length = random.choice((1 << 20, 1 << 24, (1 << 31) - 1))
    packed = compressor(3).compress(
        b"\xdd" + (min(length, 1 << 24) - 5).to_bytes(4, "big") + b"\x01" * (min(length, 1 << 24) - 5)
    )
    oid = bytes((9,)) * 16
    planter.writer.put(Space[kind.name], oid, pack_head(FrameHead(kind, Codec.ZSTD, oid, length, len(packed))) + packed)
    if kind is Kind.COMMIT:
        planter.record(Space.REF, b"tag/bomb", oid)
    elif kind is Kind.TREE:
        planter.commit(oid)
    else:
        ref = NodeRef(oid, 300) if kind is Kind.NODE else planter.node(300, 4096, oid)
        _state(planter, random, objects.record(300, ref))


def _spoilt(planter: Planter, random: Random) -> None:
    """Trees and commits that are nearly right."""
    trees, commits = (next(one for one in objects.TARGETS if one.name == name) for name in ("tree", "commit"))
    for _ in range(4):
        planter.commit(planter.tree(mutated(random, trees, trees.seeds())))
    oid = planter.put(Kind.COMMIT, mutated(random, commits, commits.seeds()))
    planter.record(Space.REF, b"tag/spoilt", oid)


PLANTS: Final[dict[str, Plant]] = {
    "laughs": _laughs,
    "deep": _deep,
    "pages": _pages,
    "chunks": _chunks,
    "sizes": _sizes,
    "shapes": _shapes,
    "names": _names,
    "texts": _texts,
    "rows": _rows,
    "deltas": _deltas,
    "bombs": _bombs,
    "spoilt": _spoilt,
}
