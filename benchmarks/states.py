"""The states that are saved and how they change. The same seeds make the same bytes, in whatever process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_WORDS = {4: torch.int32, 2: torch.int16}

BLOCKS = 12
MATRICES = {"qkv": (1, 3), "mix": (1, 1), "up": (1, 4), "down": (4, 1)}
KINDS = ("weight", "exp_avg", "exp_avg_sq")
RANK = 8
TABLE_WIDTH = 256
TOUCHED_ROWS = 0.01
TINY = 20_000
TINY_BYTES = 1024


def nbytes(state: State) -> int:
    """The bytes of a state's tensors."""
    return sum(tensor.nbytes for tensor in state.values())


def dense(size: int, dtype: str) -> State:
    """The matrices of 12 blocks with both moments of Adam, 144 tensors, about `size` bytes in all."""
    kind = DTYPES[dtype]
    per_square = BLOCKS * len(KINDS) * sum(rows * columns for rows, columns in MATRICES.values()) * kind.itemsize
    width = max(8, round((size / per_square) ** 0.5 / 8) * 8)
    random = torch.Generator().manual_seed(0)
    return {
        f"blocks.{block}.{name}.{role}": torch.randn(rows * width, columns * width, generator=random).to(kind)
        for role in KINDS
        for block in range(BLOCKS)
        for name, (rows, columns) in MATRICES.items()
    }


def tiny(size: int, dtype: str) -> State:
    """20,000 tensors of 1 KiB, or fewer where `size` asks for less."""
    kind = DTYPES[dtype]
    count = min(TINY, max(1, size // TINY_BYTES))
    random = torch.Generator().manual_seed(0)
    return {
        f"tiny.{index}": torch.randn(TINY_BYTES // kind.itemsize, generator=random).to(kind) for index in range(count)
    }


def adapted(size: int, dtype: str) -> State:
    """A backbone, and adapters of rank 8 on its matrices with their moments."""
    backbone = dense(size, dtype)
    random = torch.Generator().manual_seed(1)
    adapters = {
        f"lora.{name}.{side}.{role}": torch.randn(shape, generator=random).to(tensor.dtype)
        for name, tensor in backbone.items()
        if name.endswith("weight")
        for side, shape in (("a", (RANK, tensor.shape[1])), ("b", (tensor.shape[0], RANK)))
        for role in KINDS
    }
    return {name: tensor for name, tensor in backbone.items() if name.endswith("weight")} | adapters


def tables(size: int, dtype: str) -> State:
    """An embedding of `TABLE_WIDTH` columns and its moments."""
    kind = DTYPES[dtype]
    rows = max(100, size // (len(KINDS) * TABLE_WIDTH * kind.itemsize))
    random = torch.Generator().manual_seed(0)
    return {f"embedding.{role}": torch.randn(rows, TABLE_WIDTH, generator=random).to(kind) for role in KINDS}


def change(tensor: Tensor) -> None:
    """Another value for every element, in place, without a copy."""
    tensor.view(_WORDS[tensor.element_size()]).add_(1)


def change_all(state: State, step: int) -> None:
    """What a dense update does."""
    for tensor in state.values():
        change(tensor)


def tenth(state: State, first: int = 0) -> list[str]:
    """Every tenth tensor."""
    return [name for index, name in enumerate(state) if index % 10 == first % 10]


def change_tenth(state: State, step: int) -> None:
    """The same tenth of the tensors each time, as where the rest is frozen."""
    for name in tenth(state):
        change(state[name])


def change_another_tenth(state: State, step: int) -> None:
    """Each time another tenth of the tensors."""
    for name in tenth(state, step):
        change(state[name])


def change_nothing(state: State, step: int) -> None:
    """A state that is saved twice."""


def change_adapters(state: State, step: int) -> None:
    for name, tensor in state.items():
        if name.startswith("lora."):
            change(tensor)


def change_rows(state: State, step: int) -> None:
    """The same rows of a table and of its moments: those of the words that came up, which are ordered by how often they
    do, as vocabularies are (Zipf's law)."""
    first = next(iter(state.values()))
    count = max(1, int(len(first) * TOUCHED_ROWS))
    often = 1 / torch.arange(1, len(first) + 1)
    rows = torch.multinomial(often, count, generator=torch.Generator().manual_seed(step))
    for tensor in state.values():
        words = tensor.view(_WORDS[tensor.element_size()])
        words[rows] += 1


@dataclass(frozen=True, slots=True)
class Workload:
    """A state and what happens to it between two saves. step: changes the state in place, told which save it is."""

    name: str
    title: str
    build: Callable[[int, str], State]
    step: Callable[[State, int], None]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("dense", "everything changes", dense, change_all),
        Workload("tenth", "10 % of tensors change", dense, change_tenth),
        Workload("nothing", "nothing changes", dense, change_nothing),
        Workload("lora", "LoRA on a frozen backbone", adapted, change_adapters),
        Workload("rows", "1 % of an embedding's rows change", tables, change_rows),
        Workload("tiny", "20,000 tensors of 1 KiB, all change", tiny, change_all),
    )
}
