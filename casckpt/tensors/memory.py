"""The memory that a state is loaded into: one destination for each storage, taken before a byte is read.

Tensors that share an alias share a destination. Nothing here reads a store; others fill the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from casckpt.errors import CorruptObjectError
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import children
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Record, Storage, TensorRecord, Typed, Value
from casckpt.tensors.numpy_leaves import Array

Held: TypeAlias = torch.UntypedStorage | Array
"""The memory of one storage: of a tensor's as torch has it, of any other as flat bytes."""


Take: TypeAlias = Callable[[Record, str], Held]
"""Gives the memory that holds the bytes of a record's storage already, by the record and its path."""


def records(value: Value, path: str = "") -> Iterator[tuple[str, Record]]:
    """The records of an expanded value with their paths, in the order in which `inflate` meets them."""
    while isinstance(value, Typed):
        value = value.value
    if isinstance(value, (TensorRecord, ArrayRecord, BlobRecord)):
        yield path, value
    elif isinstance(value, (Map, list, tuple)):
        for inner_path, inner in children(path, value):
            yield from records(inner, inner_path)


@dataclass(frozen=True, slots=True)
class Target:
    """Bytes that are still to be filled in. path: of the first leaf over them. out: `ref.length` bytes, writable."""

    path: str
    ref: NodeRef
    out: memoryview


class Memory:
    """Destinations for the bytes of a value's records, in the order in which `inflate` meets these."""

    __slots__ = ("_aliases", "held", "targets")

    def __init__(self) -> None:
        self.targets: list[Target] = []
        """What is still to be filled before `inflate`."""
        self.held: list[Held] = []
        """For each record the memory of its storage."""
        self._aliases: dict[int, tuple[Storage, Held]] = {}

    @classmethod
    def for_value(cls, value: Value, take: Take | None = None) -> Memory:
        """The memory for an expanded value. What stands in the records themselves is in it already.

        take: gives the memory of storages that others hold already; None: it is taken here, and to be filled.

        Raises:
            CorruptObjectError: one alias names two storages, or the value is not expanded.
            MemoryError: a storage is larger than the memory that can be had.
        """
        memory = cls()
        for path, record in records(value):
            memory._add(record, path, take)
        return memory

    def move(self, device: torch.device) -> None:
        """Bring the storages of tensors to a device, one by one; once they are filled, and before `inflate`."""
        moved: dict[int, torch.UntypedStorage] = {}
        for index, held in enumerate(self.held):
            if isinstance(held, torch.UntypedStorage):
                if held._cdata not in moved:
                    flat = torch.empty(0, dtype=torch.uint8, device="cpu").set_(held)
                    moved[held._cdata] = flat.to(device).untyped_storage()
                self.held[index] = moved[held._cdata]

    def _add(self, record: Record, path: str, take: Take | None) -> None:
        alias = record.alias if isinstance(record, TensorRecord) else None
        if alias is not None and alias in self._aliases:
            storage, held = self._aliases[alias]
            if storage != record.storage:
                raise CorruptObjectError(f"at {path}: tensors that share a storage name different ones")
        else:
            outside = take is not None and isinstance(record.storage, NodeRef)
            held = take(record, path) if take is not None and outside else self._take(record, path)
            if alias is not None:
                self._aliases[alias] = (record.storage, held)
        self.held.append(held)

    def _take(self, record: Record, path: str) -> Held:
        storage = record.storage
        if isinstance(storage, int):
            raise CorruptObjectError(f"at {path}: a record of a state that was never saved")
        length = storage.length if isinstance(storage, NodeRef) else len(storage)
        held: Held
        try:
            if isinstance(record, TensorRecord):
                tensor = torch.empty(length, dtype=torch.uint8, device="cpu")
                held, out = tensor.untyped_storage(), tensor.numpy().data
            else:
                held = np.empty(length, np.uint8)
                out = held.data
        except (RuntimeError, ValueError, MemoryError) as error:
            raise MemoryError(f"at {path}: no memory for the {length} bytes stored") from error
        if isinstance(storage, NodeRef):
            self.targets.append(Target(path, storage, out))
        elif length:
            out[:] = storage
        return held
