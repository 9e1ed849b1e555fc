"""casckpt: an incremental, content-addressed checkpoint store for PyTorch training, with git-like history.

Names are imported when they are first used, so that looking at a store does not wait for torch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers see it; to import `typing` would take nearly as long as Python itself to start
if TYPE_CHECKING:
    from typing import Any

    from casckpt.history.commits import Commit as Commit
    from casckpt.history.retention import Keep as Keep
    from casckpt.history.salvage.run import salvage as salvage
    from casckpt.tensors.codecs import register as register
    from casckpt.tensors.dropin import load as load
    from casckpt.tensors.dropin import save as save
    from casckpt.tensors.open import open_repository as open
    from casckpt.tensors.repository import Repository as Repository
    from casckpt.training.checkpointer import Checkpointer as Checkpointer

__version__ = "0.1.0"

_HOME = {
    "Checkpointer": ("casckpt.training.checkpointer", "Checkpointer"),
    "Commit": ("casckpt.history.commits", "Commit"),
    "Keep": ("casckpt.history.retention", "Keep"),
    "Repository": ("casckpt.tensors.repository", "Repository"),
    "load": ("casckpt.tensors.dropin", "load"),
    "open": ("casckpt.tensors.open", "open_repository"),
    "register": ("casckpt.tensors.codecs", "register"),
    "salvage": ("casckpt.history.salvage.run", "salvage"),
    "save": ("casckpt.tensors.dropin", "save"),
}

__all__ = ["Checkpointer", "Commit", "Keep", "Repository", "load", "open", "register", "salvage", "save"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'casckpt' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOME[name]
    found = globals()[name] = getattr(import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
