"""What hostile input must never bring about, seen by Python's audit hook: code that runs, files that are written, doors
that are opened. The hook stays for as long as the process lives, so it is set in children only."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

_NEVER: Final = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn"),
    *("pickle.find_class", "marshal.load", "marshal.loads", "ctypes.dlopen", "webbrowser.open"),
)
_CHANGES: Final = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


class Caught(BaseException):
    """Something that must not happen; no handler of errors takes it for one."""


def guard(folder: str) -> None:
    """From here on this process raises `Caught` where anything is run, or written outside of a folder."""
    inside = os.path.realpath(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                _check(inside, path)
        elif event in ("exec", "marshal.loads", "code.__new__"):
            if not _by_python(sys._getframe(1)):
                raise Caught(f"{event} {arguments}")
        elif event == "ctypes.dlopen" and arguments == (None,):
            return  # the program itself
        elif event in _NEVER or (event.startswith("socket.") and event != "socket.gethostname"):
            raise Caught(f"{event} {arguments}")
        elif event in _CHANGES:
            for path in arguments:
                if isinstance(path, (str, bytes)):
                    _check(inside, path)

    sys.addaudithook(hook)


def _check(inside: str, path: str | bytes) -> None:
    found = os.path.realpath(os.fsdecode(path))
    if found != os.devnull and os.path.commonpath([inside, found]) != inside:
        raise Caught(f"{found} was to be changed")


# Where Python itself runs code: its imports; what makes the functions of a class, of named tuples from names that are
# checked before; and what has hypothesis run examples.
_PYTHONS_OWN: Final = (
    ("collections/__init__.py", ("namedtuple",)),
    ("dataclasses.py", ("_create_fn",)),
    ("hypothesis/internal/*.py", ()),
)


def _by_python(frame: FrameType) -> bool:
    """Whether what runs code right here is Python itself, or hypothesis; what `no_code` has put around it runs none."""
    while frame.f_back is not None and Path(frame.f_code.co_filename).match("tests/trials/no_code.py"):
        frame = frame.f_back
    file, function = frame.f_code.co_filename, frame.f_code.co_name
    return file.startswith("<frozen importlib") or any(
        Path(file).match(end) and (not functions or function in functions) for end, functions in _PYTHONS_OWN
    )
