"""Put a folder in the place of another at once: nobody ever finds neither, or half of one."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def put_folder(new: Path, target: Path, *, overwrite: bool) -> None:
    """Have `new` at `target`. An empty folder there is just replaced; of any other it takes the place if it may, and
    what was there is at `new` afterwards.

    Raises:
        OSError
    """
    try:
        new.rename(target)  # over nothing, or an empty folder
    except OSError as error:
        if not overwrite or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _exchange(new, target)


def _exchange(new: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOTSUP, "this system cannot replace a folder at once; remove it first")
    if libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
