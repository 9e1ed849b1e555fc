"""A tensor's bytes as numbers that numpy knows: bf16 passes as 16-bit words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def words(tensor: Tensor) -> npt.NDArray[Any]:
    """The same memory, as float32 or uint16."""
    found: npt.NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return np.ascontiguousarray(found)
