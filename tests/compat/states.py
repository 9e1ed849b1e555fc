"""The states that the golden stores hold, made from nothing that changes between releases."""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import torch

import casckpt

Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1


casckpt.register(Colour, "compat.Colour")

# How each registered class is made again, for who reads a store without casckpt.
REGISTERED = {"compat.Colour": Colour.__getitem__}


def states() -> list[dict[str, Any]]:
    """One state a commit, in order. Between the first two one chunk differs."""
    base = torch.arange(6000, dtype=torch.float32)
    changed = base.clone()
    changed[3000] = -1
    tied = torch.arange(2000, dtype=torch.int16)
    sparse = torch.eye(3)[:, :2].to_sparse_coo()
    awkward = {
        "dtypes": {
            str(dtype): torch.arange(3).to(dtype)
            for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.bool, torch.uint8)
        },
        "float8": torch.arange(4, dtype=torch.uint8).view(torch.float8_e4m3fn),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "transposed": torch.arange(2400).reshape(40, 60).T,
        "expanded": torch.tensor([7]).expand(5),
        "tied": [tied, tied.view(40, 50), tied[100:200]],
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "sparse": sparse,
        "array": np.arange(12, dtype=">i4").reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "structured": np.array([(1, "a")], dtype=[("n", "<i2"), ("s", "<U3")]),
        "np_scalar": np.float32(0.5),
        "numbers": [0, -1, 2**63, 2**64, -(2**70), 1.5, float("inf"), -0.0, 1 + 2j, True, None],
        "text": ["", "\ud800", "ü", "x" * 9000],
        "bytes": [b"", b"\0\xff", b"y" * 9000],
        "keys": {0: "int", "0": "str", (1, "a"): "tuple", frozenset({1}): "frozenset", None: "none"},
        "containers": [
            (1, 2),
            {3, 1},
            OrderedDict(b=1, a=2),
            defaultdict(list, k=[1]),
            Counter("aab"),
            Point(1, 2),
            torch.Size([2, 3]),
        ],
        "types": [
            torch.float32,
            torch.device("cuda:1"),
            pathlib.PurePosixPath("/a"),
            decimal.Decimal("1.10"),
            Colour.RED,
        ],
        "times": [datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), datetime.timedelta(days=-1)],
        "many": {f"layer.{n}": torch.full((100,), n) for n in range(200)},
    }
    return [
        {"model": {"w": base}, "optimizer": {"m": base * 2}},
        {"model": {"w": changed}, "optimizer": {"m": base * 3}},
        {"model": awkward, "optimizer": {}},
    ]
