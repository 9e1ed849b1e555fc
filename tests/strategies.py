"""Strategies for states: everything that flatten promises to take, small, nested and in odd company."""

from __future__ import annotations

import pathlib
import struct
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import timedelta, timezone
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import torch

from casckpt.objects.values import ITEM_SIZE

DTYPES = {name: getattr(torch, name) for name in ITEM_SIZE if hasattr(torch, name)}

# torch warns, once a process, where the first of these is made; a strategy that fails only once is flaky.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.eye(2).to_sparse_csr()
    torch.empty(1, dtype=torch.complex32)


def _short(strategy: Any) -> Any:
    """The strategy under a short name: hypothesis warns of long ones when it tells of a failure."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Any:
        return draw(strategy)

    return drawn()


def bit_floats() -> st.SearchStrategy[float]:
    """Every float there is, each payload of nan among them."""
    return st.binary(min_size=8, max_size=8).map(lambda raw: float(struct.unpack("<d", raw)[0]))


def texts() -> st.SearchStrategy[str]:
    """Text with lone surrogates, dots and backslashes."""
    return st.text(st.characters() | st.sampled_from("\ud800\udfff.\\~*"), max_size=8)


def integers() -> st.SearchStrategy[int]:
    return st.integers() | st.integers(-(2**70), 2**70) | st.integers(1, 400).map(lambda bit: -(1 << bit))


def _zones() -> st.SearchStrategy[timezone | None]:
    return st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def plain() -> st.SearchStrategy[Any]:
    """Hashable values of which no two different ones are equal or the same once stored."""
    return _short(
        st.one_of(
            *(st.none(), st.booleans(), integers(), st.floats(allow_nan=False), texts(), st.binary(max_size=9)),
            st.complex_numbers(allow_nan=False),
            *(st.dates(), st.datetimes(timezones=_zones()), st.times(timezones=_zones()), st.timedeltas()),
            *(st.decimals(allow_nan=False), st.fractions()),
            st.sampled_from(["a/b", "/", "../x.pt", "."]).map(pathlib.Path),
            st.sampled_from(["a/b", r"c:\d"]).map(pathlib.PureWindowsPath),
            st.lists(st.integers(0, 9), max_size=3).map(torch.Size),
            st.sampled_from(
                [*DTYPES.values(), torch.qint8, torch.device("cpu"), torch.device("cuda:1"), torch.device("meta")]
            ),
            st.sampled_from([torch.strided, torch.sparse_coo, torch.channels_last, torch.preserve_format]),
            npst.scalar_dtypes().flatmap(lambda dtype: npst.from_dtype(dtype, allow_nan=False)),
        )
    )


def keys() -> st.SearchStrategy[Any]:
    return _short(
        st.recursive(
            plain(),
            lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
            max_leaves=4,
        )
    )


@st.composite
def tensors(draw: st.DrawFn, dtypes: Any = None) -> torch.Tensor:
    """A dense tensor of any dtype and bits: whole, transposed, strided, expanded, offset or empty."""
    name = draw(st.sampled_from(dtypes or list(DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    seed = draw(st.integers(0, 3))
    count = int(np.prod(shape, dtype=int)) + 3
    raw = np.random.default_rng(seed).integers(0, 2 if name == "bool" else 256, count * ITEM_SIZE[name], np.uint8)
    base = torch.from_numpy(raw).view(DTYPES[name])
    start = draw(st.integers(0, 3))
    tensor = base[start : start + count - 3].view(shape)
    view = draw(st.sampled_from(["whole", "transposed", "strided", "expanded"]))
    if view == "transposed" and len(shape) > 1:
        tensor = tensor.transpose(0, -1)
    elif view == "strided" and shape:
        tensor = tensor[:: draw(st.integers(1, 3))]
    elif view == "expanded":
        tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
    if draw(st.booleans()) and (tensor.is_floating_point() or tensor.is_complex()):
        kind = draw(st.sampled_from(["requires", "parameter", "frozen parameter"]))
        if kind == "requires":
            return tensor.requires_grad_()
        return torch.nn.Parameter(tensor, requires_grad=kind == "parameter")
    return torch.nn.Parameter(tensor, requires_grad=False) if draw(st.booleans()) else tensor


@st.composite
def sharing(draw: st.DrawFn) -> list[torch.Tensor]:
    """Tensors over one storage, of several dtypes, which begin and end anywhere in it."""
    base = torch.arange(64, dtype=torch.int64).view(torch.uint8)
    made = []
    for _ in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from([torch.uint8, torch.int16, torch.float32, torch.complex64]))
        typed = base.view(dtype)
        start = draw(st.integers(0, len(typed)))
        made.append(typed[start : start + draw(st.integers(0, 5))])
    return made


@st.composite
def _sparse(draw: st.DrawFn) -> torch.Tensor:
    dense = draw(st.sampled_from([torch.eye(4), torch.zeros(4, 2), torch.tensor([[0.0, 1.5], [2.5, 0.0]])]))
    layout = draw(st.sampled_from(["coo", "uncoalesced", "csr", "csc", "bsr", "bsc"]))
    if layout == "coo":
        return dense.to_sparse().requires_grad_(draw(st.booleans()))
    if layout == "uncoalesced":
        return torch.sparse_coo_tensor(
            torch.tensor([[1, 1, 0]]), torch.tensor([1.0, 2.0, 3.0]), (3,), check_invariants=True
        )
    if layout in ("bsr", "bsc"):
        return getattr(dense, f"to_sparse_{layout}")((2, 1))
    return getattr(dense, f"to_sparse_{layout}")()


def arrays() -> st.SearchStrategy[Any]:
    """numpy arrays of every dtype that has no objects, in odd orders and strides."""
    dtypes = npst.scalar_dtypes() | npst.array_dtypes(allow_subarrays=True) | st.just(np.dtype(np.longlong))
    made = npst.arrays(dtypes, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    views = st.sampled_from([lambda a: a, lambda a: a.T, np.asfortranarray, lambda a: a[::-1] if a.ndim else a])
    return _short(st.builds(lambda array, view: view(array), made, views))


def leaves() -> st.SearchStrategy[Any]:
    long_text = st.integers(1, 3).map(lambda n: "é\ud800" * (900 * n))
    long_bytes = st.integers(4000, 5000).map(bytes)
    return _short(st.one_of(plain(), bit_floats(), tensors(), arrays(), sharing(), _sparse(), long_text, long_bytes))


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    mappings = st.dictionaries(keys(), inner, max_size=4)
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        mappings,
        mappings.map(OrderedDict),
        st.builds(defaultdict, st.sampled_from([None, int, list, dict, OrderedDict]), mappings),
        mappings.map(lambda items: Counter(dict.fromkeys(items, 3))),
        st.sets(keys(), max_size=4),
        st.builds(deque, st.lists(inner, max_size=3), st.sampled_from([None, 3, 7])),
        st.dictionaries(st.sampled_from(["lr", "name", "seed"]), inner).map(
            lambda items: types.SimpleNamespace(**items)
        ),
        st.binary(max_size=9).map(bytearray),
    )


def states() -> st.SearchStrategy[Any]:
    """Any state."""
    return st.recursive(leaves(), _containers, max_leaves=12)
