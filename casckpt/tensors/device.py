"""Bytes of tensors on a device, copied to host memory beside what the device computes meanwhile.

Training's own stream goes on behind the copies, in the device's order, while the processor waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from casckpt.tensors.staging import Bytes


def pinned(size: int) -> Bytes:
    """Host memory that a CUDA device can write to by itself."""
    array: Bytes = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return array


def can_pin(device: torch.device) -> bool:
    """Whether copies from this device are made beside its work, into pinned memory."""
    return device.type == "cuda"


class DeviceCopies:
    """The copies of one commit, on a stream of their own for each device; begun on the thread that trains."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def copy(self, live: torch.Tensor, out: Bytes) -> Callable[[], object] | None:
        """Begin to copy flat bytes on a device; returns what waits until they are there, or None where they are.

        out: as many bytes of host memory, pinned if `can_pin`.
        """
        host = torch.from_numpy(out)
        if not can_pin(live.device):
            host.copy_(live)
            return None
        stream = self._stream(live.device)
        with torch.cuda.stream(stream):
            host.copy_(live, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own has no types
            copied.record(stream)
        live.record_stream(stream)  # else its memory could be used again by others before it was read
        return copied.synchronize

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # likewise
            self._streams[device].wait_stream(torch.cuda.current_stream(device))  # what training did so far comes first
        return self._streams[device]

    def wait(self) -> None:
        """Return when they are done."""
        for stream in self._streams.values():
            stream.synchronize()

    def let_go_on(self) -> None:
        """From here on training may change the tensors: what it asks for comes behind the copies."""
        for device, stream in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(stream)
