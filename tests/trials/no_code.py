"""A plugin for pytest: whatever could run code out of data raises while the tests run. `-p tests.trials.no_code`.

It is for tests that load, restore, import, export and check, none of which may ever unpickle. What Python, torch and
the test run do for themselves is left alone: it is told by who calls.
"""

from __future__ import annotations

import _pickle
import marshal
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import casckpt

_OURS = str(Path(casckpt.__file__).parent)


class RanCodeError(BaseException):
    """Something could have run code; no handler of errors takes it for one."""


def _below_ours() -> bool:
    """Whether a function of casckpt's is at work in this thread, above any test that it may have called back."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):  # an import of the program's own
            return False
        if frame.f_code.co_filename.startswith(_OURS):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


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


def pytest_configure() -> None:
    """Patch all of it before any test is imported."""
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
    if event == "pickle.find_class" and _below_ours():
        raise RanCodeError(f"unpickling {arguments}")
    if event in ("os.system", "os.exec", "os.posix_spawn") and _below_ours():
        raise RanCodeError(f"{event} {arguments}")
