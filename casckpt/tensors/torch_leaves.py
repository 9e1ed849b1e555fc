"""torch's types that are no tensors of bytes: sizes, dtypes, devices, sparse tensors, and a few functions by name."""

from __future__ import annotations

import threading
import warnings
from types import FunctionType
from typing import Any, Final

import torch
from torch.optim.swa_utils import SWALR

from casckpt.objects.values import ITEM_SIZE, PARAMETER, REQUIRES_GRAD
from casckpt.tensors.leaf import Codec, LeafError, all_of_type, of_type


def _named(cls: type) -> dict[str, Any]:
    return {str(item).removeprefix("torch."): item for item in vars(torch).values() if type(item) is cls}


_DTYPES: Final[dict[str, torch.dtype]] = _named(torch.dtype)
_LAYOUTS: Final[dict[str, torch.layout]] = _named(torch.layout)
_MEMORY_FORMATS: Final[dict[str, torch.memory_format]] = _named(torch.memory_format)

DTYPES: Final = {name: _DTYPES[name] for name in ITEM_SIZE if name in _DTYPES}
"""The dtypes of tensors that can be saved, as far as this torch has them."""

# Functions that torch's own state_dict()s hold, by names of this format: never by a path to import.
_FUNCTIONS: Final[dict[str, object]] = {
    "swalr.cosine": SWALR._cosine_anneal,
    "swalr.linear": SWALR._linear_anneal,
}


def _encode_function(function: object) -> str:
    for name, known in _FUNCTIONS.items():
        if function is known:
            return name
    raise LeafError(
        f"the function {function!r}", "code is not saved: leave it out, and give it again when the state is loaded"
    )


def _decode_size(state: object) -> torch.Size:
    sizes = of_type(state, list)
    return torch.Size(all_of_type(tuple(sizes), int, len(sizes)))


def _decode_device(state: object) -> torch.device:
    try:
        return torch.device(of_type(state, str))
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _by_name(cls: type, name: str, named: dict[str, Any]) -> Codec:
    return Codec(cls, name, lambda item: str(item).removeprefix("torch."), lambda state: named[of_type(state, str)])


# -- sparse tensors ----------------------------------------------------------------------------------------------------

_ROWS_COMPRESSED: Final = (torch.sparse_csr, torch.sparse_bsr)
_COMPRESSED: Final = (*_ROWS_COMPRESSED, torch.sparse_csc, torch.sparse_bsc)
SPARSE: Final = "torch.sparse"

# torch warns, once a process, that compressed tensors are new; warnings are silenced for all threads at once.
_silence = threading.Lock()


def flags_of(tensor: torch.Tensor) -> int:
    """REQUIRES_GRAD and PARAMETER, as they hold for a tensor."""
    return (REQUIRES_GRAD if tensor.requires_grad else 0) | (PARAMETER if type(tensor) is torch.nn.Parameter else 0)


def with_flags(tensor: torch.Tensor, flags: int) -> torch.Tensor:
    """The tensor, made a parameter and set to require a gradient as the flags say.

    Raises:
        ValueError: a tensor of such a dtype requires none; or flags of no meaning.
    """
    if flags & ~(REQUIRES_GRAD | PARAMETER):
        raise ValueError(f"tensor flags {flags:#x}")
    wants_grad = bool(flags & REQUIRES_GRAD)
    if wants_grad and not (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(f"a tensor of {tensor.dtype} that requires a gradient")
    if flags & PARAMETER:
        return torch.nn.Parameter(tensor, requires_grad=wants_grad)
    return tensor.requires_grad_() if wants_grad else tensor


def encode_sparse(tensor: torch.Tensor) -> object:
    """A sparse tensor as its layout, shape, coalesced, flags, and the dense tensors that it is made of.

    Raises:
        LeafError: a layout that torch cannot take apart.
    """
    plain = tensor.detach()
    layout = str(tensor.layout).removeprefix("torch.")
    parts: list[torch.Tensor]
    coalesced = False
    if tensor.layout is torch.sparse_coo:
        parts = [plain._indices(), plain._values()]
        coalesced = tensor.is_coalesced()
    elif tensor.layout in _ROWS_COMPRESSED:
        parts = [plain.crow_indices(), plain.col_indices(), plain.values()]
    elif tensor.layout in _COMPRESSED:
        parts = [plain.ccol_indices(), plain.row_indices(), plain.values()]
    else:
        raise LeafError(f"a tensor of layout {tensor.layout}", "save tensor.to_dense()")
    return (layout, tuple(tensor.shape), coalesced, flags_of(tensor), *parts)


def _decode_sparse(state: object) -> torch.Tensor:
    layout, shape, coalesced, flags, *parts = of_type(state, tuple)
    size = all_of_type(shape, int, len(shape))
    for part in parts:
        of_type(part, torch.Tensor)
    kind = _LAYOUTS[of_type(layout, str)]
    checked = not any(part.is_meta for part in parts)  # there nothing can be read
    try:
        if kind is torch.sparse_coo:
            indices, values = parts
            made = torch.sparse_coo_tensor(
                indices, values, size, is_coalesced=of_type(coalesced, bool), check_invariants=checked
            )
        elif kind in _COMPRESSED:
            compressed, plain, values = parts
            with _silence, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = torch.sparse_compressed_tensor(
                    compressed, plain, values, size=size, layout=kind, check_invariants=checked
                )
        else:
            raise ValueError(f"a sparse tensor of layout {layout}")
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return with_flags(made, of_type(flags, int))


class _Sparse:
    """Stands for sparse tensors in the table of codecs: their Python type is that of dense ones."""


CODECS: Final = (
    Codec(_Sparse, SPARSE, encode_sparse, _decode_sparse),
    Codec(torch.Size, "torch.size", list, _decode_size),
    Codec(torch.device, "torch.device", str, _decode_device),
    _by_name(torch.dtype, "torch.dtype", _DTYPES),
    _by_name(torch.layout, "torch.layout", _LAYOUTS),
    _by_name(torch.memory_format, "torch.memory_format", _MEMORY_FORMATS),
    Codec(FunctionType, "torch.function", _encode_function, lambda state: _FUNCTIONS[of_type(state, str)]),
)
