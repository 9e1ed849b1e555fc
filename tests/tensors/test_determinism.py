"""The bytes of a tree are the same in every process: sets, hashes and addresses do not show in them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """if True:
    import enum, pathlib, torch, numpy as np
    from collections import Counter, OrderedDict, defaultdict
    from datetime import datetime
    from decimal import Decimal
    from tests.tensors.dict_store import DictStore
    torch.manual_seed(0)
    ballast = [object() for _ in range(int.from_bytes(__import__("os").urandom(1), "big"))]
    model = torch.nn.Linear(40, 40)
    state = {
        "set": {"a", "b", 1, 2.5, None, ("c", 1), b"d", pathlib.Path("e"), Decimal(1), torch.float32, np.int8(1)},
        "nested": frozenset({frozenset({"x", "y"}), frozenset({"z"})}),
        frozenset({"k", "l"}): Counter("hello"),
        "model": model.state_dict(),
        "tied": [model.weight, model.weight.t()],
        "array": np.array([("n", 1.5)], [("s", "U3"), ("x", ">f8")]),
        "long": np.arange(4, dtype=np.longdouble),
        "when": datetime(2024, 1, 1),
        "default": defaultdict(set, a={"p", "q", "r"}),
        "many": {f"key {i}": OrderedDict(i=[i]) for i in range(3000)},
    }
    store = DictStore()
    print(store.save(state).hex(), len(store.trees))
"""


def _root(seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("seed", ["1", "random"])
def test_another_process_with_another_hash_seed_gives_the_same_trees(seed: str) -> None:
    assert _root("0") == _root(seed)
