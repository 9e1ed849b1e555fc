"""Inputs that hypothesis makes up: values, frames and headers from the ground up, rather than changes of what is there.

Each seed is a run of examples on one strategy, the strategies in turn, in a child as the mutations are.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from casckpt.objects.frame import MAGIC, Codec
from casckpt.objects.ids import Kind
from tests.trials.hostile import fuzz
from tests.trials.hostile.child import Case, in_child
from tests.trials.hostile.objects import mend_frame
from tests.trials.hostile.target import Target, joined
from tests.trials.recipe import Recipe

EXAMPLES: Final = 150

_extents = st.sampled_from([0, 1, 2, 8, 63, 64, 65, (1 << 31) - 1, 1 << 31, 1 << 61, 1 << 62, (1 << 64) - 1, -1])
_ids = st.integers(0, 3).map(lambda number: number.to_bytes(16, "big")) | st.binary(max_size=17)
_plain = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=3)
_storages = st.binary(max_size=64) | st.tuples(_ids, _extents)
_dtypes = st.sampled_from(["uint8", "float32", "complex128", "bool", "float4_e2m1fn_x2", "none", ""])
_shapes = st.lists(_extents, max_size=3)
_tensors = st.tuples(
    st.just(5), _dtypes, _shapes, st.none() | _shapes, _extents, _storages, st.none() | _extents, st.integers(0, 4)
)
_described = st.sampled_from(["<f4", "|O", "|V0", ">i8", "<M8[s]", "|S3", "float32", "", "<U9999999999", "(3,)f4"])
_arrays = st.tuples(st.just(6), _described, st.tuples(_shapes, st.booleans(), st.booleans(), _storages))
_types = st.sampled_from(
    [
        *(
            "set",
            "frozenset",
            "ordered_dict",
            "counter",
            "deque:2",
            "deque:-1",
            "default_dict:eval",
            "default_dict:int",
        ),
        *(
            "datetime",
            "date",
            "time",
            "timedelta",
            "timezone",
            "decimal",
            "fraction",
            "complex",
            "bytearray",
            "metadata",
        ),
        *("path:PosixPath", "path:os", "torch.sparse", "torch.dtype", "torch.device", "torch.size", "torch.function"),
        *(
            "named_tuple:os:system",
            "named_tuple::x y",
            "named_tuple:a:def",
            "user:x",
            "long_long",
            "numpy.str",
            "x:y",
            "",
        ),
    ]
)
_values: st.SearchStrategy[Any] = st.recursive(
    _plain | _tensors | _arrays | st.tuples(st.just(7), st.booleans(), _storages) | st.tuples(st.just(8), _ids),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: [1, *items])
        | st.lists(inner, max_size=4).map(lambda items: [2, *items])
        | st.lists(st.tuples(_plain | inner, inner), max_size=3).map(
            lambda pairs: [3, *[x for pair in pairs for x in pair]]
        )
        | st.tuples(st.just(4), _types, inner)
        | st.tuples(st.just(9), st.sampled_from([1, 2, 3, 4]), st.lists(_ids, max_size=3))
        | st.lists(inner, max_size=3).map(lambda items: [10, *items])
    ),
    max_leaves=12,
)
_trees = _values.map(msgspec.msgpack.encode)


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    """Any head, its lengths and its checksum right, over payloads of which some are zstd's."""
    planes = draw(st.lists(st.binary(max_size=40), max_size=10))
    head = MAGIC + bytes((1, draw(st.sampled_from(Kind)), draw(st.sampled_from(Codec)), 16))
    head += bytes((draw(st.sampled_from([0, 1, 2, 4, 8, 16])), len(planes), draw(st.booleans()), 0))
    lengths = struct.pack("<III", draw(st.integers(0, 700) | _extents.map(lambda n: n % (1 << 32))), 0, 0)
    ids = bytes(16) + (bytes(16) if head[10] else b"")
    table = struct.pack(f"<{len(planes)}I", *map(len, planes))
    return mend_frame(head + lengths + ids + table + b"".join(planes), _Never())


class _Never:
    """A generator that always mends."""

    def random(self) -> float:
        return 0.0

    def randrange(self, *bounds: int) -> int:
        return 0


_fields = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "U8", "BOOL", "F4", "C64", "F128", 3, None]),
        "shape": st.lists(_extents | st.just("x"), max_size=3) | st.none(),
        "data_offsets": st.lists(st.sampled_from([0, 8, 16, 64, -1, 1 << 63, 1 << 64]), max_size=3),
    },
)
_headers = st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), _fields | _plain, max_size=4).map(
    lambda header: joined([json.dumps(header).encode(), bytes(64)])
)
_words = st.sampled_from(
    [*"*?[]\\.!-~^@{}:", "main", "step:", "best:", "loss", "HEAD", "a", "7", "@{1}", "~1", "v1", "\n"]
)
_texts = st.lists(_words, max_size=12).map(lambda words: "".join(words).encode())

STRATEGIES: Final[tuple[tuple[str, str, st.SearchStrategy[bytes]], ...]] = (
    ("objects", "tree", _trees),
    ("objects", "state", st.lists(_trees, min_size=1, max_size=4).map(joined)),
    ("objects", "inflate", st.lists(_trees, min_size=1, max_size=4).map(joined)),
    ("objects", "object", _frames()),
    ("objects", "chain", st.lists(_frames(), min_size=1, max_size=3).map(joined)),
    ("texts", "revision", _texts),
    ("texts", "globs", st.lists(_texts, min_size=1, max_size=3).map(joined)),
    ("texts", "path", _texts),
    ("files", "safetensors-header", _headers),
)


def trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    """EXAMPLES inputs of one strategy for each seed."""
    by_name = {target.name: target for _, target in fuzz.TARGETS}
    fuzz.warm((by_name[name] for _, name, _ in STRATEGIES), folder)
    for seed in seeds:
        group, name, strategy = STRATEGIES[seed % len(STRATEGIES)]
        try:
            found: dict[str, int] = in_child(_run(by_name[name], strategy, seed), folder)
        except AssertionError as error:
            raise AssertionError(f"strategy {name}, seed {seed}, {error}") from error
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield Counter({f"{group}: {how}": count for how, count in found.items()})


def _run(target: Target, strategy: st.SearchStrategy[bytes], seed: int) -> Callable[[Case], dict[str, int]]:
    def work(case: Case) -> dict[str, int]:
        found: Counter[str] = Counter()
        set_hypothesis_home_dir(Path.cwd())  # it keeps files of its own

        @seeded(seed)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(data: bytes) -> None:
            case.begin(sum(found.values()))
            found["taken" if fuzz.tried(target, data) else "refused"] += 1

        each()
        return found

    return work


MADE_UP: Final = Recipe(
    "hostile-strategies",
    ("P3", "P6"),
    "values, frames and headers that hypothesis makes up, for the parsers of each",
    "cases",
    500_000,
    trials,
)
