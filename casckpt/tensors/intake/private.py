"""A copy of a checkpoint in memory that nobody else writes to, for as long as it is read.

Files are read by mapping them, and a map of a file that its writer cuts off meanwhile ends the process. Whoever reads
what is still written to (`latest.pt`, again and again) therefore reads such a copy: as many bytes of memory as the
files have, and none on any disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from casckpt.errors import ImportFormatError
from casckpt.tensors.shards import shards_of

# Bytes handed to the kernel at once; a signal is answered in between.
_PIECE: Final = 64 << 20


@contextmanager
def private_copy(path: Path) -> Iterator[Path]:
    """A path of the same name, under which the file or folder can be read until the block ends.

    Raises:
        ImportFormatError: it cannot be read, or there is no memory for it.
    """
    with ExitStack() as stack:
        try:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="casckpt-"))) / path.name
            if path.is_dir():
                place.mkdir()
                for item in sorted(path.iterdir()):
                    _copy(item, place / item.name, stack)
            else:
                for item in (path, *(path.parent / name for name in shards_of(path))):
                    _copy(item, place.parent / item.name, stack)
        except OSError as error:
            raise ImportFormatError(f"cannot be read: {error.strerror}", file=str(path)) from error
        yield place


def _copy(path: Path, place: Path, stack: ExitStack) -> None:
    if path.is_file():
        place.symlink_to(f"/proc/self/fd/{_copied(path, stack)}")
    else:
        place.mkdir()  # of a folder in a folder, and whatever else is not read, only the name is told


def _copied(path: Path, stack: ExitStack) -> int:
    """The file's bytes in memory, as a descriptor that the stack closes."""
    memory = os.memfd_create(path.name[:200], os.MFD_CLOEXEC)
    stack.callback(os.close, memory)
    with path.open("rb") as file:
        while os.sendfile(memory, file.fileno(), None, _PIECE):
            pass
    return memory
