"""Whether what another program writes is finished. Nothing here waits, changes a file or keeps a writer from it.

Three things tell, each where the others cannot: it has looked the same for a while; no process of this machine has it
open for writing; and its end is where its beginning says. The first two hold for any file; a file that is written from
another machine, with long pauses, is known by the third.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import zipfile
from pathlib import Path
from typing import Final

from casckpt.errors import ImportFormatError
from casckpt.limits import MAX_INDEX, MAX_SAFETENSORS_HEADER
from casckpt.tensors.look import Look
from casckpt.tensors.shards import INDEX, read_bounded

_TRAINERS: Final = re.compile(r"checkpoint-\d+")


class Settling:
    """Remembers since when each name has looked as it does. seconds: how long it must, to be taken for finished."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[str, tuple[Look, float]] = {}

    def rests(self, name: str, found: Look, now: float) -> bool:
        """Note a look, taken at `now` seconds of a clock that never goes back; whether it has rested long enough.

        A first look never does: with no seconds to wait, the second one does.
        """
        before = self._since.get(name)
        if before is None or before[0] != found:
            self._since[name] = found, now
            return False
        return now - before[1] >= self._seconds

    def keep(self, names: set[str]) -> None:
        """Forget all others."""
        self._since = {name: since for name, since in self._since.items() if name in names}


def is_being_written(path: Path) -> bool:
    """Whether a process of this machine has the file, or one in the folder, open for writing.

    False also where the kernel will not say: on file systems without leases, and for files of other users.

    Raises:
        OSError: it is gone.
    """
    if path.is_dir():
        return any(is_being_written(item) for item in path.rglob("*") if item.is_file())
    return _open_for_writing(path)


def _open_for_writing(path: Path) -> bool:
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # A writer that opens the file in this moment waits for the lease to be given up, and we are sent a signal. Its
        # default, SIGIO, would end the process; this one is ignored unless somebody asks for it.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        # a read lease is granted only while nobody has the file open for writing
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def lacks(path: Path) -> str | None:
    """What a file or folder lacks to be whole, in words, as far as that can be told at a glance; None: nothing.

    Raises:
        OSError: it is gone, or cannot be read.
    """
    return _folder_lacks(path) if path.is_dir() else _file_lacks(path)


def _file_lacks(path: Path) -> str | None:
    with path.open("rb") as file:
        beginning = file.read(8)
        size = os.fstat(file.fileno()).st_size
        if not size:
            return "it is empty"
        if path.suffix == ".safetensors":
            length = int.from_bytes(beginning, "little")
            if size < 8 or length > size - 8:
                return "it ends within its header"
            end = _safetensors_end(file.read(min(length, MAX_SAFETENSORS_HEADER)))
            return None if end is None or 8 + length + end <= size else "it ends before its last tensor does"
        if beginning.startswith(b"PK") and not zipfile.is_zipfile(file):
            return "its end is missing"
        return None


def _safetensors_end(header: bytes) -> int | None:
    """Where the last tensor ends, in bytes behind the header; None where this is no header: reading it will say why."""
    try:
        entries = json.loads(header.decode())
        return max([0, *(int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__")])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _folder_lacks(folder: Path) -> str | None:
    names = {item.name for item in folder.iterdir()}
    # transformers' Trainer writes its state last; only its own folders are known to have one
    if _TRAINERS.fullmatch(folder.name) and "training_args.bin" in names and "trainer_state.json" not in names:
        return "trainer_state.json is not there yet"
    for name in sorted(names):
        if name.endswith(INDEX):
            try:
                index = json.loads(read_bounded(folder / name, MAX_INDEX).decode())
                shards = {str(shard) for shard in index["weight_map"].values()}
            except (ImportFormatError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                return f"{name} cannot be read"
            missing = sorted(shards - names)
            if missing:
                return f"{missing[0]} is not there yet"
    for item in sorted(folder.rglob("*")):
        if item.is_file() and item.suffix in (".safetensors", ".bin", ".pt", ".pth"):
            lack = _file_lacks(item)
            if lack is not None:
                return f"{item.relative_to(folder)}: {lack}"
    return None
