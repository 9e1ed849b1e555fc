"""The library built of `faults.c`, for the process that runs under it: what befalls its calls, and what it met."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


class Faults:
    """What befalls calls of this process, which runs under the library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_met.restype = ctypes.c_char_p
        for counted in (self._library.fault_count, self._library.fault_unsynced, self._library.fault_resynced):
            counted.restype = ctypes.c_long

    def arm(self, folder: Path, n: int, what: int, times: int = 1 << 30) -> None:
        """From now on, what befalls the n-th call that changes something in the folder, and so many in all."""
        self._library.fault_arm_times(os.fsencode(folder), ctypes.c_long(n), what, ctypes.c_long(times))

    def disarm(self) -> None:
        self._library.fault_disarm()

    @property
    def count(self) -> int:
        """How many calls there were."""
        return int(self._library.fault_count())

    @property
    def met(self) -> str:
        """The first call that something befell: its name, and the path of its file; empty while none has come."""
        return os.fsdecode(self._library.fault_met())

    @property
    def unsynced(self) -> int:
        """How many syncs failed, but for those that were interrupted."""
        return int(self._library.fault_unsynced())

    @property
    def resynced(self) -> int:
        """How many syncs came to a good end of a file of which one had failed before: they bring nothing back."""
        return int(self._library.fault_resynced())
