"""Who has a store open: one file for each process, `openers/<uuid>`, locked for as long as the process has it open.

The lock is the truth, the text in the file is for people. Files are made and tidied away only under the store's gate.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import uuid
from datetime import datetime
from pathlib import Path

import msgspec

from casckpt.store.folder import OPENERS, is_plain
from casckpt.store.locks import FileLock, is_held

# What one opener says of itself is a line or two; more than this is not ours.
_MAX_RECORD = 4096
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Opener(msgspec.Struct, frozen=True):
    """What a process says of itself, for those who find it in their way."""

    pid: int
    host: str
    program: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.program}) since {self.since}"


# Made here, as all are: msgspec crashes where two threads are the first to come to a class.
_decoder = msgspec.json.Decoder(Opener)


def this_process() -> Opener:
    """This process, as of now."""
    argv = getattr(sys, "argv", None) or ["python"]  # an embedding program may have set none
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return Opener(pid=os.getpid(), host=socket.gethostname(), program=argv[0] or "python", since=now)


def describe(path: Path) -> str:
    """The line that stands in a file of `introduce`, as far as it can be read."""
    try:
        with path.open("rb") as file:
            return str(_decoder.decode(file.read(_MAX_RECORD)))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return "a process that does not say who it is"


def introduce(lock: FileLock) -> None:
    """Write into a locked file who holds it, if that can be written: a full disk is cured by those who lock."""
    line = msgspec.json.encode(this_process())
    with contextlib.suppress(OSError):
        os.ftruncate(lock.descriptor, 0)
        os.pwrite(lock.descriptor, line, 0)


def register(folder: Path) -> FileLock:
    """Become an opener of the store; call under its gate. `unregister` takes it back."""
    openers = folder / OPENERS
    openers.mkdir(exist_ok=True)
    lock = FileLock(openers / str(uuid.uuid4()))
    try:
        lock.acquire()
        introduce(lock)
    except BaseException:
        unregister(lock)
        raise
    return lock


def unregister(lock: FileLock) -> None:
    """Stop being an opener. In a forked child nothing is touched: the file is its parent's."""
    if lock.descriptor >= 0:
        with contextlib.suppress(OSError):  # what stays behind unlocked is tidied away by the next opener
            lock.path.unlink()
    lock.release()


def live(folder: Path) -> list[Path]:
    """The files of the processes that have the store open."""
    return [path for path in _files(folder) if is_held(path)]


def tidy(folder: Path) -> list[Path]:
    """As `live`, and removes what dead processes left; call under the gate, which keeps new ones from registering."""
    alive = []
    for path in _files(folder):
        if is_held(path):
            alive.append(path)
        else:
            path.unlink(missing_ok=True)
    return alive


def _files(folder: Path) -> list[Path]:
    """Those of openers. Whatever else somebody put there is not ours."""
    try:
        return sorted(path for path in (folder / OPENERS).iterdir() if _ID.fullmatch(path.name) and is_plain(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
