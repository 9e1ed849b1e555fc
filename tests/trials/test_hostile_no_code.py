"""No load, restore, import, export or check comes to anything that could run code out of data (P6): whatever could
raises in the whole test run (`no_code.forbid`, of tests/conftest.py). Here: that it would be seen."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from casckpt.objects import tree
from tests.trials.no_code import RanCodeError


class _Harm:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def _loads_weights(raw: bytes) -> Any:
    return torch.load(BytesIO(raw), weights_only=False)


@pytest.mark.parametrize(
    "runs",
    [
        pickle.loads,
        lambda raw: pickle.load(BytesIO(raw)),
        lambda raw: pickle.Unpickler(BytesIO(raw)),
        lambda raw: type("Own", (pickle.Unpickler,), {})(BytesIO(raw)).load(),
        lambda raw: eval("1 + 1"),
        lambda raw: exec("1 + 1"),
        lambda raw: os.system("true"),
        _loads_weights,
    ],
)
def test_a_load_that_could_run_code_is_seen(monkeypatch: pytest.MonkeyPatch, runs: Callable[[bytes], Any]) -> None:
    raw = pickle.dumps(_Harm())

    class Unpacker:
        decode = staticmethod(runs)

    monkeypatch.setattr(tree, "_unpacker", Unpacker)
    with pytest.raises(RanCodeError):
        tree.decode_tree(raw, 16)


def test_what_others_do_is_left_alone(tmp_path: Path) -> None:
    assert eval("1 + 1") == 2 and pickle.loads(pickle.dumps({1})) == {1}
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=False).keys() == {"a"}
