"""What "equal, with type" means for states: every bit, every type, every order, and which tensors share a storage."""

from __future__ import annotations

import dataclasses
import struct
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch

from casckpt.objects.values import ITEM_SIZE

_SPARSE_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The bytes of each element of a dense tensor, whatever its dtype and strides: shape (*shape, itemsize)."""
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu()
    item = ITEM_SIZE[str(tensor.dtype).removeprefix("torch.")]
    if tensor.numel() == 0:
        return np.zeros((*tensor.shape, item), np.uint8)
    held = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()
    strides = (*(step * item for step in tensor.stride()), 1)
    return np.lib.stride_tricks.as_strided(held[tensor.storage_offset() * item :], (*tensor.shape, item), strides)


def assert_same(first: object, second: object) -> None:
    """Fail, saying where, unless two states are the same to the last bit."""
    tensors: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    _compare(first, second, "state", tensors)
    assert _sharing([left for _, left, _ in tensors]) == _sharing([right for _, _, right in tensors]), (
        f"other tensors share storages: {[path for path, _, _ in tensors]}"
    )


def _sharing(tensors: list[torch.Tensor]) -> list[tuple[int, int]]:
    """For each tensor the first one that shares its storage, and the bytes from that one's start to its own."""
    seen: dict[int, tuple[int, int]] = {}
    found = []
    for index, tensor in enumerate(tensors):
        start = tensor.storage_offset() * tensor.element_size() if tensor.numel() else 0
        first, base = seen.setdefault(tensor.untyped_storage()._cdata, (index, start))
        empty = tensor.numel() == 0 or tensors[first].numel() == 0
        found.append((first, 0 if empty else start - base))
    return found


def _compare(a: Any, b: Any, path: str, tensors: list[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    assert type(a) is type(b), f"{path}: {type(a)} is not {type(b)}"
    if isinstance(a, torch.Tensor):
        _compare_tensors(a, b, path, tensors)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.dtype.str, a.shape) == (b.dtype, b.dtype.str, b.shape), path
        assert _array_bits(a) == _array_bits(b), f"{path}: other elements"
        if a.flags.forc and b.flags.forc:  # what has gaps or goes backwards is saved without, whichever of them it is
            assert (a.flags.c_contiguous, a.flags.f_contiguous) == (b.flags.c_contiguous, b.flags.f_contiguous), path
    elif isinstance(a, (np.str_, np.bytes_)):
        assert a == b, path
    elif isinstance(a, np.generic):
        assert a.dtype == b.dtype and _array_bits(a) == _array_bits(b), f"{path}: {a!r} is not {b!r}"
    elif isinstance(a, float):
        assert struct.pack("<d", a) == struct.pack("<d", b), f"{path}: {a!r} is not {b!r}"
    elif isinstance(a, complex):
        assert struct.pack("<dd", a.real, a.imag) == struct.pack("<dd", b.real, b.imag), f"{path}: {a!r} is not {b!r}"
    elif isinstance(a, dict):
        _compare_dicts(a, b, path, tensors)
    elif isinstance(a, (list, tuple, deque)):
        assert len(a) == len(b), f"{path}: {len(a)} is not {len(b)} items"
        assert getattr(a, "maxlen", None) == getattr(b, "maxlen", None), path
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            _compare(left, right, f"{path}.{index}", tensors)
    elif isinstance(a, (set, frozenset)):
        assert _spelt(a) == _spelt(b), f"{path}: {a!r} is not {b!r}"
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            _compare(getattr(a, field.name), getattr(b, field.name), f"{path}.{field.name}", tensors)
    elif hasattr(a, "__dict__") and type(a).__module__ in ("argparse", "types"):
        _compare(vars(a), vars(b), path, tensors)
    else:
        assert repr(a) == repr(b) and (a == b or a != a), f"{path}: {a!r} is not {b!r}"
        assert getattr(a, "fold", None) == getattr(b, "fold", None), path


def _array_bits(array: Any) -> bytes:
    """The bytes of an array; of long doubles their digits, since C leaves some of their bytes undefined."""
    array = np.ascontiguousarray(array)
    return repr(array.tolist()).encode() if array.dtype.char in "gG" else array.tobytes()


def _spelt(item: object) -> str:
    """A key or an element of a set with its type and bits, the same in whatever order a set is walked."""
    if isinstance(item, (set, frozenset)):
        inner = ", ".join(sorted(map(_spelt, item)))
    elif isinstance(item, tuple):
        inner = ", ".join(map(_spelt, item))
    else:
        inner = repr((item.dtype, item.tobytes())) if isinstance(item, np.generic) else repr(item)
    return f"{type(item).__name__}({inner})"


def _compare_dicts(a: Any, b: Any, path: str, tensors: list[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    assert len(a) == len(b), f"{path}: {len(a)} is not {len(b)} keys"
    if isinstance(a, defaultdict):
        assert a.default_factory is b.default_factory, path
    if isinstance(a, OrderedDict):
        _compare(getattr(a, "_metadata", None), getattr(b, "_metadata", None), f"{path}._metadata", tensors)
    for left, right in zip(a, b, strict=True):
        _compare(left, right, f"{path}[key {left!r}]", tensors)
        _compare(a[left], b[right], f"{path}.{left}", tensors)


def _compare_tensors(a: torch.Tensor, b: torch.Tensor, path: str, tensors: list[Any]) -> None:
    assert (a.dtype, a.shape, a.layout, a.requires_grad) == (b.dtype, b.shape, b.layout, b.requires_grad), path
    if a.layout is not torch.strided:
        if a.layout is torch.sparse_coo:
            assert a.is_coalesced() == b.is_coalesced(), path
        for part in _SPARSE_PARTS[a.layout]:
            _compare(getattr(a.detach(), part)(), getattr(b.detach(), part)(), f"{path}.{part}", tensors)
        return
    assert np.array_equal(bits(a), bits(b)), f"{path}: other elements"
    if a.numel() and not a.is_contiguous():
        assert a.stride() == b.stride(), f"{path}: strides {a.stride()} are not {b.stride()}"
    tensors.append((path, a, b))
