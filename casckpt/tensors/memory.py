"""The memory that a state is loaded into: one destination for each storage, taken before a byte is read.

Tensors that share an alias share a destination. Nothing here reads a store; others fill the targets.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from casckpt.errors import CorruptObjectError, NoMemoryError
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import children
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, Record, Storage, TensorRecord, Typed, Value
from casckpt.tensors.numpy_leaves import Array
from casckpt.tensors.reuse import Reuse

Held: TypeAlias = torch.UntypedStorage | Array
"""The memory of one storage: of a tensor's as torch has it, of any other as flat bytes."""


Take: TypeAlias = Callable[[Record, str], Held | None]
"""Gives the memory that holds the bytes of a record's storage already, by the record and its path; None: it is to be
taken and filled as any other."""


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
    """Bytes that are still to be filled in.

    path: of the first leaf over them. out: `ref.length` bytes, writable. fresh: whether nobody had them before.
    """

    path: str
    ref: NodeRef
    out: memoryview
    fresh: bool


class Memory:
    """Destinations for the bytes of a value's records, in the order in which `inflate` meets these."""

    __slots__ = ("_aliases", "_reuse", "_take", "held", "targets")

    def __init__(self, take: Take | None = None, reuse: Reuse | None = None) -> None:
        self._take = take
        self._reuse = reuse
        self.targets: list[Target] = []
        """What is still to be filled before `inflate`."""
        self.held: list[Held] = []
        """For each record the memory of its storage."""
        self._aliases: dict[int, tuple[Storage, Held]] = {}

    @classmethod
    def for_value(cls, value: Value, take: Take | None = None, reuse: Reuse | None = None) -> Memory:
        """The memory for an expanded value. What stands in the records themselves is in it already.

        take: gives the memory of storages that others hold already; None: it is taken here, and to be filled.
        reuse: memory that may be taken for the storages of tensors instead of fresh one.

        Raises:
            CorruptObjectError: one alias names two storages, or the value is not expanded.
            NoMemoryError: a storage is larger than the memory that can be had.
        """
        memory = cls(take, reuse)
        for path, record in records(value):
            memory._add(record, path)
        return memory

    def move(self, device: torch.device) -> None:
        """Bring the storages of tensors to a device, one by one; once they are filled, and before `inflate`."""
        moved: dict[int, torch.UntypedStorage] = {}
        for index, held in enumerate(self.held):
            if isinstance(held, torch.UntypedStorage) and held.device.type == "cpu":
                if held._cdata not in moved:
                    flat = torch.empty(0, dtype=torch.uint8, device="cpu").set_(held)
                    moved[held._cdata] = flat.to(device).untyped_storage()
                self.held[index] = moved[held._cdata]

    def _add(self, record: Record, path: str) -> None:
        alias = record.alias if isinstance(record, TensorRecord) else None
        if alias is not None and alias in self._aliases:
            storage, held = self._aliases[alias]
            if storage != record.storage:
                raise CorruptObjectError(f"at {path}: tensors that share a storage name different ones")
        else:
            held = self._hold(record, path)
            if alias is not None:
                self._aliases[alias] = (record.storage, held)
        self.held.append(held)

    def _hold(self, record: Record, path: str) -> Held:
        """The memory of a record's storage."""
        storage = record.storage
        if isinstance(storage, int):
            raise CorruptObjectError(f"at {path}: a record of a state that was never saved")
        if isinstance(storage, bytes):
            held, out = _fresh(record, len(storage), path)
            if storage:
                out[:] = storage
            return held
        if self._take is not None and (taken := self._take(record, path)) is not None:
            return taken
        if self._reuse is not None and isinstance(record, TensorRecord):
            used = self._reuse.take(record, path)
            if used is not None:
                self.targets.append(Target(path, storage, view_of(used), fresh=False))
                return used
        held, out = _fresh(record, storage.length, path)
        self.targets.append(Target(path, storage, out, fresh=True))
        return held


def _fresh(record: Record, length: int, path: str) -> tuple[Held, memoryview]:
    """New memory for a record's bytes, and a view of it."""
    try:
        if isinstance(record, TensorRecord):
            taken = torch.empty(length, dtype=torch.uint8, device="cpu").untyped_storage()
            return taken, view_of(taken)
        array = np.empty(length, np.uint8)
        return array, array.data
    except (RuntimeError, ValueError, MemoryError) as error:
        raise no_memory(length, path) from error


def no_memory(length: int, path: str) -> NoMemoryError:
    """What is raised where there is none for so many bytes."""
    return NoMemoryError(
        f"at {path}: no memory for {length} bytes",
        needed=length,
        remedy='load a part, as load(paths="model.*"), or slices, by open_tensor()',
    )


def view_of(storage: torch.UntypedStorage, start: int = 0, length: int | None = None) -> memoryview:
    """The bytes of a storage in host memory from `start` on, to write to; they keep the storage.

    By their address: numpy() would leave the storage as one that can never be resized again.

    Raises:
        NoMemoryError: it has none.
    """
    length = storage.nbytes() - start if length is None else length
    if not length:
        return memoryview(bytearray())
    address = storage.data_ptr()
    if not address:
        raise NoMemoryError(
            "a storage without memory, as torch makes them under a FakeTensorMode", remedy="load outside of it"
        )
    held = (ctypes.c_ubyte * length).from_address(address + start)
    held.storage = storage  # type: ignore[attr-defined]
    return memoryview(held).cast("B")
