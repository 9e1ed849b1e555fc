"""Whatever could run code out of data raises in all of the test run, where it is casckpt that comes to it.

No load, restore, import, export or check may ever unpickle, or run what it made up. What Python, torch and the tests do
for themselves is left alone: it is told by who calls.
"""

from __future__ import annotations

import _pickle
import collections
import marshal
import multiprocessing
import pickle
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import torch

# Not of the imported package: what is imported before coverage begins is not counted.
_OURS: Final = str(Path(__file__).parents[2] / "casckpt") + "/"
# These run what they make of names that they have checked (namedtuple), the program's own annotations (msgspec's), and
# unpickle what the program's own processes send (the workers of a data loader).
_MAY: Final = (collections.__file__, typing.__file__, str(Path(multiprocessing.__file__).parent))
_TORCH: Final = str(Path(torch.__file__).parent)


class RanCodeError(BaseException):
    """Something could have run code; no handler of errors takes it for one."""


def _below_ours() -> bool:
    """Whether a function of casckpt's is at work in this thread, above any test that it may have called back."""
    for code in (frame.f_code for frame in _frames(sys._getframe(2))):
        if code.co_filename.startswith(_MAY) or _is_module(code):
            return False  # the program's own code, on its way in
        if code.co_filename.startswith(_OURS):
            return True
    return False


def _is_module(code: CodeType) -> bool:
    return code.co_name == "<module>" or code.co_filename.startswith("<frozen importlib")


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


class _Unpickler(_pickle.Unpickler):
    """One that nothing of casckpt's may make; others may, and may have subclasses of it."""

    def __init__(self, *given: Any, **more: Any) -> None:
        if _below_ours():
            raise RanCodeError("an Unpickler was made")
        super().__init__(*given, **more)


def _not_by_us(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which nothing of casckpt's may come to."""

    def checked(*given: Any, **more: Any) -> Any:
        if _below_ours():
            raise RanCodeError(f"{function.__qualname__} was called")
        return function(*given, **more)

    return checked


def _only_weights(load: Callable[..., Any]) -> Callable[..., Any]:
    """torch.load, which casckpt may call with weights_only alone."""

    def checked(*given: Any, **more: Any) -> Any:
        if _below_ours() and more.get("weights_only") is not True:
            raise RanCodeError("torch.load was called without weights_only")
        return load(*given, **more)

    return checked


def forbid() -> None:
    """Patch all of it, for as long as this process lives; before any test is imported."""
    for module in (pickle, _pickle):
        for name in ("load", "loads"):
            setattr(module, name, _not_by_us(getattr(module, name)))
        module.Unpickler = _Unpickler  # type: ignore[attr-defined]
    pickle._Unpickler = _Unpickler  # type: ignore[attr-defined]
    for name in ("load", "loads"):
        setattr(marshal, name, _not_by_us(getattr(marshal, name)))
    torch.load = _only_weights(torch.load)
    sys.addaudithook(_watch)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """C calls these by other ways than their names: exec, eval, and pickle's own look for what a name stands for."""
    if event == "exec" and sys._getframe(1).f_code.co_filename.startswith(_TORCH):
        return  # it makes functions of the schemas of its own operators; what it unpickles is seen by the others
    if event in ("exec", "pickle.find_class", "os.system", "os.exec", "os.posix_spawn") and _below_ours():
        raise RanCodeError(f"{event} {arguments}")
